"""What a model keeps and gains while tasks come one after another.

Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, https://arxiv.org/abs/1706.08840
(accuracy, backward and forward transfer); Chaudhry et al., "Riemannian Walk for Incremental Learning", ECCV 2018,
https://arxiv.org/abs/1801.10112 (forgetting).

R[i, j]: score on task j after stage i, N stages; b_j: score of the untrained model. More is better.

    accuracy             mean_j R[N, j]
    backward_transfer    1 / (N - 1) sum_{j < N} (R[N, j] - R[j, j])
    forgetting           mean_{j < N} (max_{i < N} R[i, j] - R[N, j])
    forward_transfer     1 / (N - 1) sum_{j > 1} (R[j - 1, j] - b_j)

R: [..., N, N] -> [...]; leading axes, such as seeds, stay. Where R[i, j] with i < j was not measured it may be NaN:
forgetting passes it over, forward transfer becomes NaN. FusionBench divides backward transfer by N.
"""
import numpy as np


def accuracy(scores: np.ndarray) -> np.ndarray:
  """The mean over tasks after the last stage.

  Example:
    >>> float(accuracy([[0.9, 0.2], [0.6, 0.8]]))
    0.7
  """
  return _checked(scores, 1)[..., -1, :].mean(-1)


def backward_transfer(scores: np.ndarray) -> np.ndarray:
  """How later stages changed the earlier tasks, since each was learnt; below 0: they were partly forgotten."""
  scores = _checked(scores, 2)
  return (scores[..., -1, :-1] - np.diagonal(scores, axis1=-2, axis2=-1)[..., :-1]).mean(-1)


def forgetting(scores: np.ndarray) -> np.ndarray:
  """From the best that each earlier task ever had."""
  scores = _checked(scores, 2)
  return (np.nanmax(scores[..., :-1, :-1], axis=-2) - scores[..., -1, :-1]).mean(-1)


def forward_transfer(scores: np.ndarray, untrained: np.ndarray) -> np.ndarray:
  """How much better a task is before it is trained on than without any training.

  Args:
    scores: R.
    untrained: b, [..., N].
  """
  scores = _checked(scores, 2)
  untrained = np.asarray(untrained, float)
  if untrained.shape[-1:] != scores.shape[-1:]:
    raise ValueError(f'untrained must have {scores.shape[-1]} tasks, got shape {untrained.shape}.')
  return (np.diagonal(scores, offset=1, axis1=-2, axis2=-1) - untrained[..., 1:]).mean(-1)


def _checked(scores: np.ndarray, fewest: int) -> np.ndarray:
  scores = np.asarray(scores, float)
  if scores.ndim < 2 or scores.shape[-1] != scores.shape[-2] or scores.shape[-1] < fewest:
    raise ValueError(f'scores must be [..., N, N] with N >= {fewest} stages, got shape {scores.shape}.')
  return scores
