"""Geometric loss strategy (GLS): the geometric mean of the losses.

Chennupati et al., "MultiNet++: Multi-Stream Feature Aggregation and Geometric Loss Strategy for Multi-Task Learning",
CVPR Workshops 2019, https://arxiv.org/abs/1904.08492.

    L = (prod_t l_t)^(1/T),    weights L / (T l_t)

l: [T] > 0; a loss below 1e-12 (0 or negative too) counts as 1e-12. T counts active tasks. Computed through logarithms,
so that no product over- or underflows.
"""
import jax
import jax.numpy as jnp

from mtjax.optim import base, stacked
from mtjax.optim.weightings._common import at_least, clean, losses_of


def geometric_mean(losses: jax.Array, active: jax.Array) -> jax.Array:
  """The geometric mean over the active tasks: [T] -> scalar."""
  return jnp.exp(jnp.sum(stacked.equal_shares(active, losses.dtype) * jnp.log(at_least(losses))))


def geometric(*, scale_heads: bool = True) -> base.Aggregator:
  """The geometric mean of the losses, as an optax transform of stacked gradients.

  Args:
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.geometric(), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.array([1.0, 4.0]))
    >>> [round(float(x), 4) for x in updates['w']]
    [-1.0, -0.25]
  """
  name = 'geometric'

  def weights(state, info):
    losses, active = losses_of(info, name), info.mask
    return geometric_mean(losses, active) * stacked.equal_shares(active, losses.dtype) / at_least(losses), state

  def scalarise(losses, state, active):
    return geometric_mean(clean(losses, active), active)

  return base.from_weights(weights, name=name, needs='losses', scalarise=scalarise, scale_heads=scale_heads)


gls = geometric
