"""MoDo: one projected step a step on the min-norm weights, from independent batches.

Chen, Fernando, Ying & Chen, "Three-Way Trade-Off in Multi-Objective Learning: Optimization, Generalization and
Conflict-Avoidance", NeurIPS 2023, JMLR 2024, https://arxiv.org/abs/2305.20057.

    w <- P(w - gamma (A w + rho w)),   A = J_xi J_xi'^T;      d = J^T w

J: [T, P]; A: [T, T], not symmetric, an unbiased estimate of the Gramian where xi and xi' are independent batches;
w: [T], kept from step to step; P: the projection onto the simplex. Not invariant to the scale of the gradients: gamma
is a learning rate in their units.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.solvers import project_simplex
from mtjax.optim.stacked import drop_inactive


class ModoState(NamedTuple):
  """w: [T], on the simplex."""
  w: jax.Array


def modo_weights(a: jax.Array, w: jax.Array, active: jax.Array, gamma: float, rho: float) -> jax.Array:
  """One step: a [T, T] (inactive rows and columns 0), w [T] -> w [T]."""
  return project_simplex(w - gamma * (a @ w + rho * w), active)


def modo(gamma: float = 0.01, rho: float = 0.1, scale_heads: bool = False) -> base.Aggregator:
  """MoDo as an optax transform of stacked gradients.

  Args:
    gamma: learning rate of w.
    rho: pull towards equal weights.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.modo(gamma=0.1), optax.sgd(1.0))
    >>> jac, other = {'w': jnp.array([[2., 0], [0, 1]])}, {'w': jnp.array([[1., 0], [0, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(2)}), jac_other=other)
    >>> print(updates['w'])
    [-0.95  -0.525]
  """
  check_number(gamma, 'modo', 'gamma', 0)
  check_number(rho, 'modo', 'rho', 0)

  def init(num_tasks):
    return ModoState(jnp.full(num_tasks, 1 / max(num_tasks, 1)))

  def weights(state, info):
    active = info.mask
    a = drop_inactive(info.gramian, active, 0)
    w = modo_weights(a, project_simplex(state.w.astype(a.dtype), active), active, gamma, rho)
    kept = jnp.where(active, w, state.w.astype(a.dtype))
    return w, ModoState(kept.astype(state.w.dtype))

  return base.from_weights(weights, name='modo', needs='gramian', init=init, scale_heads=scale_heads,
                           double_sampling=True)
