"""IMTL-G: the update whose projections onto all task gradients are equal.

Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, https://openreview.net/forum?id=IMPnRXEWpvr.

    d . g_t / ||g_t|| equal for all t,   d = sum_t w_t g_t,   sum_t w_t = 1
    w ~ N^-1 C^+ 1,    G = N C N,  N = diag(||g_t||)

G = J J^T, C: [T, T], w: [T]. At full rank this is the paper's w_{2:} = g_1 U^T (D U^T)^-1. Weights may be negative, and
where they sum to a negative number before normalisation the update points against the equal-angle direction of ConFIG.
Differs from the paper: pseudo-inverse of the cosines, so that rank-deficient and zero rows are allowed; weights that
sum to 0 (up to rounding) give no update.
"""
import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim.solvers import cosines, pinv_apply
from mtjax.optim.stacked import drop_inactive


def imtl_g_weights(gram: jax.Array, active: jax.Array | None = None) -> jax.Array:
  """gram [T, T] -> w [T], sum(w) = 1 or w = 0."""
  active = jnp.ones(len(gram), bool) if active is None else active
  cosine, norms, inverse = cosines(drop_inactive(gram, active, 0))
  relative = inverse / jnp.maximum(inverse.max(), jnp.finfo(gram.dtype).tiny)
  a = relative * pinv_apply(cosine, (norms > 0).astype(gram.dtype), active.sum())
  total = a.sum()
  least = jnp.maximum(1e-12, active.sum() * jnp.finfo(gram.dtype).eps) * jnp.abs(a).sum()
  return jnp.where(jnp.abs(total) > least, a / jnp.where(total == 0, 1, total), 0)


def imtl_g(scale_heads: bool = False) -> base.Aggregator:
  """IMTL-G as an optax transform of stacked gradients.

  Args:
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.imtl_g(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.08 -1.00 -1.00
  """
  def weights(state, info):
    return imtl_g_weights(info.gramian, info.mask), state

  return base.from_weights(weights, name='imtl_g', needs='gramian', scale_heads=scale_heads)
