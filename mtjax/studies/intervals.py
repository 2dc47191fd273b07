"""Intervals of a statistic over seeds: which one, and what each is worth.

x: [n], one value a seed; mean m, deviation s (n - 1). B bootstrap draws x* of n values each, with replacement.

    t              m ± t_{n-1} s / sqrt(n)
    percentile     quantiles a / 2 and 1 - a / 2 of the statistic of x*
    expanded       percentile at the level a' = 2 Phi(-sqrt(n / (n - 1)) t_{k, 1 - a/2}), k = n - 1; of M tasks
                   k = M (n - 1)
    bca            percentile at the levels Phi(z0 + (z0 ± z) / (1 - c (z0 ± z))); z0 from the share of draws below the
                   statistic, c = sum d^3 / (6 (sum d^2)^{3/2}), d the jackknife deviations
    bootstrap_t    m - q s / sqrt(n), q the quantiles of (m* - m) / (s* / sqrt(n))

Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 12 to 14; the expanded one is of Hesterberg,
"What Teachers Should Know about the Bootstrap", 2015, https://arxiv.org/abs/1411.5279, section 5.3.

The percentile interval of few values is too narrow, twice over: it divides by n in place of n - 1, and takes a normal
for Student's tail. With five seeds it covers the mean in some 83 % of studies, not in 95 %. Hence `t` is the default
for means, and `expanded` for statistics of runs x tasks. `mtjax.studies.power` has the measured table.
"""
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special, stats

KINDS = ('t', 'percentile', 'expanded', 'bca', 'bootstrap_t')
Statistic = Callable[..., np.ndarray]


class Estimate(NamedTuple):
  """A number that seeds gave.

  Attributes:
    value: of all seeds together.
    interval: (low, high); None where one value says nothing of spread.
    n: how many seeds.
    values: [n], of each seed; () where the statistic is not a mean over them.
  """

  value: float
  interval: tuple[float, float] | None
  n: int
  values: tuple[float, ...] = ()


def estimate(values: Sequence[float], kind: str = 't', level: float = 0.95, draws: int = 5000,
             seed: int = 0) -> Estimate:
  """The mean of one value a seed, with its interval.

  Example:
    >>> found = estimate([1.0, 2.0, 3.0])
    >>> f'{found.value:.2f} in [{found.interval[0]:.2f}, {found.interval[1]:.2f}] of {found.n}'
    '2.00 in [-0.48, 4.48] of 3'
  """
  values = np.asarray(values, float)
  return Estimate(float(values.mean()), interval(values, kind, level, draws, seed), len(values), tuple(values.tolist()))


def interval(values: Sequence[float], kind: str = 't', level: float = 0.95, draws: int = 5000,
             seed: int = 0) -> tuple[float, float] | None:
  """The interval of a mean, [n] -> (low, high); None for fewer than two values.

  Args:
    values: one a seed.
    kind: of KINDS.
    level: of coverage.
    draws: of the bootstrap.
    seed: of its generator; the same seed gives the same interval.
  """
  check(kind, level, draws)
  values = np.asarray(values, float)
  if values.ndim != 1:
    raise ValueError(f'values must be one a seed, [n]; got shape {values.shape}. For runs x tasks: `stratified`.')
  if len(values) < 2 or not np.isfinite(values).all():
    return None
  if kind == 't':
    half = stats.t.ppf(0.5 + level / 2, len(values) - 1) * standard_error(values)
    return float(values.mean() - half), float(values.mean() + half)
  drawn = values[np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))]  # [draws, n]
  if kind == 'bootstrap_t':
    return _bootstrap_t(values, drawn, level)
  if kind == 'bca':
    low, high = _bca_levels(level, values, drawn.mean(1))
  else:
    low, high = _levels(kind, level, len(values), len(values) - 1)
  return tuple(np.quantile(drawn.mean(1), [low, high]).tolist())


