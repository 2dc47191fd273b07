"""What the statistics themselves are worth, by simulation: coverage of intervals, power, false alarms.

Measured by `python -m experiments.interval_coverage`, in `experiments/results/interval_coverage.json`:

COVERAGE_TABLE
"""
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from mtjax.studies import intervals, significance
from mtjax.studies.compare import compare_values

Draw = Callable[[np.random.Generator, int], np.ndarray]
# Each of mean 0; the second has outliers, the third is skewed (1) as losses may be.
DISTRIBUTIONS: Mapping[str, Draw] = {
  'normal': lambda rng, n: rng.normal(size=n),
  'student_t5': lambda rng, n: rng.standard_t(5, n),
  'skewed': lambda rng, n: rng.gamma(4.0, 1.0, n) - 4.0,
}


def coverage(kind: str, n: int, draw: Draw, repetitions: int = 2000, level: float = 0.95, draws: int = 2000,
             seed: int = 0) -> float:
  """The share of simulated studies of n seeds whose interval of the mean holds the true mean, 0.

  Args:
    kind: of `intervals.KINDS`.
    n: seeds of a study.
    draw: (generator, n) -> [n] values of mean 0.
    repetitions: studies.
    level, draws: of the interval.
    seed: of the simulation.
  """
  rng, hits = np.random.default_rng(seed), 0
  for i in range(repetitions):
    low, high = intervals.interval(draw(rng, n), kind, level, draws, seed=i)
    hits += low <= 0 <= high
  return hits / repetitions


def stratified_coverage(statistic: Callable[[np.ndarray], np.ndarray], truth: float, kind: str, n: int, tasks: int,
                        repetitions: int = 1000, level: float = 0.95, draws: int = 1000, seed: int = 0) -> float:
  """Likewise of a statistic of n runs x tasks, normal scores of deviation 1 about 0 in every task."""
  rng, hits = np.random.default_rng(seed), 0
  for i in range(repetitions):
    low, high = intervals.stratified(rng.normal(size=(n, tasks)), statistic, kind, level, draws, seed=i)
    hits += low <= truth <= high
  return hits / repetitions


def power_table(effects: Sequence[float] = (0.5, 0.8, 1.0, 1.5, 2.0), sizes: Sequence[int] = (3, 5, 6, 8, 10, 15, 20),
                alpha: float = 0.05) -> dict[float, dict[int, float]]:
  """{effect size d_z: {seeds: chance that the paired t-test finds it}}.

  Example:
    >>> table = power_table([1.0], [5, 20])
    >>> {n: round(chance, 2) for n, chance in table[1.0].items()}
    {5: 0.4, 20: 0.99}
  """
  return {float(effect): {int(n): significance.power(effect, n, alpha) for n in sizes} for effect in effects}


def null_rates(scores: Sequence[float], n: int = 5, repetitions: int = 200, test: str = 'auto', level: float = 0.95,
               seed: int = 0) -> dict[str, float]:
  """The share of verdicts when an arm is compared with itself: both drawn anew from its stored scores.

  Args:
    scores: of the arm's seeds, at least two different ones.
    n: seeds of a simulated study.
    repetitions: of it.
    test, level: as of `compare`.
    seed: of the simulation.

  Returns:
    {'better' | 'worse' | 'no evidence': share}.
  """
  scores = np.asarray(scores, float)
  if len(np.unique(scores)) < 2:
    raise ValueError('Scores that do not vary have nothing to simulate: give at least two different ones.')
  rng = np.random.default_rng(seed)
  found = [compare_values(*rng.choice(scores, (2, n)), test=test, level=level).verdict for _ in range(repetitions)]
  return {verdict: found.count(verdict) / repetitions for verdict in ('better', 'worse', 'no evidence')}
