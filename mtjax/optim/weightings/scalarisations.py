"""Classical scalarisations of a vector of losses with a preference: Tchebycheff, COSMOS, PBI.

    tchebycheff  max_t lambda_t (l_t - z*_t)
      Bowman, "On the Relationship of the Tchebycheff Norm and the Efficient Frontier", 1976,
      https://doi.org/10.1007/978-3-642-87563-2_5
    cosmos       sum_t r_t l_t - lambda cos(r, l)
      Ruchte & Grabocka, "Scalable Pareto Front Approximation for Deep Multi-Objective Learning", ICDM 2021,
      https://arxiv.org/abs/2103.13392
    pbi          d_1 + theta d_2,   d_1 = (l - z*)^T u,  d_2 = ||l - z* - d_1 u||,  u = lambda / ||lambda||
      Zhang & Li, "MOEA/D: A Multiobjective Evolutionary Algorithm Based on Decomposition", IEEE TEVC 2007,
      https://doi.org/10.1109/TEVC.2007.892759

l, z* (ideal), lambda or r (preference, scaled to sum 1 over the active tasks): [T]. Weights are the gradients in l, and
may be negative for cosmos and pbi. Equal largest losses share Tchebycheff's weight.
"""
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from mtjax.optim import base, stacked
from mtjax.optim._checks import check_number, check_preference
from mtjax.optim.weightings import _common


def norm(x: jax.Array) -> jax.Array:
  """||x||, with the gradient 0 at 0."""
  scale = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
  scale = jnp.where(scale > 0, scale, 1)
  square = jnp.sum((x / scale) ** 2)
  return scale * jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1)), 0)


def tchebycheff_loss(losses: jax.Array, preference: jax.Array, ideal: jax.Array | float,
                     active: jax.Array) -> jax.Array:
  """[T], [T], z* -> scalar."""
  scaled = jnp.where(active, preference * (losses - ideal), -jnp.inf)
  return jnp.where(jnp.any(active), jnp.max(scaled), 0)


def cosmos_loss(losses: jax.Array, preference: jax.Array, lam: float, active: jax.Array) -> jax.Array:
  """[T], [T] -> scalar."""
  losses = jnp.where(active, losses, 0)
  length = norm(losses)
  unit = losses / jnp.where(length > 0, length, 1)
  return jnp.sum(preference * losses) - lam * jnp.sum(preference * unit) / jnp.maximum(norm(preference), _common.FLOOR)


def pbi_loss(losses: jax.Array, preference: jax.Array, ideal: jax.Array | float, theta: float,
             active: jax.Array) -> jax.Array:
  """[T], [T], z* -> scalar."""
  away = jnp.where(active, losses - ideal, 0)
  unit = preference / jnp.maximum(norm(preference), _common.FLOOR)
  along = jnp.sum(away * unit)
  return along + theta * norm(away - along * unit)


def tchebycheff(preference: Sequence[float] | None = None, ideal: float | Sequence[float] = 0.0, *,
                scale_heads: bool = True) -> base.Aggregator:
  """The largest weighted loss, as an optax transform of stacked gradients.

  Args:
    preference: lambda, one a task; None = equal.
    ideal: z*, a number or one a task.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.tchebycheff(), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.array([1.0, 4.0]))
    >>> updates['w'].tolist()
    [-0.0, -0.5]
  """
  ideal = _common.check_vector(ideal, 'tchebycheff', 'ideal')

  def loss(losses, share, active):
    return tchebycheff_loss(losses, share, _common.vector(ideal, losses.shape[0], 'tchebycheff', 'ideal'), active)

  return _from_loss(loss, 'tchebycheff', preference, scale_heads)


def cosmos(preference: Sequence[float] | None = None, lam: float = 1.0, *, scale_heads: bool = True) -> base.Aggregator:
  """A weighted sum that draws the vector of losses towards the preference, as an optax transform of stacked gradients.

  Args:
    preference: r, one a task; None = equal.
    lam: lambda, how strongly the angle counts.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.cosmos(lam=0.0), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.array([1.0, 4.0]))
    >>> updates['w'].tolist()
    [-0.5, -0.5]
  """
  check_number(lam, 'cosmos', 'lam', 0)
  return _from_loss(lambda losses, share, active: cosmos_loss(losses, share, lam, active), 'cosmos', preference,
                    scale_heads)


def pbi(theta: float = 5.0, preference: Sequence[float] | None = None, ideal: float | Sequence[float] = 0.0, *,
        scale_heads: bool = True) -> base.Aggregator:
  """Penalty-based boundary intersection, as an optax transform of stacked gradients.

  Args:
    theta: the penalty on the distance from the preference's ray.
    preference: lambda, one a task; None = equal.
    ideal: z*, a number or one a task.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.pbi(theta=0.0, preference=[3.0, 4.0]), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.array([1.0, 4.0]))
    >>> [round(float(x), 4) for x in updates['w']]
    [-0.6, -0.8]
  """
  check_number(theta, 'pbi', 'theta', 0)
  ideal = _common.check_vector(ideal, 'pbi', 'ideal')

  def loss(losses, share, active):
    return pbi_loss(losses, share, _common.vector(ideal, losses.shape[0], 'pbi', 'ideal'), theta, active)

  return _from_loss(loss, 'pbi', preference, scale_heads)


def _from_loss(loss: Callable[[jax.Array, jax.Array, jax.Array], jax.Array], name: str,
               preference: Sequence[float] | None, scale_heads: bool) -> base.Aggregator:
  """The weighting whose weights are the gradient of `loss(losses, preference, active)`."""
  check_preference(preference, name)

  def scalarise(losses, state, active):
    losses = _common.clean(losses, active)
    share = stacked.shares(check_preference(preference, name, losses.shape[0]), active, losses.dtype)
    return loss(losses, share, active)

  def weights(state, info):
    return jax.grad(scalarise)(_common.losses_of(info, name), state, info.mask), state

  return base.from_weights(weights, name=name, needs='losses', scalarise=scalarise, scale_heads=scale_heads)
