"""Losses of multitask fine-tuning on token losses: means over tokens, samples or tasks, and focal ones.

Liu et al., "MFTCoder: Boosting Code LLMs with Multitask Fine-Tuning", KDD 2024, https://arxiv.org/abs/2311.02303.

    case1  sum l M / sum M                                          a mean over tokens
    case2  mean_b (sum_k l M / sum_k M)                             over samples
    case3  sum_t w_t L_t / sum_t w_t over the tasks of the batch,   L_t a mean over the task's tokens
    case4  the same,                                                L_t a mean over the task's samples

    focal, by samples  -mean_t a_t mean_{b of t} (1 - P_b)^gamma Q_b,   P_b, Q_b: means of p and log p over tokens
    focal, by tasks    -mean_t a_t (1 - P_t)^gamma Q_t,                 P_t, Q_t: means of P_b, Q_b over samples

B samples, L tokens, K tasks. l = -log p: [B, L] token losses; M: [B, L], whether a token counts; task_id: [B].
In cases 3 and 4 large data sets and long answers no longer dominate. The focal ones are the paper's; its code has none.
Every loss is a function of sums over the batch (`mft_sums`, `focal_sums`), which add up: over devices sum them first
(`jax.lax.psum`), then divide (`mft_mean`, `focal_mean`). Averaging the losses of devices would be another thing.
Differs from the paper's code: a task or sample without tokens is told by its count, not by a loss of 0; samples whose
task_id is not in 0 ... K - 1 do not count.
"""
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

CASES = ('case1', 'case2', 'case3', 'case4')
LEVELS = ('sample', 'task')


class TaskSums(NamedTuple):
  """What a loss is made of, one entry a task; the sums of a batch are the sums of its parts.

  Attributes:
    losses: [K], of the losses of tokens (case1, case3) or samples (case2, case4, focal).
    counts: [K], how many those are.
    probabilities: [K], of P_b (focal by tasks), else 0.
  """
  losses: jax.Array
  counts: jax.Array
  probabilities: jax.Array

  @property
  def means(self) -> jax.Array:
    """L_t [K], 0 for a task that is not in the batch: the vector of losses that a weighting takes."""
    return self.losses / jnp.where(self.counts > 0, self.counts, 1)

  @property
  def present(self) -> jax.Array:
    """[K] bool, the tasks in the batch: what a weighting takes as `active`."""
    return self.counts > 0


def mft_sums(token_losses: jax.Array, mask: jax.Array, task_id: jax.Array, num_tasks: int,
             mode: str = 'case3') -> TaskSums:
  """The sums of a batch: [B, L], [B, L], [B] -> [K]."""
  if mode not in CASES:
    raise ValueError(f'mft_loss: mode must be one of {CASES}, got {mode!r}.')
  losses, tokens = _masked(token_losses, mask)
  sample_losses, sample_tokens = losses.sum(axis=1), tokens.sum(axis=1)
  if mode in ('case2', 'case4'):
    sample_losses, sample_tokens = _ratio(sample_losses, sample_tokens), (sample_tokens > 0).astype(losses.dtype)
  counts = _by_task(sample_tokens, task_id, num_tasks)
  return TaskSums(_by_task(sample_losses, task_id, num_tasks), counts, jnp.zeros_like(counts))


def mft_mean(sums: TaskSums, mode: str = 'case3', weights: Sequence[float] | jax.Array | None = None) -> jax.Array:
  """The loss of these sums, a scalar; 0 for an empty batch.

  Args:
    sums: of the whole batch.
    mode: that of `mft_sums`.
    weights: w [K] >= 0 of cases 3 and 4; None = equal.
  """
  if mode in ('case1', 'case2'):
    if weights is not None:
      raise ValueError(f"mft_loss: {mode} has no task weights; use 'case3' or 'case4'.")
    return _ratio(sums.losses.sum(), sums.counts.sum())
  w = _task_weights(weights, sums, 'weights') * sums.present
  return _ratio(jnp.sum(w * sums.means), jnp.sum(w))


def mft_loss(token_losses: jax.Array, mask: jax.Array, task_id: jax.Array, num_tasks: int, mode: str = 'case3',
             weights: Sequence[float] | jax.Array | None = None) -> jax.Array:
  """One of the four means of token losses.

  Args:
    token_losses: [B, L], cross-entropies without reduction.
    mask: [B, L], 1 or True where a token counts; what stands elsewhere does not matter.
    task_id: int [B], 0 ... K - 1.
    num_tasks: K.
    mode: 'case1', 'case2', 'case3' or 'case4'.
    weights: w [K] >= 0, of cases 3 and 4; None = equal. A weight that is traced may come from a weighting.

  Returns:
    A scalar in float32 (float64 for such losses).

  Example:
    >>> l, mask = jnp.array([[1.0, 1, 0], [4, 0, 0], [3, 3, 3]]), jnp.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
    >>> [round(float(mft_loss(l, mask, jnp.array([0, 0, 1]), 2, mode)), 4) for mode in CASES]
    [2.5, 2.6667, 2.5, 2.75]
  """
  return mft_mean(mft_sums(token_losses, mask, task_id, num_tasks, mode), mode, weights)


