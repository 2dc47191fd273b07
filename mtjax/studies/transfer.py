"""What tasks do to each other: the transferability matrix, and the groups that an affinity calls for.

Zamir et al., "Taskonomy", CVPR 2018, https://arxiv.org/abs/1804.08328; Fifty et al., "Efficiently Identifying Task
Groupings for Multi-Task Learning" (TAG), NeurIPS 2021, https://arxiv.org/abs/2109.04617.

    A[i, j] = o_j (score on j with i - score on j alone),   A[j, j] = 0,   asymmetry A - A^T
    groups:   max over <= b groups of  sum_j mean_{i in g(j)} Z[i, j],     g(j) the group that serves task j

Z[i, j]: what a step on task i does to the loss of task j (see `mtjax.training.affinity`). Unlike the paper's search,
the groups are found exactly, by dynamic programming over subsets of tasks: 3^T T operations.
"""
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial import distance

from mtjax.studies import intervals
from mtjax.studies.score_frame import ScoreFrame, by_seed, directions

MOST_TASKS = 12


class Transfer(NamedTuple):
  """A transferability matrix; [from, to].

  Attributes:
    tasks: [T].
    gain: [T, T], mean over seeds; NaN where it was not measured.
    low, high: [T, T], the interval; NaN of fewer than two seeds.
    asymmetry: [T, T], gain - gain^T.
  """

  tasks: tuple[str, ...]
  gain: np.ndarray
  low: np.ndarray
  high: np.ndarray
  asymmetry: np.ndarray


def gains(scores: np.ndarray, alone: np.ndarray, higher: Sequence[bool] | bool = True) -> np.ndarray:
  """A: scores [..., T, T] with task i (row) on task j (column), alone [..., T] -> [..., T, T], its diagonal 0.

  Example:
    >>> gains([[0.0, 0.75], [0.5, 0.0]], [0.5, 0.5]).tolist()
    [[0.0, 0.25], [0.0, 0.0]]
  """
  scores, alone = np.asarray(scores, float), np.asarray(alone, float)
  found = np.where(higher, 1.0, -1.0) * (scores - alone[..., None, :])
  return np.where(np.eye(scores.shape[-1], dtype=bool), 0.0, found)


def transfer_matrix(frame: ScoreFrame, alone: str, added: Mapping[str, str], *, metric: Mapping[str, str] | None = None,
                    split: str = 'test', kind: str = 't', level: float = 0.95) -> Transfer:
  """The matrix of a frame, seeds paired.

  Args:
    frame: of one step a run.
    alone: the arm whose score on each task is that of the task alone.
    added: {task i: the arm that had task i too}; its score on j against that of j alone is A[i, j].
    metric: {task: metric}; of tasks without an entry the first.
    split, kind, level: as elsewhere.
  """
  base, higher = by_seed(frame, alone, split), directions(frame.where(split=split))
  tasks = tuple(added)
  metric = {task: (metric or {}).get(task) or next((m for t, m in base if t == task), None) for task in tasks}
  for task in tasks:
    if (task, metric[task]) not in base:
      raise ValueError(f"Arm '{alone}' has no score of task '{task}'.")
  gain, low, high = (np.full((len(tasks), len(tasks)), np.nan) for _ in range(3))
  for i, source in enumerate(tasks):
    table = by_seed(frame, added[source], split)
    for j, target in enumerate(tasks):
      column = target, metric[target]
      seeds = sorted(set(table.get(column, ())) & set(base[column]))
      if i == j:
        gain[i, j] = low[i, j] = high[i, j] = 0.0
      elif seeds:
        sign = 1.0 if higher[column] else -1.0
        found = intervals.estimate([sign * (table[column][seed] - base[column][seed]) for seed in seeds], kind, level)
        gain[i, j] = found.value
        low[i, j], high[i, j] = found.interval or (np.nan, np.nan)
  return Transfer(tasks, gain, low, high, gain - gain.T)


def cluster_order(gain: np.ndarray) -> list[int]:
  """An order of the tasks that puts together those that help each other, by average linkage of (A + A^T) / 2."""
  gain = np.asarray(gain, float)
  if len(gain) < 3:
    return list(range(len(gain)))
  likeness = (gain + gain.T) / 2
  if not np.isfinite(likeness).all():
    raise ValueError('gain must be finite: measure every pair, or leave those tasks out.')
  far = likeness.max() - likeness
  np.fill_diagonal(far, 0.0)
  return hierarchy.leaves_list(hierarchy.linkage(distance.squareform(far, checks=False), 'average')).tolist()


def task_groups(affinity: np.ndarray, budget: int, *, include_self: bool = True,
                overlap: bool = False) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
  """The best groups, [(tasks trained together, tasks that the group serves)], in the order of the first task served.

  Args:
    affinity: Z, [T, T].
    budget: b, the most groups.
    include_self: whether i = j counts in the mean; the paper's code leaves it out where a group has other tasks.
    overlap: whether a task may be trained in several groups, helping there without being served; else a partition.

  Example:
    >>> task_groups(np.array([[0.2, 0.1, -0.3], [0.1, 0.2, -0.3], [-0.3, -0.3, 0.2]]), budget=2)
    [((0, 1), (0, 1)), ((2,), (2,))]
  """
  affinity = np.asarray(affinity, float)
  num = len(affinity)
  if affinity.shape != (num, num) or not np.isfinite(affinity).all():
    raise ValueError(f'affinity must be finite, [T, T]; got shape {affinity.shape}.')
  if not 1 <= num <= MOST_TASKS:
    raise ValueError(f'task_groups searches exactly, up to T = {MOST_TASKS} tasks; got {num}.')
  if not isinstance(budget, int) or budget < 1:
    raise ValueError(f'budget must be a whole number >= 1, got {budget!r}.')
  everyone = (1 << num) - 1
  members = [[i for i in range(num) if mask >> i & 1] for mask in range(everyone + 1)]

  @functools.cache
  def served(mask: int) -> np.ndarray:
    """What each task gets of a group, [T]."""
    group = members[mask]
    got = affinity[group].mean(0)
    if not include_self and len(group) > 1:
      got = (affinity[group].sum(0) - np.diag(affinity)) / (len(group) - 1)
    return got

  @functools.cache
  def block(mask: int) -> tuple[float, int]:
    """(value, group) of the best group that serves exactly these tasks."""
    best, rest = (float(served(mask)[members[mask]].sum()), mask), everyone & ~mask
    extra = rest if overlap else 0
    while extra:
      value = float(served(mask | extra)[members[mask]].sum())
      best = max(best, (value, mask | extra), key=lambda pair: pair[0])
      extra = (extra - 1) & rest
    return best

  @functools.cache
  def cover(mask: int, groups: int) -> tuple[float, tuple[int, ...]]:
    """(value, blocks) of the best partition of `mask` into at most `groups` blocks."""
    if not mask:
      return 0.0, ()
    first = mask & -mask
    rest = others = mask & ~first
    best = (-np.inf, ())
    while True:
      if groups > 1 or others == rest:
        value, blocks = cover(rest & ~others, groups - 1)
        value += block(first | others)[0]
        if value > best[0]:
          best = value, (first | others, *blocks)
      if not others:
        return best
      others = (others - 1) & rest

  return [(tuple(members[block(mask)[1]]), tuple(members[mask])) for mask in cover(everyone, min(budget, num))[1]]
