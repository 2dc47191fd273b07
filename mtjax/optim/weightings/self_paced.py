"""Self-paced weighting of MFTCoder 0.3: tasks whose validation loss still falls get the weight.

Liu et al., "MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning", KDD 2024, https://arxiv.org/abs/2311.02303, after
its code (https://github.com/codefuse-ai/MFTCoder, version 0.3).

    a_t: least-squares slope of the last H validation losses over their steps,    n_t = T a_t / sum_i |a_i|
    score = softmax(n) * (-n),    w = softmax(scale score)

w: [T], sum 1; uniform in a task's first H steps, and where no loss moves. A validation loss of 0, or none (NaN), leaves
its step out of the fit. T counts active tasks.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.weightings import _common, _history


class SelfPacedState(NamedTuple):
  """The validation losses so far.

  Attributes:
    history: the last H of each task, 0 where a step had none.
  """
  history: _history.Window


def self_paced_weights(slopes: jax.Array, scale: float, active: jax.Array) -> jax.Array:
  """a [T] -> w [T], >= 0, sum 1 over the active tasks."""
  n = _history.relative(slopes, active)
  score = jax.nn.softmax(n, where=active) * -n
  return jax.nn.softmax(scale * score, where=active)


def self_paced(history: int = 100, scale: float = 50.0, *, scale_heads: bool = True) -> base.Aggregator:
  """Self-paced weights, as an optax transform of stacked gradients; `update` wants validation_losses=[T].

  `scalarise` has the weights of a step at the state *after* it, which has seen the step's validation losses.

  Args:
    history: H, how many validation losses the slope is fitted to.
    scale: the factor on the score.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.self_paced(), optax.sgd(1.0))
    >>> l = jnp.ones(2)
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=l, validation_losses=l)
    >>> updates['w'].tolist()
    [-0.5, -0.5]
  """
  name = 'self_paced'
  if not isinstance(history, int) or history < 2:
    raise ValueError(f'{name}: history must be a whole number >= 2, got {history!r}.')
  check_number(scale, name, 'scale', 0)

  def omega(state, active):
    ready = active & (state.history.count > history)
    w = self_paced_weights(_history.slopes(state.history, without_zeros=True), scale, ready)
    return _history.uniform_until(ready, w, active)

  def weights(state, info):
    losses = _common.losses_of(info, name)
    values, measured = _common.validation_losses_of(info, name)
    state = SelfPacedState(_history.push(state.history, jnp.where(measured, values, 0), info.mask))
    return omega(state, info.mask).astype(losses.dtype), state

  def scalarise(losses, state, active):
    return _common.weighted_sum(omega(state, active), _common.clean(losses, active))

  return base.from_weights(weights, name=name, needs='losses', scalarise=scalarise, scale_heads=scale_heads,
                           init=lambda num_tasks: SelfPacedState(_history.empty(num_tasks, history)),
                           observes='validation_losses')
