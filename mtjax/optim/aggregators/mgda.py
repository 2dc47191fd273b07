"""MGDA: the shortest vector in the convex hull of the task gradients.

Desideri, "Multiple-gradient descent algorithm (MGDA)", Comptes Rendus Mathematique 350, 2012; for networks Sener &
Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, https://arxiv.org/abs/1810.04650.

    w* = argmin_{w >= 0, sum(w) = 1} ||sum_t w_t g_t||^2 = argmin w^T G w,     d = sum_t w*_t g_t

G = J J^T: [T, T], w: [T]. d = 0 exactly at Pareto-stationary points, so also when one of the gradients is 0.
With `normalize` the weights are those of g_t / s_t, s_t = ||g_t||, l_t or l_t ||g_t||; d combines the g_t themselves.
Differs from the authors' code: solved exactly; a hundred Frank-Wolfe steps (solver='fw') are off by percents of ||d||.
"""
import jax
import jax.numpy as jnp

from mtjax.config import did_you_mean
from mtjax.optim import base
from mtjax.optim.solvers import cosines, frank_wolfe, min_norm, unit_trace
from mtjax.optim.stacked import drop_inactive

SOLVERS = ('exact', 'fw')
NORMALIZE = (None, 'l2', 'loss', 'loss+')


def normalised_gramian(gram: jax.Array, losses: jax.Array | None, normalize: str | None) -> jax.Array:
  """The Gramian of g_t / s_t.  gram [T, T], losses [T] -> [T, T]; losses count by their size."""
  if normalize is None:
    return gram
  gram = cosines(gram)[0] if normalize in ('l2', 'loss+') else unit_trace(gram)[0]
  if normalize == 'l2':
    return gram
  sizes = jnp.abs(losses).astype(gram.dtype)
  relative = sizes / jnp.where(sizes.max() > 0, sizes.max(), 1)
  inverse = 1 / jnp.maximum(relative, 1e-6)  # a loss of 0 is as good as one of a millionth of the largest
  return gram * inverse[:, None] * inverse[None, :]


def mgda(solver: str = 'exact', num_iters: int = 100, normalize: str | None = None,
         scale_heads: bool = False) -> base.Aggregator:
  """MGDA as an optax transform of stacked gradients.

  Args:
    solver: 'exact', or 'fw' for Frank-Wolfe.
    num_iters: most Frank-Wolfe steps.
    normalize: None, 'l2', 'loss' or 'loss+'; the latter two need the losses.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.mgda(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(updates['w'].round(3))
    [ 0. -1. -1.]
  """
  weights = make_weights(solver, num_iters, normalize)
  return base.from_weights(weights, name='mgda', needs='gramian', scale_heads=scale_heads)


def make_weights(solver: str, num_iters: int, normalize: str | None):
  """The function (state, info) -> (w, state) of these settings, which it checks."""
  if solver not in SOLVERS:
    raise ValueError(f'mgda: unknown solver {solver!r}. {did_you_mean(solver, SOLVERS)}')
  if num_iters < 1:
    raise ValueError(f'mgda: num_iters must be >= 1, got {num_iters!r}.')
  if normalize not in NORMALIZE:
    raise ValueError(f'mgda: unknown normalize {normalize!r}. {did_you_mean(normalize, NORMALIZE)}')
  solve = min_norm if solver == 'exact' else lambda gram, active: frank_wolfe(gram, active, num_iters)

  def weights(state, info):
    if normalize in ('loss', 'loss+') and info.losses is None:
      raise ValueError(f'mgda: normalize={normalize!r} divides by the losses: pass losses=[T] to update.')
    losses = None if info.losses is None else jnp.where(info.mask, info.losses, 0)
    gram = normalised_gramian(drop_inactive(info.gramian, info.mask, 0), losses, normalize)
    return solve(gram, info.mask), state

  return weights
