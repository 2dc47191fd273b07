"""Scale-invariant linear scalarisation (SI): the sum of the logarithms of the losses.

The baseline of Navon et al., "Multi-Task Learning as a Bargaining Game", ICML 2022, https://arxiv.org/abs/2202.01017.

    L = sum_t log l_t,    weights 1 / l_t

l: [T] > 0; a loss below 1e-12 (0 or negative too) counts as 1e-12.
"""
import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim.weightings._common import at_least, clean, losses_of


def log_sum(losses: jax.Array, active: jax.Array) -> jax.Array:
  """sum_t log l_t over the active tasks: [T] -> scalar."""
  return jnp.sum(jnp.where(active, jnp.log(at_least(losses)), 0))


def scale_invariant(*, scale_heads: bool = True) -> base.Aggregator:
  """Sum of log losses, as an optax transform of stacked gradients.

  Args:
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.scale_invariant(), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.array([0.5, 4.0]))
    >>> updates['w'].tolist()
    [-2.0, -0.25]
  """
  name = 'scale_invariant'

  def weights(state, info):
    return 1 / at_least(losses_of(info, name)), state

  def scalarise(losses, state, active):
    return log_sum(clean(losses, active), active)

  return base.from_weights(weights, name=name, needs='losses', scalarise=scalarise, scale_heads=scale_heads)


si = scale_invariant