def focal_sums(token_losses: jax.Array, mask: jax.Array, task_id: jax.Array, num_tasks: int, gamma: float = 2.0,
               level: str = 'sample', stop_gradient: bool = False) -> TaskSums:
  """The sums of a batch for `focal_mean`: [B, L], [B, L], [B] -> [K]."""
  if level not in LEVELS:
    raise ValueError(f'mft_focal: level must be one of {LEVELS}, got {level!r}.')
  losses, tokens = _masked(token_losses, mask)
  p = jnp.where(tokens > 0, jnp.exp(-losses), 0)
  length = tokens.sum(axis=1)
  sample_losses, probability = _ratio(losses.sum(axis=1), length), _ratio(p.sum(axis=1), length)
  if level == 'sample':
    sample_losses = _focus(probability, gamma, stop_gradient) * sample_losses
  counts = _by_task((length > 0).astype(losses.dtype), task_id, num_tasks)
  probabilities = _by_task(probability, task_id, num_tasks) if level == 'task' else jnp.zeros_like(counts)
  return TaskSums(_by_task(sample_losses, task_id, num_tasks), counts, probabilities)


def focal_mean(sums: TaskSums, gamma: float = 2.0, level: str = 'sample', alpha: Sequence[float] | None = None,
               stop_gradient: bool = False) -> jax.Array:
  """The focal loss of these sums, a scalar; the mean over the tasks in the batch. Arguments as in `mft_focal`."""
  task_losses = _task_weights(alpha, sums, 'alpha') * sums.means
  if level == 'task':
    task_losses = task_losses * _focus(_ratio(sums.probabilities, sums.counts), gamma, stop_gradient)
  return _ratio(jnp.sum(task_losses * sums.present), jnp.sum(sums.present, dtype=task_losses.dtype))


def mft_focal(token_losses: jax.Array, mask: jax.Array, task_id: jax.Array, num_tasks: int, gamma: float = 2.0,
              level: str = 'sample', alpha: Sequence[float] | jax.Array | None = None,
              stop_gradient: bool = False) -> jax.Array:
  """The focal loss by samples or by tasks: what is predicted with ease counts less.

  Args:
    token_losses, mask, task_id, num_tasks: as in `mft_loss`; token losses are -log p of the right token.
    gamma: how much less, >= 0; with 0 and `alpha` 1 it is case4.
    level: 'sample' or 'task'.
    alpha: a [K], a factor a task; None = 1.
    stop_gradient: whether (1 - P)^gamma is held constant. The paper does not say.

  Returns:
    A scalar in float32 (float64 for such losses).

  Example:
    >>> half = jnp.full((2, 3), jnp.log(2.0))
    >>> print(round(float(mft_focal(half, jnp.ones((2, 3)), jnp.array([0, 1]), 2) / jnp.log(2.0)), 4))
    0.25
  """
  if isinstance(gamma, (int, float)) and not 0 <= gamma < float('inf'):
    raise ValueError(f'mft_focal: gamma must be a finite number >= 0, got {gamma!r}.')
  sums = focal_sums(token_losses, mask, task_id, num_tasks, gamma, level, stop_gradient)
  return focal_mean(sums, gamma, level, alpha, stop_gradient)


def _masked(token_losses: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(losses, 0 where masked; the mask as numbers), [B, L] in float32 or more."""
  if token_losses.ndim != 2 or token_losses.shape != mask.shape:
    raise ValueError(f'token_losses and mask must both be [B, L], got shapes {list(token_losses.shape)} and '
                     f'{list(mask.shape)}.')
  kind = jnp.promote_types(token_losses.dtype, jnp.float32)
  mask = mask.astype(bool)
  return jnp.where(mask, token_losses.astype(kind), 0), mask.astype(kind)


def _by_task(x: jax.Array, task_id: jax.Array, num_tasks: int) -> jax.Array:
  """The sum of x [B] over each task's samples [K]."""
  own = jax.nn.one_hot(task_id, num_tasks, dtype=bool)
  return jnp.sum(jnp.where(own, x[:, None], 0), axis=0)


def _ratio(x: jax.Array, count: jax.Array) -> jax.Array:
  """x / count, 0 where count is."""
  return jnp.where(count > 0, x / jnp.where(count > 0, count, 1), 0)


def _focus(probability: jax.Array, gamma: float, stop_gradient: bool) -> jax.Array:
  """(1 - P)^gamma; a P within 1e-6 of 1 counts as 1 - 1e-6, whose slope is finite for gamma < 1 too."""
  focus = jnp.maximum(1 - probability, 1e-6) ** gamma
  return jax.lax.stop_gradient(focus) if stop_gradient else focus


def _task_weights(weights: Sequence[float] | jax.Array | None, sums: TaskSums, field: str) -> jax.Array:
  if weights is None:
    return jnp.ones_like(sums.counts)
  known = isinstance(weights, Sequence) and not any(isinstance(x, jax.core.Tracer) for x in weights)
  if known and not (all(0 <= x < float('inf') for x in weights) and any(weights)):
    raise ValueError(f'{field} must hold finite numbers >= 0, not all 0, got {list(weights)}.')
  weights = jnp.asarray(weights, sums.counts.dtype)
  if weights.shape != sums.counts.shape:
    raise ValueError(f'{field} must have one entry a task, {list(sums.counts.shape)}, got {list(weights.shape)}.')
  return weights
