"""MGDA-UB: MGDA on the gradients of a shared representation, at the cost of a plain step.

Sener & Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, section 3.3,
https://arxiv.org/abs/1810.04650.

    u_t = dl_t / dz, z = f_theta(x);    w* = argmin_{w >= 0, sum(w) = 1} ||sum_t w_t u_t||^2
    d = (dz/dtheta)^T sum_t w*_t u_t

z: [N, p], u: [T, N, p], w: [T]. An upper bound of MGDA's objective, with the same stationary points where dz/dtheta has
full row rank. This is MGDA marked `at='features'`: it is to be given the stacked u_t and returns the cotangent
sum_t w_t u_t, which one backward pass takes to theta.
With statistic='summed' the weights come from the u_t summed over the batch, [T, p], as in LibMTL: weaker, and cheaper
to reduce over devices.
"""
import jax

from mtjax.config import did_you_mean
from mtjax.optim import base
from mtjax.optim.aggregators.mgda import make_weights
from mtjax.optim.stacked import combine, gramian

STATISTICS = ('flattened', 'summed')


def mgda_ub(solver: str = 'exact', num_iters: int = 100, normalize: str | None = None, statistic: str = 'flattened',
            scale_heads: bool = False) -> base.Aggregator:
  """MGDA-UB as an optax transform of stacked representation gradients.

  Args:
    solver, num_iters, normalize, scale_heads: as in `mgda`.
    statistic: 'flattened' over batch and features (the paper), or 'summed' over the batch, axis 1 of every leaf.

  Example:
    >>> tx = mtjax.optim.mgda_ub()
    >>> tx.at
    'features'
  """
  if statistic not in STATISTICS:
    raise ValueError(f'mgda_ub: unknown statistic {statistic!r}. {did_you_mean(statistic, STATISTICS)}')
  weights = make_weights(solver, num_iters, normalize)

  def aggregate(jac, state, info):
    summed = jax.tree.map(lambda u: u.sum(1), jac)
    w, state = weights(state, info.replace(gramian=gramian(summed, info.active)))
    return combine(jac, w), w, state

  if statistic == 'flattened':
    tx = base.from_weights(weights, name='mgda_ub', needs='gramian', scale_heads=scale_heads)
  else:
    tx = base.from_jacobian(aggregate, name='mgda_ub', scale_heads=scale_heads)
  tx.at = 'features'
  return tx
