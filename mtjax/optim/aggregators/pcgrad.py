"""PCGrad: each gradient loses its part along every gradient that it conflicts with, then all are added.

Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1, https://arxiv.org/abs/2001.06782.

    g'_i = g_i;  for j != i in random order, if g'_i . g_j < 0:  g'_i <- g'_i - (g'_i . g_j / ||g_j||^2) g_j
    d = sum_i g'_i

G = J J^T: [T, T]. g'_i = sum_j K_ij g_j with K: [T, T], at first the identity, so that g'_i . g_j = (K G)_ij; w is the
column sums of K. Every i has an order of its own, drawn anew at every step.
Differs from the authors' code: all rows at once, one loop over positions; rows of zeros are skipped.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.config import did_you_mean
from mtjax.optim import base
from mtjax.optim.solvers import unit_trace
from mtjax.optim.stacked import drop_inactive

REDUCTIONS = ('sum', 'mean')


class PCGradState(NamedTuple):
  """What draws depend on.

  Attributes:
    count: int32, updates so far.
  """

  count: jax.Array


def random_orders(key: jax.Array, num_tasks: int) -> jax.Array:
  """[T, T] int32, an independent random order of the tasks in every row."""
  identity = jnp.broadcast_to(jnp.arange(num_tasks, dtype=jnp.int32), (num_tasks, num_tasks))
  return jax.random.permutation(key, identity, axis=1, independent=True)


def pcgrad_coefficients(gram: jax.Array, orders: jax.Array) -> jax.Array:
  """K [T, T] with g'_i = sum_j K_ij g_j.  gram [T, T], orders [T, n]: row i the tasks that i meets."""
  rows = jnp.arange(len(gram))
  squares = jnp.diagonal(gram)

  def meet(position, k):
    j = orders[:, position]
    product = jnp.sum(k * gram[j], axis=1)             # g'_i . g_j
    conflict = (product < 0) & (j != rows) & (squares[j] > jnp.finfo(gram.dtype).tiny)
    return k.at[rows, j].add(jnp.where(conflict, -product / jnp.where(conflict, squares[j], 1), 0))

  return jax.lax.fori_loop(0, orders.shape[1], meet, jnp.eye(len(gram), dtype=gram.dtype))


def pcgrad(reduction: str = 'sum', seed: int = 0, scale_heads: bool = False) -> base.Aggregator:
  """PCGrad as an optax transform of stacked gradients.

  Args:
    reduction: 'sum' of the projected gradients, or their 'mean'.
    seed: of the orders, where `update` is given no key.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.pcgrad(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.58 -3.80 -3.80
  """
  if reduction not in REDUCTIONS:
    raise ValueError(f'pcgrad: unknown reduction {reduction!r}. {did_you_mean(reduction, REDUCTIONS)}')

  def weights(state, info):
    active = info.mask
    gram, _ = unit_trace(drop_inactive(info.gramian, active, 0))
    coefficients = pcgrad_coefficients(gram, random_orders(base.step_key(info, seed, state.count), len(gram)))
    w = jnp.where(active[:, None], coefficients, 0).sum(0)
    return w / jnp.maximum(active.sum(), 1) if reduction == 'mean' else w, PCGradState(state.count + 1)

  return base.from_weights(weights, name='pcgrad', needs='gramian', scale_heads=scale_heads,
                           init=lambda num_tasks: PCGradState(jnp.int32(0)))
