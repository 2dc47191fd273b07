"""DWA: dynamic weight average; a task whose loss falls slowly from epoch to epoch gets more weight.

Liu, Johns & Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019, https://arxiv.org/abs/1803.10704.

    r_t(e) = L_t(e-1) / L_t(e-2),    lambda = T softmax(r / temperature),    L = sum_t lambda_t l_t

L_t(e): the mean loss of task t over epoch e. lambda, r: [T]. lambda = 1 in the first two epochs. It compares epochs, so
the end of one must be known. A task that has not yet had losses in two epochs counts with r = 1, and so does one whose
mean loss two epochs ago is 0; T counts active tasks.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.weightings._common import FLOOR, check_epochs, clean, ends_epoch, keep, losses_of, weighted_sum


class DWAState(NamedTuple):
  """The losses of the last epochs.

  Attributes:
    step: int32, steps so far.
    sums: [T], of the losses of the running epoch.
    counts: [T] int32, of the steps of the running epoch in which the task was active.
    last: [T], mean loss of the task's last full epoch.
    before_last: [T], of the one before it.
    epochs: [T] int32, full epochs in which the task was active.
  """
  step: jax.Array
  sums: jax.Array
  counts: jax.Array
  last: jax.Array
  before_last: jax.Array
  epochs: jax.Array


def dwa_weights(ratios: jax.Array, temperature: float, active: jax.Array) -> jax.Array:
  """T softmax(r / temperature) over the active tasks.  [T] -> [T]"""
  return jnp.sum(active, dtype=ratios.dtype) * jax.nn.softmax(ratios / temperature, where=active)


def loss_ratios(state: DWAState) -> jax.Array:
  """r [T]."""
  known = (state.epochs >= 2) & (jnp.abs(state.before_last) > FLOOR)
  return jnp.where(known, state.last / jnp.where(known, state.before_last, 1), 1)


def add_losses(state: DWAState, losses: jax.Array, active: jax.Array, epoch_end: jax.Array) -> DWAState:
  """The state after one more step."""
  sums, counts = keep(active, (state.sums + losses, state.counts + 1), (state.sums, state.counts))
  ended = epoch_end & (counts > 0)
  mean = sums / jnp.maximum(counts, 1).astype(sums.dtype)
  last, before_last, epochs, sums, counts = keep(
    ended, (mean, state.last, state.epochs + 1, jnp.zeros_like(sums), jnp.zeros_like(counts)),
    (state.last, state.before_last, state.epochs, sums, counts))
  return DWAState(state.step + 1, sums, counts, last, before_last, epochs)


def dwa(temperature: float = 2.0, steps_per_epoch: int | None = None, *, scale_heads: bool = True) -> base.Aggregator:
  """Dynamic weight average, as an optax transform of stacked gradients.

  Args:
    temperature: the larger, the more equal the weights.
    steps_per_epoch: the length of an epoch; None: `update` is told by `epoch_end` (True at the last step of an epoch).
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.dwa(steps_per_epoch=100), optax.sgd(1.0))
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=jnp.ones(2))
    >>> updates['w'].tolist()
    [-1.0, -1.0]
  """
  name = 'dwa'
  check_number(temperature, name, 'temperature', 0, open_low=True)
  check_epochs(steps_per_epoch, name)

  def init(num_tasks):
    zeros, none = jnp.zeros(num_tasks), jnp.zeros(num_tasks, jnp.int32)
    return DWAState(jnp.zeros((), jnp.int32), zeros, none, zeros, zeros, none)

  def weights(state, info):
    losses, active = losses_of(info, name), info.mask
    w = dwa_weights(loss_ratios(state), temperature, active)
    epoch_end = ends_epoch(info, state.step, steps_per_epoch, name)
    return w.astype(losses.dtype), add_losses(state, losses, active, epoch_end)

  def scalarise(losses, state, active):
    return weighted_sum(dwa_weights(loss_ratios(state), temperature, active), clean(losses, active))

  return base.from_weights(weights, name=name, needs='losses', init=init, scalarise=scalarise, scale_heads=scale_heads)