def stratified(values: np.ndarray, statistic: Statistic, kind: str = 'expanded', level: float = 0.95,
               draws: int = 5000, seed: int = 0) -> tuple[float, float] | None:
  """The interval of a statistic of runs x tasks; runs are drawn anew within each task.

  Args:
    values: [N, M], or [N, M, K] of K arms whose runs are paired.
    statistic: [..., N, M] or [..., N, M, K] -> [...], such as `across_tasks.iqm`.
    kind: 'percentile' or 'expanded'.
    level, draws, seed: as of `interval`.

  Example:
    >>> values = np.random.default_rng(0).normal(size=(10, 4))
    >>> low, high = stratified(values, lambda x: x.mean((-2, -1)))
    >>> bool(low < values.mean() < high)
    True
  """
  check(kind, level, draws)
  if kind not in ('percentile', 'expanded'):
    raise ValueError(f"kind must be 'percentile' or 'expanded' for runs x tasks, got {kind!r}.")
  values = np.asarray(values, float)
  if values.ndim not in (2, 3):
    raise ValueError(f'values must be runs x tasks, [N, M] or [N, M, K]; got shape {values.shape}.')
  num, tasks = values.shape[:2]
  if num < 2 or not np.isfinite(values).all():
    return None
  rng, found = np.random.default_rng(seed), []
  for start in range(0, draws, 1000):  # parts, for memory
    rows = rng.integers(0, num, (min(1000, draws - start), num, tasks))
    found.append(statistic(values[rows, np.arange(tasks)]))
  found = np.concatenate(found)
  low, high = _levels(kind, level, num, tasks * (num - 1))
  return tuple(np.quantile(found, [low, high]).tolist())


def standard_error(values: np.ndarray) -> float:
  """s / sqrt(n)."""
  return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def check(kind: str, level: float, draws: int) -> None:
  """Raises ValueError for what no interval can be made of."""
  if kind not in KINDS:
    raise ValueError(f'kind must be one of {", ".join(KINDS)}, got {kind!r}.')
  if not 0 < level < 1:
    raise ValueError(f'level must be in (0, 1), got {level!r}.')
  if draws < 100:
    raise ValueError(f'draws must be at least 100, got {draws!r}.')


def _levels(kind: str, level: float, num: int, degrees: int) -> tuple[float, float]:
  tail = (1 - level) / 2
  if kind == 'expanded':
    tail = special.ndtr(np.sqrt(num / (num - 1)) * stats.t.ppf(tail, degrees))
  return tail, 1 - tail


def _bca_levels(level: float, values: np.ndarray, found: np.ndarray) -> tuple[float, float]:
  value, tail = values.mean(), (1 - level) / 2
  below = (np.mean(found < value) + np.mean(found <= value)) / 2  # draws are few-valued: ties count half
  bias = special.ndtri(np.clip(below, 1 / (len(found) + 1), 1 - 1 / (len(found) + 1)))
  others = (values.sum() - values) / (len(values) - 1)  # the mean without each
  deviations = others.mean() - others
  scale = np.sum(deviations ** 2) ** 1.5
  skew = np.sum(deviations ** 3) / (6 * scale) if scale > 0 else 0.0
  z = bias + special.ndtri(np.array([tail, 1 - tail]))
  return tuple(special.ndtr(bias + z / (1 - skew * z)))


def _bootstrap_t(values: np.ndarray, drawn: np.ndarray, level: float) -> tuple[float, float]:
  error = drawn.std(1, ddof=1) / np.sqrt(len(values))
  kept = error > 1e-12 * max(1e-300, float(np.abs(values).max()))  # a draw of equal values has no t
  mean, tail = values.mean(), (1 - level) / 2
  if not kept.any():
    return float(mean), float(mean)
  t = (drawn[kept].mean(1) - mean) / error[kept]
  low, high = np.quantile(t, [1 - tail, tail])
  return float(mean - low * standard_error(values)), float(mean - high * standard_error(values))
