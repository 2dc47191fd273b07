"""RLW: random loss weights, drawn anew each step. A litmus test: what does not beat it does not balance.

Lin et al., "Reasonable Effectiveness of Random Weighting: A Litmus Test for Multi-Task Learning", TMLR 2022,
https://arxiv.org/abs/2111.10603.

    z ~ N(0, I_T),  w = softmax(z),    L = sum_t w_t l_t,    E[w_t] = 1/T

w: [T], sum 1. With `scale_heads=False` it is the paper's RGW, the same weights on shared gradients alone. Other draws:
'uniform' (softmax of U(0, 1)), 'dirichlet' (flat on the simplex), 'one_task' (all the weight on one task at random).
The t-th *active* task takes the t-th draw, so that an inactive task is as if it did not exist.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim.weightings._common import clean, losses_of, weighted_sum

KINDS = ('normal', 'uniform', 'dirichlet', 'one_task')


class RLWState(NamedTuple):
  """The count of draws.

  Attributes:
    count: int32, steps so far.
  """
  count: jax.Array


def random_weights(key: jax.Array, active: jax.Array, kind: str = 'normal', dtype=jnp.float32) -> jax.Array:
  """Draws w [T], >= 0, sum 1, 0 for inactive tasks."""
  rank = jnp.maximum(jnp.cumsum(active) - 1, 0)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rank)
  draw = jax.random.normal if kind in ('normal', 'one_task') else jax.random.uniform
  z = jax.vmap(lambda k: draw(k, dtype=dtype))(keys)
  if kind == 'one_task':
    top = jnp.argmax(jnp.where(active, z, -jnp.inf))
    return jnp.where(active, jax.nn.one_hot(top, active.shape[0], dtype=dtype), 0)
  if kind == 'dirichlet':
    z = jnp.log(-jnp.log1p(-z) + jnp.finfo(dtype).tiny)     # exponential variables, divided by their sum
  return jax.nn.softmax(z, where=active)


def rlw(seed: int = 0, kind: str = 'normal', *, scale_heads: bool = True) -> base.Aggregator:
  """Random weights, as an optax transform of stacked gradients.

  Args:
    seed: of the draws where `update` is given no key.
    kind: 'normal', 'uniform', 'dirichlet' or 'one_task'.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.rlw(seed=1), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.ones(2))
    >>> print(round(float(updates['w'].sum()), 5))
    -1.0
  """
  name = 'rlw'
  if kind not in KINDS:
    raise ValueError(f'{name}: kind must be one of {KINDS}, got {kind!r}.')
  if not isinstance(seed, int):
    raise ValueError(f'{name}: seed must be a whole number, got {seed!r}.')

  def weights(state, info):
    losses = losses_of(info, name)
    w = random_weights(base.step_key(info, seed, state.count), info.mask, kind, losses.dtype)
    return w, RLWState(state.count + 1)

  def scalarise(losses, state, active):
    losses = clean(losses, active)
    key = base.step_key(base.Info(), seed, state.count)
    return weighted_sum(random_weights(key, active, kind, losses.dtype), losses)

  return base.from_weights(weights, name=name, needs='losses', scalarise=scalarise, scale_heads=scale_heads,
                           init=lambda num_tasks: RLWState(jnp.zeros((), jnp.int32)))
