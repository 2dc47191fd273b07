"""The numbers of a comparison, by `mtjax.studies`: change against single-task training, pairs of arms, verdicts.

S seeds, T tasks; `higher`: [T] bool, whether more is better.

    change[s, t] = 100 (-1)^higher_t (M[s, t] - B[s, t]) / |B[s, t]|    percent worse than baseline B: lower is better
    delta_m[s] = mean_t change[s, t]

This is the sign of the papers on optimization; that of `mtjax.studies.delta_m` is the other one. With one metric a task
(the primary one) both conventions of the mean, inside a task first or over all metrics at once, are the same. Baseline
and arm are paired by seed.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtjax.studies import significance
from mtjax.studies.across_tasks import iqm
from mtjax.studies.compare import FEWEST_SEEDS as FEWEST
from mtjax.studies.delta_m import relative_change
from mtjax.studies.intervals import interval, stratified
from mtjax.studies.significance import holm

__all__ = ['FEWEST', 'change', 'delta_m', 'holds', 'holm', 'middle', 'paired', 'summary', 'verdict']


def change(values: np.ndarray, baseline: np.ndarray, higher: Sequence[bool]) -> np.ndarray:
  """Percent worse than the baseline, [S, T]. Raises ValueError for a baseline of 0, to which nothing compares."""
  return -100 * relative_change(values, baseline, higher)


def delta_m(values: np.ndarray, baseline: np.ndarray, higher: Sequence[bool]) -> np.ndarray:
  """Of each seed, [S]."""
  return change(values, baseline, higher).mean(axis=1)


def summary(values: Sequence[float]) -> dict[str, Any]:
  """Mean, its t-interval, sample deviation, and the values."""
  x = np.asarray(values, float)
  return {'mean': float(x.mean()), 'interval': interval(x), 'sd': float(x.std(ddof=1)) if len(x) > 1 else None,
          'values': x.tolist()}


def middle(changes: np.ndarray) -> dict[str, Any]:
  """The interquartile mean of [S, T], and its bootstrap interval, stratified by task."""
  return {'value': float(iqm(changes)), 'interval': stratified(changes, iqm) if len(changes) > 1 else None}


def paired(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
  """one - other, seed by seed: difference, t-interval, d_z, the p-value of the paired t-test and by signs."""
  d = np.asarray(one, float) - np.asarray(other, float)
  sd = significance.spread(d)
  return {'n': len(d), 'difference': float(d.mean()), 'interval': interval(d),
          'd_z': float(d.mean()) / sd if sd else None,
          'p': significance.paired_t(d), 'p_sign_flip': significance.sign_flip(d)}


def verdict(comparison: Mapping[str, Any], p: float | None, level: float = 0.05) -> str:
  """'better', 'worse' or 'no evidence', of a difference of which less is better."""
  if p is None or p >= level:
    return 'no evidence'
  return 'better' if comparison['difference'] < 0 else 'worse'


def holds(comparison: Mapping[str, Any], p: float | None, claim: str = 'better', margin: float = 1.0) -> bool | None:
  """Whether a claim about a difference holds: True, False, or None for no evidence.

  Args:
    comparison, p: as of `verdict`.
    claim: 'better', or 'kept': worse by less than `margin`, which holds where the whole 95 % interval is below it.
    margin: percentage points of delta_m.
  """
  found = verdict(comparison, p)
  if claim == 'kept':
    bounds = comparison['interval']
    return True if bounds is not None and bounds[1] < margin else False if found == 'worse' else None
  return {'better': True, 'worse': False, 'no evidence': None}[found]
