"""Nash-MTL: the update as the bargaining solution among tasks.

Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, https://arxiv.org/abs/2202.01017.

    G w = 1 / w (elementwise), w > 0;    d = J^T w, so that d . g_t = 1 / w_t and ||d||^2 = T

G = J J^T: [T, T], w: [T]. Unchanged by a common scale of the gradients; the weights go with its inverse. Where ||d||
exceeds `max_norm` the weights are scaled down to it, ||d|| = sqrt(w^T G w).
Differs from the authors' code: Newton's method on the convex potential instead of a sequence of convex programs, which
at times ends far from a solution; the clip is part of the weights, so heads feel it too. Near weakly stationary points,
where w grows without bound, the spectrum of G is raised (see `solvers.newton`). A row of zeros gets weight 1.
"""
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.solvers import fair_weights, unit_trace
from mtjax.optim.stacked import drop_inactive


class NashMTLState(NamedTuple):
  """What is reused between solutions.

  Attributes:
    w: [T], the last solution, 0 for tasks that were not part of it.
    count: int32, updates so far.
  """

  w: jax.Array
  count: jax.Array


def clip_weights(gram: jax.Array, w: jax.Array, max_norm: float) -> jax.Array:
  """w scaled down so that ||J^T w|| <= max_norm.  gram [T, T], w [T] -> [T]."""
  gram, trace = unit_trace(gram)
  norm = jnp.sqrt(jnp.maximum(w @ gram @ w, 0)) * jnp.sqrt(trace)
  return w * jnp.minimum(1, max_norm / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny))


def nash_mtl(max_norm: float | None = 1.0, every_k: int = 1, regularisation: float = 1e-6, num_iters: int = 30,
             scale_heads: bool = True) -> base.Aggregator:
  """Nash-MTL as an optax transform of stacked gradients.

  Args:
    max_norm: of the update; None, 0 or infinity = no clip, then ||d|| = sqrt(T).
    every_k: solve at every k-th update only (and when a task joins), use the last weights in between.
    regularisation: the smallest eigenvalue that the matrix of cosines is given.
    num_iters: most Newton steps.
    scale_heads: whether w multiplies the gradients of task-owned parameters too, as in the authors' code.

  Example:
    >>> tx = optax.chain(mtjax.optim.nash_mtl(max_norm=None), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.08 -1.00 -1.00
  """
  if max_norm is not None and not max_norm >= 0:
    raise ValueError(f'nash_mtl: max_norm must be a number >= 0, or None for no clip, got {max_norm!r}.')
  clipped = max_norm not in (None, 0, math.inf)
  check_number(regularisation, 'nash_mtl', 'regularisation', 0)
  for field, value in dict(every_k=every_k, num_iters=num_iters).items():
    if value < 1:
      raise ValueError(f'nash_mtl: {field} must be >= 1, got {value!r}.')

  def solve(gram, active):
    return fair_weights(gram, 1.0, active, num_iters=num_iters, regularisation=regularisation)

  def clip(gram, w):
    return clip_weights(gram, w, max_norm) if clipped else w

  def weights(state, info):
    gram = drop_inactive(info.gramian, info.mask, 0)
    return clip(gram, solve(gram, info.mask)), state

  def init(num_tasks):
    return NashMTLState(jnp.zeros(num_tasks), jnp.int32(0))

  def reused_weights(state, info):
    gram = drop_inactive(info.gramian, info.mask, 0)
    last = state.w.astype(gram.dtype)
    due = (state.count % every_k == 0) | (info.mask & (last == 0)).any()
    w = jax.lax.cond(due, lambda: solve(gram, info.mask), lambda: jnp.where(info.mask, last, 0))
    return clip(gram, w), NashMTLState(w.astype(state.w.dtype), state.count + 1)

  if every_k == 1:
    return base.from_weights(weights, name='nash_mtl', needs='gramian', scale_heads=scale_heads)
  return base.from_weights(reused_weights, name='nash_mtl', needs='gramian', init=init, scale_heads=scale_heads)
