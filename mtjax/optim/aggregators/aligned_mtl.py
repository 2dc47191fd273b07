"""Aligned-MTL: the gradients replaced by the nearest system whose condition number is 1.

Senushkin et al., "Independent Component Alignment for Multi-Task Learning", CVPR 2023, https://arxiv.org/abs/2305.19000.

    G = V L V^T,  eigenvalues above the cut, R of them;   B = sqrt(sigma) V_R L_R^(-1/2) V_R^T;   d = J^T w,  w = B p

G = J J^T, B: [T, T]; p: [T], the preference, 1/T by default. All non-zero singular values of J^T B are sqrt(sigma),
with sigma the smallest kept eigenvalue ('min'), their median (the lower of two) or their mean ('rmse').
Differs from the authors' code: the cut is 8 eps T times the largest eigenvalue (1e-6 T in float32) rather than eps T,
since the smallest eigenvalue kept sets the length of the update. LibMTL has p = 1: give it as the preference.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtjax.config import did_you_mean
from mtjax.optim import base
from mtjax.optim._checks import check_preference
from mtjax.optim.aggregators._preference import preference_vector
from mtjax.optim.solvers import hermitian_cut, unit_trace
from mtjax.optim.stacked import drop_inactive

MODES = ('min', 'median', 'rmse')


def aligned_weights(gram: jax.Array, p: jax.Array, mode: str = 'min', size: jax.Array | None = None) -> jax.Array:
  """gram [T, T], p [T] -> w [T].  `size`: the number of rows that count, where others are zeros."""
  gram, _ = unit_trace(gram)                    # B does not depend on the scale of G
  eigenvalues, vectors = jnp.linalg.eigh(gram)  # ascending, so that what is kept comes last
  kept = hermitian_cut(eigenvalues, size)
  rank = kept.sum()
  if mode == 'rmse':
    sigma = jnp.where(kept, eigenvalues, 0).sum() / jnp.maximum(rank, 1)
  else:
    above_lowest = (rank - 1) // 2 if mode == 'median' else 0
    sigma = eigenvalues[jnp.clip(len(gram) - rank + above_lowest, 0, len(gram) - 1)]
  scales = jnp.where(kept, jnp.sqrt(jnp.maximum(sigma, 0) / jnp.where(kept, eigenvalues, 1)), 0)
  return vectors @ (scales * (vectors.T @ p))


def aligned_mtl(mode: str = 'min', preference: Sequence[float] | None = None,
                scale_heads: bool = False) -> base.Aggregator:
  """Aligned-MTL as an optax transform of stacked gradients.

  Args:
    mode: 'min', 'median' or 'rmse', see above.
    preference: p, one number >= 0 a task, used as it is; None = 1/T each.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.aligned_mtl(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.21 -0.97 -0.97
  """
  preference = check_preference(preference, 'aligned_mtl')
  if mode not in MODES:
    raise ValueError(f'aligned_mtl: unknown mode {mode!r}. {did_you_mean(mode, MODES)}')

  def weights(state, info):
    gram = drop_inactive(info.gramian, info.mask, 0)
    p = preference_vector(preference, info.mask, gram.dtype, 'aligned_mtl')
    return aligned_weights(gram, p, mode, info.mask.sum()), state

  return base.from_weights(weights, name='aligned_mtl', needs='gramian', scale_heads=scale_heads)
