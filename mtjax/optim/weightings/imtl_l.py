"""IMTL-L: the loss balance of impartial multitask learning; all scaled losses tend to 1.

Liu et al., "Towards Impartial Multi-task Learning", ICLR 2021, https://openreview.net/forum?id=IMPnRXEWpvr.

    L = sum_t exp(s_t) l_t - s_t,    dL/ds_t = exp(s_t) l_t - 1

l, s: [T]. For a fixed loss the optimum is exp(s_t) = 1 / l_t; it exists for l_t > 0 only, hence s stays within +-30
(losses from 1e-13 to 1e13). L is twice that of uncertainty weighting with s turned around.
Differs from the paper's code: s is trained by an Adam of its own.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.weightings._common import clean, init_each, losses_of, parameter_optimizer, train_each

RANGE = 30.0


class IMTLLState(NamedTuple):
  """The learned scales.

  Attributes:
    log_scale: [T], s, the parameter that is trained.
    opt_state: of its optimizer, one a task.
  """
  log_scale: jax.Array
  opt_state: Any


def imtl_l_loss(log_scale: jax.Array, losses: jax.Array, active: jax.Array) -> jax.Array:
  """L: [T], [T] -> scalar."""
  return jnp.sum(jnp.where(active, jnp.exp(log_scale) * losses - log_scale, 0))


def imtl_l(init: float = 0.0, learning_rate: optax.ScalarOrSchedule = 1e-3, *,
           optimizer: optax.GradientTransformation | None = None, scale_heads: bool = True) -> base.Aggregator:
  """IMTL-L, as an optax transform of stacked gradients.

  To train s with the model's own optimizer instead, differentiate `scalarise` in `state.inner.log_scale`.

  Args:
    init: of s.
    learning_rate: of s, a number or an optax schedule.
    optimizer: in place of Adam at `learning_rate`.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.imtl_l(optimizer=optax.sgd(0.5)), optax.sgd(1.0))
    >>> updates, state = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.array([3.0, 0.5]))
    >>> updates['w'].tolist(), state[0].inner.log_scale.tolist()
    ([-1.0, -1.0], [-1.0, 0.25])
  """
  name = 'imtl_l'
  check_number(init, name, 'init', -RANGE, RANGE)
  adam = parameter_optimizer(learning_rate, optimizer, name)

  def init_state(num_tasks):
    s = jnp.full(num_tasks, init, float)
    return IMTLLState(s, init_each(adam, s))

  def weights(state, info):
    losses = losses_of(info, name)
    w = jnp.exp(state.log_scale)
    s, opt_state = train_each(adam, w * losses - 1, state.opt_state, state.log_scale, info.mask)
    return w.astype(losses.dtype), IMTLLState(jnp.clip(s, -RANGE, RANGE), opt_state)

  def scalarise(losses, state, active):
    return imtl_l_loss(state.log_scale, clean(losses, active), active)

  return base.from_weights(weights, name=name, needs='losses', init=init_state, scalarise=scalarise,
                           scale_heads=scale_heads)
