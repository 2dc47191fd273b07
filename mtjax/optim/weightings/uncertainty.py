"""Uncertainty weighting (UW): losses divided by learned noise variances.

Kendall, Gal & Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics", CVPR
2018, https://arxiv.org/abs/1705.07115.

    L = sum_t k_t exp(-s_t) l_t + s_t / 2,    s_t = log sigma_t^2,    dL/ds_t = 1/2 - k_t exp(-s_t) l_t

l, s: [T]. k_t = 1/2 for regression, 1 for classification; common code takes 1/2 for all, so do we. For a fixed loss the
optimum is s_t = log(2 k_t l_t), where the weight is 1 / (2 l_t); it exists for l_t > 0 only, hence s stays within +-30
(losses from 1e-13 to 1e13), where the weight of a task whose loss is 0 or negative ends.
Differs from the paper's code: s is trained by an Adam of its own, with its own learning rate and no weight decay.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.weightings._common import clean, init_each, losses_of, parameter_optimizer, train_each

FACTORS = {None: 0.5, 'regression': 0.5, 'classification': 1.0}
RANGE = 30.0


class UncertaintyState(NamedTuple):
  """The learned variances.

  Attributes:
    log_variance: [T], s, the parameter that is trained.
    opt_state: of its optimizer, one a task.
  """
  log_variance: jax.Array
  opt_state: Any


def uncertainty_loss(log_variance: jax.Array, losses: jax.Array, factors: jax.Array, active: jax.Array) -> jax.Array:
  """L: [T], [T], [T] -> scalar."""
  return jnp.sum(jnp.where(active, factors * jnp.exp(-log_variance) * losses + 0.5 * log_variance, 0))


def uncertainty(init: float = 0.0, learning_rate: optax.ScalarOrSchedule = 1e-3,
                kinds: Sequence[str | None] | None = None, *, optimizer: optax.GradientTransformation | None = None,
                scale_heads: bool = True) -> base.Aggregator:
  """Uncertainty weighting, as an optax transform of stacked gradients.

  To train s with the model's own optimizer instead, differentiate `scalarise` in `state.inner.log_variance`.

  Args:
    init: of s; LibMTL has -0.5.
    learning_rate: of s, a number or an optax schedule.
    kinds: 'regression' or 'classification', one a task; None = the factor 1/2 for all.
    optimizer: in place of Adam at `learning_rate`.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.uncertainty(learning_rate=0.1), optax.sgd(1.0))
    >>> updates, state = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.array([3.0, 0.1]))
    >>> updates['w'].tolist(), [round(float(s), 3) for s in state[0].inner.log_variance]
    ([-0.5, -0.5], [0.1, -0.1])
  """
  name = 'uncertainty'
  check_number(init, name, 'init', -RANGE, RANGE)
  adam = parameter_optimizer(learning_rate, optimizer, name)
  if kinds is not None and (isinstance(kinds, str) or not all(kind in FACTORS for kind in kinds)):
    raise ValueError(f"{name}: kinds must hold 'regression', 'classification' or None, one a task, got {kinds!r}.")

  def factors(num_tasks, dtype):
    if kinds is not None and len(kinds) != num_tasks:
      raise ValueError(f'{name}: kinds has {len(kinds)} entries {list(kinds)}, but there are {num_tasks} tasks.')
    return jnp.asarray([FACTORS[kind] for kind in kinds or [None] * num_tasks], dtype)

  def init_state(num_tasks):
    s = jnp.full(num_tasks, init, float)
    return UncertaintyState(s, init_each(adam, s))

  def weights(state, info):
    losses = losses_of(info, name)
    w = factors(losses.shape[0], losses.dtype) * jnp.exp(-state.log_variance)
    s, opt_state = train_each(adam, 0.5 - w * losses, state.opt_state, state.log_variance, info.mask)
    return w.astype(losses.dtype), UncertaintyState(jnp.clip(s, -RANGE, RANGE), opt_state)

  def scalarise(losses, state, active):
    losses = clean(losses, active)
    return uncertainty_loss(state.log_variance, losses, factors(losses.shape[0], losses.dtype), active)

  return base.from_weights(weights, name=name, needs='losses', init=init_state, scalarise=scalarise,
                           scale_heads=scale_heads)


uw = uncertainty
