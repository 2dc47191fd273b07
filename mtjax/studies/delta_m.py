"""Relative multitask performance against single-task baselines.

Maninis et al., "Attentive Single-Tasking of Multiple Tasks", CVPR 2019, https://arxiv.org/abs/1904.08918; with several
metrics a task as Vandenhende et al., "Multi-Task Learning for Dense Prediction Tasks", https://arxiv.org/abs/2004.13379.

    within_task_first   100 / T sum_t 1 / M_t sum_{m in t} o_m (S_m - b_m) / |b_m|      percent; higher is better
    flat                100 / M sum_m                      o_m (S_m - b_m) / |b_m|

o_m = +1 where higher is better, else -1. The two conventions differ where tasks have unequally many metrics: CAGrad,
Nash-MTL and FAMO report the flat one, with the opposite sign. S: [..., M], b: [..., M] or [M].
Unlike in the authors' code: |b| in place of b, so that a negative baseline keeps the direction; a baseline near 0 is
refused; seeds are paired, S[seed] with b[seed], and the interval is that of the mean over pairs.
"""
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from mtjax.studies import intervals
from mtjax.studies.score_frame import ScoreFrame, by_seed, directions

log = logging.getLogger('mtjax')

EPSILON = 1e-8
FEWEST_SEEDS = 3  # of a baseline
Baseline = str | Mapping[tuple[str, str], float]


def relative_change(values: np.ndarray, baseline: np.ndarray, higher: Sequence[bool],
                    epsilon: float = EPSILON) -> np.ndarray:
  """o (S - b) / |b|, a fraction: [..., M] -> [..., M]. Raises ValueError for |b| < epsilon."""
  values, baseline = np.asarray(values, float), np.asarray(baseline, float)
  if (np.abs(baseline) < epsilon).any():
    column = int(np.argwhere(np.abs(baseline) < epsilon)[0][-1])
    raise ValueError(f'The baseline of metric {column} is {baseline[..., column].ravel()[0]:g}, within {epsilon:g} of '
                     '0: no change relative to it is defined. Leave that metric out, or compare differences.')
  return np.where(higher, 1.0, -1.0) * (values - baseline) / np.abs(baseline)


def delta_m_values(values: np.ndarray, baseline: np.ndarray, higher: Sequence[bool], tasks: Sequence[str],
                   within_task_first: bool = True, epsilon: float = EPSILON) -> np.ndarray:
  """Percent better than the baseline: [..., M] -> [...].

  Args:
    values: S.
    baseline: b.
    higher: [M] bool.
    tasks: [M], which task each metric belongs to.
    within_task_first: mean inside a task first, or one mean over all metrics.
    epsilon: baselines nearer to 0 are refused.

  Example:
    >>> change = delta_m_values([93, 99, .5], [96, 98, .2], [True] * 3, ['A', 'A', 'B'])
    >>> print(f'{change:+.2f} %')
    +74.47 %
  """
  change = 100 * relative_change(values, baseline, higher, epsilon)
  if not within_task_first:
    return change.mean(-1)
  tasks = np.asarray(tasks)
  return np.mean([change[..., tasks == task].mean(-1) for task in dict.fromkeys(tasks.tolist())], axis=0)


def delta_m(frame: ScoreFrame, baseline: Baseline, *, within_task_first: bool = True, split: str = 'test',
            kind: str = 't', level: float = 0.95, epsilon: float = EPSILON) -> dict[str, intervals.Estimate]:
  """{arm: mean over seeds with its interval} of every arm but the baseline; over all metrics of the frame.

  Args:
    frame: of one step a run (see `select`); filter it first where only some metrics should count.
    baseline: an arm, whose seeds are paired with those of the others; or {(task, metric): value}, the same for all.
    within_task_first: see above.
    split: on which.
    kind, level: of the interval, see `intervals`.
    epsilon: baselines nearer to 0 are refused.
  """
  higher = directions(frame.where(split=split))
  found = {}
  for arm in frame.unique('arm'):
    if arm == baseline:
      continue
    values, base, columns, seeds = paired(frame, arm, baseline, split)
    if isinstance(baseline, str) and len(seeds) < FEWEST_SEEDS:
      log.warning("delta_m of '%s': the baseline '%s' has %d seed(s); a baseline needs at least %d.", arm, baseline,
                  len(seeds), FEWEST_SEEDS)
    change = delta_m_values(values, base, [higher[column] for column in columns], [task for task, _ in columns],
                            within_task_first, epsilon)
    found[arm] = intervals.estimate(change, kind, level)
  return found


def paired(frame: ScoreFrame, arm: str, other: Baseline, split: str = 'test'):
  """(values [S, M] of an arm, values [S, M] of the other, columns [M] of (task, metric), the S seeds of both).

  Columns are those of the arm; the other must have them all. Raises ValueError where they or the seeds do not match.
  """
  table = by_seed(frame, arm, split)
  base = by_seed(frame, other, split) if isinstance(other, str) else other
  if missing := [column for column in table if column not in base]:
    raise ValueError(f"The baseline has no value of {'/'.join(missing[0])}, which arm '{arm}' has.")
  columns = list(table)
  seeds = set.intersection(*(set(table[column]) for column in columns))
  if isinstance(other, str):
    seeds &= set.intersection(*(set(base[column]) for column in columns))
  if not seeds:
    raise ValueError(f"Arms '{arm}' and '{other}' share no seed with scores of every metric on '{split}', so nothing "
                     'can be paired.')
  seeds = sorted(seeds)
  values = np.array([[table[column][seed] for column in columns] for seed in seeds])
  against = np.array([[base[column][seed] if isinstance(other, str) else base[column] for column in columns]
                      for seed in seeds], float)
  return values, against, columns, seeds
