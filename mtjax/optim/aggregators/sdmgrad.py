"""SDMGrad: the min-norm direction pulled towards a preference, from two independent batches.

Xiao, Ban & Ji, "Direction-oriented Multi-objective Learning: Simple and Provable Stochastic Algorithms", NeurIPS 2023,
https://arxiv.org/abs/2305.18409.

    min_{w in simplex} 1/2 ||J^T (w + lambda w~)||^2,    stochastic gradient A (w + lambda w~),  A = J_xi J_xi'^T
    d = J^T (w + lambda w~) / (1 + lambda)

J: [T, P]; A: [T, T], not symmetric, an unbiased estimate where xi and xi' are independent batches; w: [T], kept from
step to step; w~: [T], the preference. Each step runs projected gradient descent with momentum on w, on A divided by
(mean_t sqrt(A_tt))^2.
Differs from the authors' code: that divisor is bounded below relative to A rather than by 1e-8, so that the scale of
the gradients does not matter.
"""
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_count, check_number, check_preference
from mtjax.optim.solvers import project_simplex
from mtjax.optim.stacked import drop_inactive, shares


class SdmgradState(NamedTuple):
  """w: [T], on the simplex; where the next step's descent starts."""
  w: jax.Array


def unit_scale(a: jax.Array, active: jax.Array) -> jax.Array:
  """A over the squared mean length of the active rows.  a [T, T] -> [T, T]"""
  lengths = jnp.sqrt(jnp.maximum(jnp.diagonal(a), 0))             # two batches may disagree so far that A_tt < 0
  scale = (lengths.sum() / jnp.maximum(active.sum(), 1).astype(a.dtype)) ** 2
  scale = jnp.maximum(scale, 1e-8 * jnp.abs(a).max())
  return a / jnp.where(scale > 0, scale, 1)


def sdmgrad_weights(a: jax.Array, w: jax.Array, target: jax.Array, active: jax.Array, lambda_: float,
                    learning_rate: float, momentum: float, num_iters: int) -> jax.Array:
  """Projected descent: a [T, T] (inactive rows and columns 0), start w [T], preference `target` [T] -> w [T]."""
  a = unit_scale(a, active)

  def descend(_, carry):
    w, velocity = carry
    velocity = momentum * velocity + a @ (w + lambda_ * target)
    return project_simplex(w - learning_rate * velocity, active), velocity

  return jax.lax.fori_loop(0, num_iters, descend, (w, jnp.zeros_like(w)))[0]


def sdmgrad(lambda_: float = 0.3, learning_rate: float = 10.0, momentum: float = 0.5, num_iters: int = 20,
            preference: Sequence[float] | None = None, scale_heads: bool = False) -> base.Aggregator:
  """SDMGrad as an optax transform of stacked gradients.

  Args:
    lambda_: pull towards the preference; 0 = the min-norm direction, infinity = the mean weighted by it.
    learning_rate, momentum, num_iters: of the descent on w in each step. The momentum starts from 0 every time.
    preference: w~ up to a factor, one number >= 0 a task; None = equal.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.sdmgrad(), optax.sgd(1.0))
    >>> jac, other = {'w': jnp.array([[1., 0], [0, 1]])}, {'w': jnp.array([[1., 0.5], [-0.5, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(2)}), jac_other=other)
    >>> print(updates['w'].round(2))
    [-0.88 -0.12]
  """
  check_number(lambda_, 'sdmgrad', 'lambda_', 0)
  check_number(learning_rate, 'sdmgrad', 'learning_rate', 0, open_low=True)
  check_number(momentum, 'sdmgrad', 'momentum', 0, 1, open_high=True)
  check_count(num_iters, 'sdmgrad', 'num_iters', 1)
  preference = check_preference(preference, 'sdmgrad')

  def init(num_tasks):
    return SdmgradState(jnp.full(num_tasks, 1 / max(num_tasks, 1)))

  def weights(state, info):
    check_preference(preference, 'sdmgrad', info.num_tasks)
    active = info.mask
    a = drop_inactive(info.gramian, active, 0)
    target = shares(preference, active, a.dtype)
    start = project_simplex(state.w.astype(a.dtype), active)
    w = sdmgrad_weights(a, start, target, active, lambda_, learning_rate, momentum, num_iters)
    kept = jnp.where(active, w, state.w.astype(a.dtype))
    return (w + lambda_ * target) / (1 + lambda_), SdmgradState(kept.astype(state.w.dtype))

  return base.from_weights(weights, name='sdmgrad', needs='gramian', init=init, scale_heads=scale_heads,
                           double_sampling=True)
