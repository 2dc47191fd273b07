"""Two losses over the plane, whose gradients conflict and differ much in length; the Pareto set is known.

Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021,
https://arxiv.org/abs/2110.14048.

    f1 = log(max(|.5(-x1 - 7) - tanh(-x2)|, 5e-6)) + 6          s1 = ((-x1 + 7)^2 + .1(-x2 - 8)^2) / 10 - 20
    f2 = log(max(|.5(-x1 + 3) + tanh(-x2) + 2|, 5e-6)) + 6      s2 = ((-x1 - 7)^2 + .1(-x2 - 8)^2) / 10 - 20
    c1 = max(tanh(.5 x2), 0),  c2 = max(tanh(-.5 x2), 0),       L_k = f_k c1 + s_k c2

x: [2]. Above x2 = 0 lie two narrow valleys, one a task; below it a bowl a task. Plain descent on the sum gets stuck in
a valley from two of the three starts.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

STARTS = ((-8.5, 7.5), (-8.5, -5.0), (9.0, 9.0))


def losses(x: jax.Array) -> jax.Array:
  """The losses (L1, L2) at a point: [2] -> [2]."""
  valleys = jnp.stack([0.5 * (-x[0] - 7) - jnp.tanh(-x[1]), 0.5 * (-x[0] + 3) + jnp.tanh(-x[1]) + 2])
  f = jnp.log(jnp.maximum(jnp.abs(valleys), 5e-6)) + 6
  s = (jnp.square(-x[0] + jnp.array([7.0, -7.0])) + 0.1 * jnp.square(-x[1] - 8)) / 10 - 20
  return f * jnp.maximum(jnp.tanh(0.5 * x[1]), 0) + s * jnp.maximum(jnp.tanh(-0.5 * x[1]), 0)


def pareto_set(num: int = 101) -> jax.Array:
  """Points of the Pareto set, from the minimum of L2 to that of L1: [num, 2].

  Of (1 + x1/7)/2 L1 + (1 - x1/7)/2 L2 they are the minima: x1 makes the first derivative vanish, and the second gives
  x2 = -8 + 25 s / (cosh^2(x2/2) tanh(-x2/2)), s being that mixture of s1 and s2.
  """
  x1, x2 = jnp.linspace(-7, 7, num), jnp.full(num, -8.0)
  for _ in range(50):
    s = ((49 - jnp.square(x1)) + 0.1 * jnp.square(x2 + 8)) / 10 - 20
    x2 = -8 + 25 * s / (jnp.square(jnp.cosh(x2 / 2)) * jnp.tanh(-x2 / 2))
  return jnp.stack([x1, x2], axis=1)


def descend(tx: optax.GradientTransformationExtraArgs, start: jax.Array, num_steps: int, every: int = 1,
            fn: Callable[[jax.Array], jax.Array] = losses) -> jax.Array:
  """The path of a multitask optimizer: [2] -> [num_steps / every + 1, 2].

  Args:
    tx: transform of stacked gradients, such as `optax.chain(mtjax.optim.pcgrad(), optax.adam(1e-3))`.
    start: where it begins.
    num_steps: updates; a multiple of `every`.
    every: how many of them lie between two points that are kept.
    fn: point -> losses [T].
  """
  if num_steps % every:
    raise ValueError(f'num_steps must be a multiple of every = {every}, got {num_steps}.')

  def update(_, carry):
    x, state = carry
    values = fn(x)  # nothing is drawn, so these are the losses after the step before, too
    updates, state = tx.update(jax.jacrev(fn)(x), state, x, losses=values, losses_after=values)
    return optax.apply_updates(x, updates), state

  def stretch(carry, _):
    carry = jax.lax.fori_loop(0, every, update, carry)
    return carry, carry[0]

  start = jnp.asarray(start)
  carry = update(0, (start, tx.init(start)))  # before the loops: a state over tasks gets its shape here
  carry = jax.lax.fori_loop(1, every, update, carry)
  _, rest = jax.lax.scan(stretch, carry, length=num_steps // every - 1)
  return jnp.concatenate([start[None], carry[0][None], rest])
