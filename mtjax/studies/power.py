"""What the statistics themselves are worth, by simulation: coverage of intervals, power, false alarms.

Measured by `python -m experiments.interval_coverage`, in `experiments/results/interval_coverage.json`:

    95 % interval of     kind           n = 5    n = 10   n = 20
    mean, normal         t              0.947    0.949    0.952
    mean, normal         percentile     0.835    0.901    0.929
    mean, normal         expanded       0.917    0.945    0.949
    mean, normal         bca            0.839    0.898    0.928
    mean, normal         bootstrap_t    0.948    0.947    0.949
    mean, Student t5     t              0.956    0.956    0.955
    mean, Student t5     percentile     0.831    0.895    0.924
    mean, Student t5     expanded       0.915    0.942    0.946
    mean, Student t5     bca            0.821    0.879    0.909
    mean, Student t5     bootstrap_t    0.943    0.935    0.937
    mean, gamma(4)       t              0.932    0.939    0.940
    mean, gamma(4)       percentile     0.827    0.892    0.919
    mean, gamma(4)       expanded       0.906    0.937    0.941
    mean, gamma(4)       bca            0.833    0.896    0.921
    mean, gamma(4)       bootstrap_t    0.942    0.949    0.949
    iqm, 4 tasks         percentile     0.907    0.934    0.942
    iqm, 4 tasks         expanded       0.952    0.955    0.952

Within 0.93 to 0.97 everywhere: `t` and `bootstrap_t` for means, `expanded` for the interquartile mean over tasks.
The plain bootstrap, percentile or BCa, is far below with five seeds, and still short with twenty.

Chance that the paired t-test at 0.05 finds a true effect d_z:

    d_z   n = 3   n = 5   n = 6   n = 8   n = 10  n = 15  n = 20
    0.5   0.08    0.14    0.17    0.23    0.29    0.44    0.56
    0.8   0.13    0.28    0.36    0.50    0.62    0.82    0.92
    1.0   0.18    0.40    0.51    0.68    0.80    0.95    0.99
    1.5   0.32    0.71    0.83    0.95    0.99    1.00    1.00
    2.0   0.47    0.91    0.97    1.00    1.00    1.00    1.00
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
