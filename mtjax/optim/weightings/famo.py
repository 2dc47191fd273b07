"""FAMO: fast adaptive multitask optimization; all losses fall at the same rate, for the cost of a plain step.

Liu, Feng, Stone & Liu, "FAMO: Fast Adaptive Multitask Optimization", NeurIPS 2023, https://arxiv.org/abs/2306.03792.

    D_t = l_t - b_t + 1e-8,  z = softmax(xi),  c = 1 / sum_t(z_t / D_t) held constant
    L = c sum_t z_t log D_t,    weights c z_t / D_t, of sum 1
    after the step, on the same batch:  delta_t = log D_t - log D_t+,    dxi = z * (delta - z^T delta) + gamma xi

l, b, xi, z: [T]; b: lower bounds of the losses. xi is trained by Adam. Three ways to D+:
'same': the losses of the same batch after the step (a second forward pass, dropout with the same key), given to
  `observe`, or as `losses_after` to the next update.
'next': the next step's losses on its own batch; no second pass, but noisier. On a fixed batch it is 'same'.
'validation': delta between one held-out batch and the next (MFTCoder, https://arxiv.org/abs/2311.02303, since training
  losses do not show overfitting).
The paper clips the norm of the shared gradient at 1: chain optax.clip_by_global_norm(1.0) after it.
Differs from the paper's code: losses below b count as b instead of giving NaN.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.weightings import _common

AFTER = ('same', 'next', 'validation')
EPSILON = 1e-8


class FAMOState(NamedTuple):
  """The logits and what losses are compared with.

  Attributes:
    logits: [T], xi, what is trained.
    before: [T], the losses that the next ones are compared with.
    waiting: [T] bool, whether the task has such a loss.
    opt_state: of the logits' optimizer, one a task.
  """
  logits: jax.Array
  before: jax.Array
  waiting: jax.Array
  opt_state: Any


def famo_loss(logits: jax.Array, losses: jax.Array, bounds: jax.Array | float, active: jax.Array) -> jax.Array:
  """c sum_t z_t log D_t: [T], [T] -> scalar, differentiable in the losses."""
  gaps = _common.at_least(losses - bounds, 0.0) + EPSILON
  return jnp.sum(jax.lax.stop_gradient(famo_weights(logits, losses, bounds, active) * gaps) * jnp.log(gaps))


def famo_weights(logits: jax.Array, losses: jax.Array, bounds: jax.Array | float, active: jax.Array) -> jax.Array:
  """c z_t / D_t: [T], [T] -> [T], >= 0, sum 1 over the active tasks."""
  inverse = jax.nn.softmax(logits, where=active) / (jnp.maximum(losses - bounds, 0.0) + EPSILON)
  return inverse / jnp.maximum(jnp.sum(inverse), jnp.finfo(inverse.dtype).tiny)


def famo_gradient(logits: jax.Array, before: jax.Array, after: jax.Array, bounds: jax.Array | float,
                  active: jax.Array) -> jax.Array:
  """z * (delta - z^T delta): [T], [T], [T] -> [T], of sum 0; what Adam descends, without gamma xi."""
  z = jax.nn.softmax(logits, where=active)
  log_gaps = [jnp.log(jnp.maximum(x - bounds, 0.0) + EPSILON) for x in (before, after)]
  delta = jnp.where(active, log_gaps[0] - log_gaps[1], 0)
  return z * (delta - jnp.sum(z * delta))


def famo(gamma: float = 1e-5, learning_rate: optax.ScalarOrSchedule = 0.025, bounds: float | Sequence[float] = 0.0,
         after: str = 'same', *, optimizer: optax.GradientTransformation | None = None,
         scale_heads: bool = True) -> base.Aggregator:
  """FAMO, as an optax transform of stacked gradients.

  Args:
    gamma: weight decay of the logits, added to their gradient; the paper has 1e-3 (NYUv2, QM9, CelebA), 1e-2
      (Cityscapes) and 0 in its toy.
    learning_rate: of the logits, a number or an optax schedule.
    bounds: b, what the losses cannot fall below, a number or one a task.
    after: 'same', 'next' or 'validation', see above.
    optimizer: in place of Adam at `learning_rate`.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.famo(after='next'), optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.array([1.0, 4.0]))
    >>> [round(float(x), 4) for x in updates['w']]
    [-0.8, -0.2]
  """
  name = 'famo'
  check_number(gamma, name, 'gamma', 0)
  bounds = _common.check_vector(bounds, name, 'bounds')
  if after not in AFTER:
    raise ValueError(f'{name}: after must be one of {AFTER}, got {after!r}.')
  adam = optax.chain(optax.add_decayed_weights(gamma), _common.parameter_optimizer(learning_rate, optimizer, name))

  def init(num_tasks):
    logits = jnp.zeros(num_tasks)
    return FAMOState(logits, jnp.zeros(num_tasks), jnp.zeros(num_tasks, bool), _common.init_each(adam, logits))

  def bound(num_tasks):
    return _common.vector(bounds, num_tasks, name, 'bounds')

  def compare(state, losses, active):
    """Trains the logits of the tasks that wait for these losses."""
    trained = active & state.waiting
    gradient = famo_gradient(state.logits, state.before, losses, bound(losses.shape[0]), trained)
    logits, opt_state = _common.train_each(adam, gradient, state.opt_state, state.logits, trained)
    return state._replace(logits=logits, opt_state=opt_state, waiting=state.waiting & ~trained)

  def remember(state, losses, active):
    return state._replace(before=_common.keep(active, losses, state.before), waiting=state.waiting | active)

  def weights(state, info):
    losses, active = _common.losses_of(info, name), info.mask
    if after == 'same':
      state = remember(state, losses, active)
    else:
      seen = (losses, active) if after == 'next' else _common.validation_losses_of(info, name)
      state = remember(compare(state, *seen), *seen)
    return famo_weights(state.logits, losses, bound(losses.shape[0]), active).astype(losses.dtype), state

  def observe(state, losses_after, active):
    measured = active & jnp.isfinite(losses_after)
    return compare(state, _common.clean(losses_after, measured), measured)

  def scalarise(losses, state, active):
    losses = _common.clean(losses, active)
    logits = compare(state, losses, active).logits if after == 'next' else state.logits
    return famo_loss(jax.lax.stop_gradient(logits), losses, bound(losses.shape[0]), active)

  observes = {'same': 'losses_after', 'next': 'nothing', 'validation': 'validation_losses'}[after]
  return base.from_weights(weights, name=name, needs='losses', init=init, scalarise=scalarise, scale_heads=scale_heads,
                           observe=observe if after == 'same' else None, observes=observes)
