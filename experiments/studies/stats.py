"""The numbers of a study: change against single-task training, means with intervals, pairs of arms, many comparisons.

S seeds, T tasks; `higher`: [T] bool, whether more is better.

    change[s, t] = 100 (-1)^higher_t (M[s, t] - B[s, t]) / |B[s, t]|    percent worse than baseline B: lower is better
    delta_m[s] = mean_t change[s, t]

With one metric a task (the primary one) both conventions of delta_m, mean inside a task first or over all metrics at
once, are the same. Baseline and arm are paired by seed.
"""
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
FEWEST = 5  # seeds; below it a result carries a warning
EXACT = 16  # pairs up to which all signs are tried


def change(values: np.ndarray, baseline: np.ndarray, higher: Sequence[bool]) -> np.ndarray:
  """Percent worse than the baseline, [S, T]. Raises ValueError for a baseline of 0, to which nothing compares."""
  values, baseline = np.asarray(values, float), np.asarray(baseline, float)
  if np.any(np.abs(baseline) < 1e-12):
    raise ValueError(f'A baseline of 0 cannot be divided by: task {int(np.argmin(np.abs(baseline).min(0)))}.')
  return 100 * np.where(higher, -1.0, 1.0) * (values - baseline) / np.abs(baseline)


def delta_m(values: np.ndarray, baseline: np.ndarray, higher: Sequence[bool]) -> np.ndarray:
  """Of each seed, [S]."""
  return change(values, baseline, higher).mean(axis=1)


def iqm(values: np.ndarray) -> float:
  """The mean of the middle half of all values (a quarter of them, rounded down, cut off at either end)."""
  return float(stats.trim_mean(np.asarray(values, float).ravel(), 0.25))


def bootstrap(values: np.ndarray, statistic: Callable[[np.ndarray], float] = iqm, draws: int = 2000,
              seed: int = 0) -> list[float]:
  """The 95 % percentile interval of a statistic of [S, T]: seeds are drawn anew within each task (stratified)."""
  values, rng = np.asarray(values, float), np.random.RandomState(seed)
  num_seeds, num_tasks = values.shape
  found = [statistic(np.take_along_axis(values, rng.randint(0, num_seeds, (num_seeds, num_tasks)), 0))
           for _ in range(draws)]
  return np.percentile(found, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()


def t_interval(values: Sequence[float]) -> list[float] | None:
  """The 95 % interval of a mean, by Student's t with n - 1 degrees; None for one value."""
  values = np.asarray(values, float)
  if len(values) < 2:
    return None
  half = stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
  return [float(values.mean() - half), float(values.mean() + half)]


def sign_flip_p(differences: Sequence[float]) -> float | None:
  """The two-sided p-value of the exact sign-flip test: at least 2 / 2^n, so never below 0.05 with five pairs."""
  d = np.asarray(differences, float)
  if len(d) > EXACT:
    return None
  signs = np.array(list(itertools.product((1, -1), repeat=len(d))))
  return float(np.mean(np.abs(signs @ d) >= np.abs(d.sum()) * (1 - 1e-9)))


def paired(one: Sequence[float], other: Sequence[float]) -> dict[str, Any]:
  """one - other, seed by seed: difference, t-interval, Cohen's d_z, the p-value of the paired t-test and by signs."""
  d = np.asarray(one, float) - np.asarray(other, float)
  spread = d.std(ddof=1) if len(d) > 1 else 0.0
  if spread > 0:
    t = d.mean() / (spread / np.sqrt(len(d)))
    p, size = float(2 * stats.t.sf(abs(t), len(d) - 1)), float(d.mean() / spread)
  else:
    p, size = (1.0 if not d.any() else None), None  # one pair, or pairs that differ by a constant
  return {'n': len(d), 'difference': float(d.mean()), 'interval': t_interval(d), 'd_z': size, 'p': p,
          'p_sign_flip': sign_flip_p(d)}


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
  """Holm's adjusted p-values over the comparisons that have one."""
  known = sorted((p, name) for name, p in p_values.items() if p is not None)
  adjusted, largest = dict.fromkeys(p_values), 0.0
  for rank, (p, name) in enumerate(known):
    largest = max(largest, min(1.0, (len(known) - rank) * p))
    adjusted[name] = largest
  return adjusted


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
    interval = comparison['interval']
    return True if interval is not None and interval[1] < margin else False if found == 'worse' else None
  return {'better': True, 'worse': False, 'no evidence': None}[found]


def summary(values: Sequence[float]) -> dict[str, Any]:
  """Mean, its t-interval, sample deviation, and the values."""
  x = np.asarray(values, float)
  return {'mean': float(x.mean()), 'interval': t_interval(x), 'sd': float(x.std(ddof=1)) if len(x) > 1 else None,
          'values': x.tolist()}
