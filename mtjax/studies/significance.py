"""P-values of paired comparisons, and their correction for many.

d: [n], differences of n pairs; b, c: items that only one of two models got right. All two-sided.

    paired t      T = mean(d) sqrt(n) / sd(d), Student with n - 1 degrees
    sign flip     share of the 2^n sign patterns s with |sum s d| >= |sum d|: at least 2 / 2^n
    Wilcoxon      sign flip of the signed ranks of |d|, average ranks for ties, zeros left out
    McNemar       2 P(Binomial(b + c, 1/2) <= min(b, c)), at most 1
    Holm          p_(k) -> max over i <= k of min(1, (m - i + 1) p_(i)), of m p-values in rising order

Demsar, "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 2006; Holm, "A Simple Sequentially
Rejective Multiple Test Procedure", 1979; McNemar, 1947, in its exact binomial form.
"""
import functools
import itertools
import math
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
from scipy import stats

EXACT = 16  # pairs up to which every sign pattern is tried
DRAWS = 100_000


def spread(differences: Sequence[float], scale: float | None = None) -> float:
  """sd(d), and 0 where it is mere rounding against `scale`, by default max |d|."""
  d = np.asarray(differences, float)
  scale = float(np.abs(d).max()) if scale is None else scale
  sd = float(d.std(ddof=1)) if len(d) > 1 else 0.0
  return sd if sd > 1e-12 * scale else 0.0


def paired_t(differences: Sequence[float], scale: float | None = None) -> float | None:
  """None where t is not defined: one pair, or pairs that all differ by the same; 1 where none differs.

  Example:
    >>> print(f'{paired_t([1.0, 2.0, 3.0]):.4f}')
    0.0742
  """
  d = np.asarray(differences, float)
  if not d.any():
    return 1.0
  sd = spread(d, scale)
  return float(2 * stats.t.sf(abs(d.mean()) / sd * np.sqrt(len(d)), len(d) - 1)) if sd else None


def wilcoxon(differences: Sequence[float]) -> float:
  """Of the signed ranks; 1 where no pair differs. Exact up to EXACT pairs, also with ties; beyond, asymptotic."""
  d = np.asarray(differences, float)
  d = d[d != 0]
  if len(d) > EXACT:
    return float(stats.wilcoxon(d, method='asymptotic').pvalue)
  return sign_flip(np.sign(d) * stats.rankdata(np.abs(d)))


def sign_flip(differences: Sequence[float], seed: int = 0) -> float:
  """Exact up to EXACT pairs; beyond, of DRAWS random patterns and the observed one.

  Example:
    >>> sign_flip([0.1, 0.2, 0.3, 0.1, 0.2])
    0.0625
  """
  d = np.asarray(differences, float)
  reached = np.abs(d.sum()) - 1e-9 * np.abs(d).sum()  # equal sums may differ by rounding
  if len(d) <= EXACT:
    return float(np.mean(np.abs(_patterns(len(d)) @ d) >= reached))
  rng = np.random.default_rng(seed)
  hits = sum(int((np.abs(rng.choice((-1.0, 1.0), (DRAWS // 10, len(d))) @ d) >= reached).sum()) for _ in range(10))
  return (hits + 1) / (DRAWS + 1)


def mcnemar(only_a: int, only_b: int) -> float:
  """Of the items that only one of two models got right.

  Example:
    >>> mcnemar(1, 5)
    0.21875
  """
  if only_a < 0 or only_b < 0:
    raise ValueError(f'Counts must be >= 0, got {only_a} and {only_b}.')
  if only_a + only_b == 0:
    return 1.0
  return min(1.0, 2 * float(stats.binom.cdf(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p_values: Mapping[Hashable, float | None]) -> dict[Hashable, float | None]:
  """The adjusted p-values; None stays None and does not count among the comparisons.

  Example:
    >>> holm({'a': 0.01, 'b': 0.04, 'c': 0.03, 'd': None})
    {'a': 0.03, 'b': 0.06, 'c': 0.06, 'd': None}
  """
  known = sorted(((p, i, name) for i, (name, p) in enumerate(p_values.items()) if p is not None), key=lambda x: x[:2])
  if wrong := [p for p, _, _ in known if not 0 <= p <= 1]:
    raise ValueError(f'p-values must be in [0, 1], got {wrong[0]!r}.')
  adjusted, largest = dict.fromkeys(p_values), 0.0
  for rank, (p, _, name) in enumerate(known):
    largest = max(largest, min(1.0, (len(known) - rank) * p))
    adjusted[name] = largest
  return adjusted


def friedman(values: np.ndarray) -> float:
  """Of three or more methods on five or more data sets, [A, D]: whether their mean ranks differ."""
  values = np.asarray(values, float)
  if values.ndim != 2 or values.shape[0] < 3 or values.shape[1] < 5:
    raise ValueError(f'Friedman needs at least 3 methods x 5 data sets, got shape {values.shape}.')
  if (np.ptp(values, axis=0) == 0).all():
    return 1.0
  return float(stats.friedmanchisquare(*values).pvalue)


def power(effect: float, n: int, alpha: float = 0.05) -> float:
  """P(paired t-test finds it) for a true effect d_z = mean / sd of the differences, of n pairs.

  Example:
    >>> print(f'{power(1.0, 10):.2f}')
    0.80
  """
  if n < 2 or not 0 < alpha < 1:
    raise ValueError(f'power needs n >= 2 and alpha in (0, 1), got n = {n!r}, alpha = {alpha!r}.')
  critical, shift = stats.t.ppf(1 - alpha / 2, n - 1), abs(effect) * math.sqrt(n)
  if shift == 0:
    return alpha
  below = stats.nct.cdf(-critical, n - 1, shift)  # underflows to NaN where it is nothing
  return float(stats.nct.sf(critical, n - 1, shift) + (below if np.isfinite(below) else 0.0))


def minimal_detectable_effect(sd: float, n: int, alpha: float = 0.05, chance: float = 0.8) -> float | None:
  """The smallest true mean difference that the paired t-test of n pairs finds with this chance; None for n < 2.

  Args:
    sd: of the differences.
    n: pairs.
    alpha: level of the test.
    chance: its power, more than alpha.
  """
  if not alpha < chance < 1:
    raise ValueError(f'chance must be in (alpha, 1) = ({alpha}, 1), got {chance!r}.')
  return _detectable(n, alpha, chance) * sd if n > 1 else None


@functools.cache
def _patterns(n: int) -> np.ndarray:
  return np.array(list(itertools.product((1.0, -1.0), repeat=n))).reshape(2 ** n, n)


@functools.lru_cache(1000)
def _detectable(n: int, alpha: float, chance: float) -> float:
  low, high = 0.0, 1.0
  while power(high, n, alpha) < chance:
    high *= 2
  for _ in range(50):
    middle = (low + high) / 2
    low, high = (middle, high) if power(middle, n, alpha) < chance else (low, middle)
  return high
