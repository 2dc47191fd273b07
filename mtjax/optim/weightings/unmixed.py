"""Unmixed sampling: each step trains one task, drawn by fixed ratios.

Li, Zhu, Jiang, Zhu, Li, Yuan, Wang, Qiao, Wang, Wang & Dai, "Uni-Perceiver v2: A Generalist Model for Large-Scale
Vision and Vision-Language Tasks", CVPR 2023, section 3.4, https://arxiv.org/abs/2211.09808.

    k ~ s,    w = e_k,    L = l_k

s: [T], the sampling ratios, sum 1; w: [T]. The draw depends on the seed and the number of the step alone, so that all
hosts draw the same. Absent tasks are not drawn: the ratios are then those of the active ones.
"""
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_sampling
from mtjax.optim.stacked import shares


class UnmixedState(NamedTuple):
  """The draws so far.

  Attributes:
    count: int32, the steps done.
    task: int32, the task of the last one, for the `task` of `mtjax.optim.tbgn`.
  """
  count: jax.Array
  task: jax.Array


def draw_task(key: jax.Array, ratios: jax.Array) -> jax.Array:
  """An index, int32, with probabilities `ratios` [T] up to a factor; 0 where all are 0."""
  cumulative = jnp.cumsum(ratios)
  # By one uniform number and the cumulative sum, so that a task of ratio 0 changes nothing about the others' draw.
  below = jnp.sum(cumulative <= jax.random.uniform(key, dtype=ratios.dtype) * cumulative[-1])
  last = len(ratios) - 1 - jnp.argmax(ratios[::-1] > 0)          # rounding must not lead past it
  return jnp.where(cumulative[-1] > 0, jnp.minimum(below, last), 0).astype(jnp.int32)


def unmixed(sampling: Sequence[float], seed: int = 0) -> base.Aggregator:
  """One task a step, as an optax transform of stacked gradients; the weight multiplies the whole loss.

  Args:
    sampling: s, a ratio > 0 a task, summing to 1.
    seed: of the draws.

  Example:
    >>> import jax.numpy as jnp, mtjax
    >>> tx = mtjax.optim.unmixed((0.5, 0.25, 0.25))
    >>> jac, losses = {'w': jnp.eye(3)}, jnp.ones(3)
    >>> updates, state = tx.update(jac, tx.init({'w': jnp.zeros(3)}), losses=losses)
    >>> print(int(updates['w'].argmax()) == int(state.inner.task), updates['w'].sum())
    True 1.0
  """
  sampling = check_sampling(sampling, 'unmixed')

  def init(num_tasks):
    return UnmixedState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

  def weights(state, info):
    check_sampling(sampling, 'unmixed', info.num_tasks)
    task = draw_task(base.step_key(info, seed, state.count), shares(sampling, info.mask))
    w = jax.nn.one_hot(task, info.num_tasks, dtype=jnp.promote_types(info.losses.dtype, jnp.float32))
    return w, UnmixedState(state.count + 1, task)

  return base.from_weights(weights, name='unmixed', needs='losses', init=init, scale_heads=True)
