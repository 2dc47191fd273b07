"""Linear scalarisation (equal weights by default): the plain sum or mean of losses, the baseline of everything else.

Kurin et al., "In Defense of the Unitary Scalarization for Deep Multi-Task Learning", NeurIPS 2022,
https://arxiv.org/abs/2201.04122; Xin et al., "Do Current Multi-Task Optimization Methods in Deep Learning Even Help?",
NeurIPS 2022, https://arxiv.org/abs/2209.11379.

    L = sum_t c_t l_t   or   L = 1/T sum_t c_t l_t

l, c: [T]. Learning rates in the literature assume one or the other; LibMTL's EW is the sum. T counts active tasks.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_preference
from mtjax.optim.weightings._common import clean, losses_of, weighted_sum


def linear_weights(coefficients: jax.Array, active: jax.Array, reduction: str) -> jax.Array:
  """c [T], or c / T for reduction 'mean'; 0 for inactive tasks.  -> [T]"""
  w = jnp.where(active, coefficients, 0)
  return w if reduction == 'sum' else w / jnp.maximum(jnp.sum(active, dtype=w.dtype), 1)


def linear_scalarisation(weights: Sequence[float] | None = None, reduction: str = 'sum', *,
                         scale_heads: bool = True) -> base.Aggregator:
  """Fixed weights, as an optax transform of stacked gradients.

  Args:
    weights: c, one a task, >= 0; None = 1 each.
    reduction: 'sum' or 'mean' over tasks.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.linear_scalarisation([2.0, 1.0], 'mean'), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.ones(2))
    >>> updates['w'].tolist()
    [-1.0, -0.5]
  """
  name = 'linear_scalarisation'
  if reduction not in ('sum', 'mean'):
    raise ValueError(f"{name}: reduction must be 'sum' or 'mean', got {reduction!r}.")
  check_preference(weights, name, field='weights')

  def weights_of(losses, active):
    chosen = check_preference(weights, name, losses.shape[0], 'weights')
    c = jnp.ones_like(losses) if chosen is None else jnp.asarray(chosen, losses.dtype)
    return linear_weights(c, active, reduction)

  def step(state, info):
    return weights_of(losses_of(info, name), info.mask), state

  def scalarise(losses, state, active):
    losses = clean(losses, active)
    return weighted_sum(weights_of(losses, active), losses)

  return base.from_weights(step, name=name, needs='losses', scalarise=scalarise, scale_heads=scale_heads)


ew = linear_scalarisation
