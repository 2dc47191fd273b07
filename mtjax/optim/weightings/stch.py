"""STCH: smooth Tchebycheff scalarisation, a soft maximum of the weighted losses.

Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024,
https://arxiv.org/abs/2402.19078.

    L = mu log sum_t exp(lambda_t (l_t - z*_t) / mu),    weights lambda * softmax(lambda (l - z*) / mu)

l, lambda (preference), z* (ideal): [T]; lambda on the simplex of active tasks. As mu -> 0, L becomes the maximum of
lambda_t (l_t - z*_t). The paper's recipe for deep multitask learning, chosen by `nadir_steps`:

    sum_t log l_t for `warmup_steps`; the same for `nadir_steps` more, over which losses are averaged to the nadir n;
    then L = T mu log sum_t exp(log(l_t / n_t) / mu),    weights T softmax(log(l / n) / mu) / l

Steps are counted for each task, and T counts the active tasks that are past their nadir. In the recipe, losses below
1e-12 (0 or negative too) count as 1e-12.
"""
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtjax.optim import base, stacked
from mtjax.optim._checks import check_number, check_preference
from mtjax.optim.weightings import _common


class STCHState(NamedTuple):
  """The nadir in the making.

  Attributes:
    steps: [T] int32, steps of each task.
    sums: [T], of its losses over the nadir's steps.
  """
  steps: jax.Array
  sums: jax.Array


def soft_maximum(x: jax.Array, mu: float, active: jax.Array) -> jax.Array:
  """mu log sum_t exp(x_t / mu) over the active tasks: [T] -> scalar, 0 if there is none."""
  some = jnp.any(active)
  top = jax.lax.stop_gradient(jnp.where(some, jnp.max(jnp.where(active, x, -jnp.inf)), 0))
  powers = jnp.where(active, jnp.exp((jnp.where(active, x, top) - top) / mu), 0)     # <= 1, for all mu
  return top + mu * jnp.log(jnp.where(some, jnp.sum(powers), 1))


def stch_loss(losses: jax.Array, preference: jax.Array, ideal: jax.Array | float, mu: float,
              active: jax.Array) -> jax.Array:
  """L: [T], [T], z* -> scalar."""
  return soft_maximum(preference * (losses - ideal), mu, active)


def stch_recipe(losses: jax.Array, nadir: jax.Array, ready: jax.Array, mu: float, active: jax.Array) -> jax.Array:
  """The recipe's loss: soft maximum over the tasks that are ready, sum of logarithms over the others. -> scalar."""
  logs, ready = jnp.log(_common.at_least(losses)), active & ready
  relative = logs - jnp.log(jnp.maximum(nadir, _common.FLOOR))
  warm = jnp.sum(jnp.where(active & ~ready, logs, 0))
  return warm + jnp.sum(ready, dtype=losses.dtype) * soft_maximum(relative, mu, ready)


def stch(mu: float = 1.0, preference: Sequence[float] | None = None, ideal: float | Sequence[float] = 0.0,
         warmup_steps: int = 0, nadir_steps: int = 0, *, scale_heads: bool = True) -> base.Aggregator:
  """Smooth Tchebycheff, as an optax transform of stacked gradients.

  Args:
    mu: smoothness; the paper tries 0.01, 0.1, 0.5 and 1.
    preference: lambda, one a task, scaled to sum 1; None = equal.
    ideal: z*, a number or one a task.
    warmup_steps: of the recipe (the paper: 4 epochs).
    nadir_steps: of the recipe (the paper: 1 epoch); 0 = the plain L.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.stch(mu=0.5), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(3)}, tx.init({'w': jnp.zeros(3)}), losses=jnp.array([1.0, 2.0, 3.0]))
    >>> [round(float(x), 4) for x in updates['w']]
    [-0.0494, -0.0963, -0.1876]
  """
  name = 'stch'
  check_number(mu, name, 'mu', 0, open_low=True)
  check_preference(preference, name)
  ideal = _common.check_vector(ideal, name, 'ideal')
  for field, value in dict(warmup_steps=warmup_steps, nadir_steps=nadir_steps).items():
    if not isinstance(value, int) or value < 0:
      raise ValueError(f'{name}: {field} must be a whole number >= 0, got {value!r}.')
  if warmup_steps and not nadir_steps:
    raise ValueError(f'{name}: warmup_steps={warmup_steps} needs nadir_steps >= 1, the steps that the nadir is '
                     'averaged over.')
  if nadir_steps and (preference is not None or ideal != 0):
    raise ValueError(f'{name}: the recipe (nadir_steps={nadir_steps}) has no preference and no ideal, got '
                     f'preference={preference!r}, ideal={ideal!r}.')

  def loss(losses, state, active):
    if not nadir_steps:
      num_tasks = losses.shape[0]
      share = stacked.shares(check_preference(preference, name, num_tasks), active, losses.dtype)
      return stch_loss(losses, share, _common.vector(ideal, num_tasks, name, 'ideal'), mu, active)
    ready = state.steps >= warmup_steps + nadir_steps
    return stch_recipe(losses, state.sums / nadir_steps, ready, mu, active)

  def scalarise(losses, state, active):
    return loss(_common.clean(losses, active), state, active)

  def weights(state, info):
    losses, active = _common.losses_of(info, name), info.mask
    w = jax.grad(loss)(losses, state, active)
    if nadir_steps:
      averaged = active & (state.steps >= warmup_steps) & (state.steps < warmup_steps + nadir_steps)
      state = STCHState(_common.keep(active, state.steps + 1, state.steps),
                        _common.keep(averaged, state.sums + losses, state.sums))
    return w, state

  def init(num_tasks):
    return STCHState(jnp.zeros(num_tasks, jnp.int32), jnp.zeros(num_tasks)) if nadir_steps else optax.EmptyState()

  return base.from_weights(weights, name=name, needs='losses', init=init, scalarise=scalarise, scale_heads=scale_heads)
