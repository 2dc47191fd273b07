"""When a claim holds: claims about arms, tested on a ScoreFrame; and the record of a study, `verdict.json`.

The score of an arm is a table [S seeds, M columns] of `metric`:

    'accuracy'         that metric of every task that has it
    'left/accuracy'    of one task; also as configs name it, 'eval/left/accuracy'
    None               the first metric of every task
    'delta_m'          of every task, 100 o (S - b) / |b| of its first metric: percent better than the arm's baseline b
    'delta_m_all'      likewise, the mean over all metrics of the task

Columns of one table are of one direction (else their mean means nothing: take 'delta_m'). Of each seed counts the mean
over columns; the interquartile mean is over the whole table. Claims compare those means, paired by seed: would it be
so with other seeds? With unit='task' they compare the means over seeds, paired by task: would it be so for other tasks
of the kind? P-values are adjusted by Holm over the claims of a study. A claim holds (True), does not hold (False), or
there is no evidence (None).
"""
import abc
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtjax.config import did_you_mean
from mtjax.studies import intervals, significance
from mtjax.studies.across_tasks import iqm
from mtjax.studies.compare import Comparison, compare, compare_values
from mtjax.studies.delta_m import relative_change
from mtjax.studies.score_frame import ScoreFrame, by_seed, directions

DELTA_M = ('delta_m', 'delta_m_all')
CHOSEN = '(chosen)'  # the arm that a search chose on validation


@dataclasses.dataclass(frozen=True)
class Claim(abc.ABC):
  """One comparison that a study's claim rests on.

  Attributes:
    a, b: arms.
    metric: as of a study; None = the study's own.
    level: of the interval; 1 - level is that of the test.
    unit: what is paired, 'seed' or 'task'.
  """

  a: str
  b: str
  metric: str | None = None
  level: float = 0.95
  unit: str = 'seed'

  role = ''

  def __post_init__(self):
    if self.a == self.b:
      raise ValueError(f'A claim is about two arms, got {self.a!r} twice.')
    if not 0 < self.level < 1:
      raise ValueError(f"'level' must be in (0, 1), got {self.level!r}.")
    if self.unit not in ('seed', 'task'):
      raise ValueError(f"'unit' must be 'seed' or 'task', got {self.unit!r}.")

  @property
  def arms(self) -> tuple[str, str]:
    """Both."""
    return self.a, self.b

  @abc.abstractmethod
  def holds(self, found: Comparison) -> bool | None:
    """By the comparison of a with b."""


@dataclasses.dataclass(frozen=True)
class Better(Claim):
  """a is better than b: p after Holm below 1 - level, in that direction. False where a is worse.

  With a margin: by more than it, that is, the whole interval is beyond it; False where all of it is short of it.

  Attributes:
    margin: in the unit of the metric, >= 0.
  """

  margin: float = 0.0

  role = 'better'

  def __post_init__(self):
    super().__post_init__()
    if not self.margin >= 0:
      raise ValueError(f"'margin' must be >= 0, in the unit of the metric, got {self.margin!r}.")

  def holds(self, found: Comparison) -> bool | None:
    """See above."""
    if self.margin:
      return _beyond(found, self.margin)
    return {'better': True, 'worse': False, 'no evidence': None}[found.verdict]


@dataclasses.dataclass(frozen=True)
class NotWorse(Claim):
  """a is worse than b by less than `margin`: the whole interval of the difference says so. False where all of it is
  beyond the margin.

  Attributes:
    margin: in the unit of the metric, > 0.
  """

  margin: float = 0.0

  role = 'not worse'

  def __post_init__(self):
    super().__post_init__()
    if not self.margin > 0:
      raise ValueError(f"'margin' must be > 0, in the unit of the metric, got {self.margin!r}.")

  def holds(self, found: Comparison) -> bool | None:
    """See above."""
    return _beyond(found, -self.margin)


def better(a: str, b: str, metric: str | None = None, level: float = 0.95, margin: float = 0.0,
           unit: str = 'seed') -> Better:
  """The claim that arm a is better than arm b (by more than `margin`)."""
  return Better(a, b, metric, level, unit, margin)


def not_worse(a: str, b: str, margin: float, metric: str | None = None, level: float = 0.95,
              unit: str = 'seed') -> NotWorse:
  """The claim that arm a is worse than arm b by less than `margin`."""
  return NotWorse(a, b, metric, level, unit, margin)


def claims_of(verdict: Any, arms: Sequence[str]) -> list[Claim]:
  """What a study's `verdict` says as a list of claims; [] of a function.

  Example:
    >>> claims_of('new > old', ['new', 'old'])
    [Better(a='new', b='old', metric=None, level=0.95, unit='seed', margin=0.0)]
  """
  if isinstance(verdict, Claim):
    return [verdict]
  if verdict is None or verdict == 'better':
    return [better(arms[0], other) for other in arms[1:]]
  if isinstance(verdict, str):
    sides = re.split(r'\s+>\s+', verdict.strip())
    if len(sides) != 2 or not all(sides):
      raise ValueError(f"'verdict' as text is 'a > b', of two arms, or 'better', got {verdict!r}.")
    return [better(*sides)]
  if isinstance(verdict, Sequence):
    if len(verdict) == 2 and all(isinstance(part, str) and part in arms for part in verdict):
      return [better(*verdict)]
    return [claim for part in verdict for claim in claims_of(part, arms)]
  if callable(verdict):
    return []
  raise ValueError(f"'verdict' must be 'a > b', claims of mtjax.studies.verdict, a function of the scores or None, got "
                   f'{verdict!r}.')


def all_of(found: Sequence[bool | None]) -> bool | None:
  """True where all are, False where one is, else None."""
  return False if False in found else True if found and None not in found else None


@dataclasses.dataclass(frozen=True)
class Table:
  """The scores of an arm.

  Attributes:
    values: [S, M].
    columns: [M] of (task, metric); of 'delta_m' the metric is that.
    seeds: [S].
    higher_is_better: of all columns.
  """

  values: np.ndarray
  columns: list[tuple[str, str]]
  seeds: list[int]
  higher_is_better: bool

  @property
  def by_seed(self) -> dict[int, float]:
    """{seed: mean over columns}."""
    return dict(zip(self.seeds, self.values.mean(1).tolist()))


def table(frame: ScoreFrame, arm: str, metric: str | None, baseline: str | None = None, split: str = 'test') -> Table:
  """The scores of an arm; see the top of the file. Raises ValueError for a metric that the frame has not."""
  scores, higher = by_seed(frame, arm, split), directions(frame.where(split=split))
  if metric in DELTA_M:
    return _delta_m(frame, scores, higher, metric, arm, baseline, split)
  columns = columns_of(scores, metric, arm)
  if len({higher[column] for column in columns}) > 1:
    names = ', '.join('/'.join(column) for column in columns)
    raise ValueError(f"The metric {metric or 'of each task'} is {names}: of some more is better, of others less, so "
                     "their mean means nothing. Use metric='delta_m'.")
  seeds = sorted(set.intersection(*(set(scores[column]) for column in columns)))
  values = _cube(scores, columns, seeds)
  return Table(values, columns, seeds, higher[columns[0]])


def columns_of(scores: Mapping[tuple[str, str], Any], metric: str | None, arm: str) -> list[tuple[str, str]]:
  """The columns (task, metric) that a study's `metric` means."""
  if metric is None:
    first: dict[str, tuple[str, str]] = {}
    for column in scores:
      first.setdefault(column[0], column)
    return list(first.values())
  task, _, name = metric.removeprefix('eval/').rpartition('/')
  columns = [column for column in scores if column[1] == name and task in ('', column[0])]
  if not columns:
    known = {name for pair in scores for name in (pair[1], '/'.join(pair))} | set(DELTA_M)
    raise ValueError(f"The metric is {metric!r}, which arm '{arm}' has not. {did_you_mean(metric, known)}")
  return columns


def measured(frame: ScoreFrame, a: str, b: str, metric: str | None, baselines: Mapping[str, str], split: str = 'test',
             level: float = 0.95, unit: str = 'seed') -> Comparison:
  """Arm a against arm b: on the mean over columns, paired by seed, or on the mean over seeds, paired by task."""
  one, other = (table(frame, arm, metric, _base(arm, (a, b), baselines), split) for arm in (a, b))
  names = {'level': level, 'names': (a, b), 'column': ('all tasks', metric or 'first metric')}
  if unit == 'task':
    columns = [column for column in one.columns if column in other.columns]
    pairs = [[found.values[:, found.columns.index(column)].mean() for column in columns] for found in (one, other)]
    return compare_values(*pairs, one.higher_is_better, unit=unit, **names)
  own, against = one.by_seed, other.by_seed
  seeds = [seed for seed in one.seeds if seed in against]
  if not seeds:
    raise ValueError(f"Arms '{a}' and '{b}' share no seed, so nothing can be paired.")
  return compare_values([own[seed] for seed in seeds], [against[seed] for seed in seeds], one.higher_is_better, **names)


def per_task(frame: ScoreFrame, a: str, b: str, metric: str | None, split: str = 'test') -> list[Comparison]:
  """Arm a against arm b on each column of the metric (of 'delta_m': each task's first), Holm over them."""
  columns = columns_of(by_seed(frame, a, split), None if metric in DELTA_M else metric, a)
  rows = ScoreFrame(tuple(row for row in frame.where(arm=[a, b], split=split) if (row.task, row.metric) in columns))
  return compare(rows, a, b, split=split)


def summary(found: Table) -> dict[str, Any]:
  """Mean with Student's interval, interquartile mean with the expanded stratified bootstrap's."""
  x = np.array(list(found.by_seed.values()))
  return {'n': len(x), 'seeds': found.seeds, 'mean': float(x.mean()), 'interval': _pair(intervals.interval(x)),
          'sd': float(x.std(ddof=1)) if len(x) > 1 else None, 'iqm': float(iqm(found.values)),
          'iqm_interval': _pair(intervals.stratified(found.values, iqm) if len(x) > 1 else None),
          'values': {str(seed): value for seed, value in found.by_seed.items()}}


def best_arm(values: Mapping[str, Mapping[int, float]], higher: bool, level: float = 0.95) -> str | None:
  """The arm that is better than every other one, Holm over the others; None where there is none.

  Args:
    values: {arm: {seed: value}}.
    higher: whether more is better.
    level: 1 - level is that of the test.
  """
  means = {arm: np.mean(list(own.values())) for arm, own in values.items() if own}
  if len(means) < 2 or not np.isfinite(list(means.values())).all():
    return None
  first = max(means, key=lambda arm: means[arm] if higher else -means[arm])
  found = {}
  for arm in means:
    seeds = sorted(set(values[first]) & set(values[arm]))
    if arm != first and seeds:
      pair = [[values[name][seed] for seed in seeds] for name in (first, arm)]
      found[arm] = compare_values(*pair, higher, level=level)
  adjusted = significance.holm({arm: entry.p for arm, entry in found.items()})
  good = len(found) == len(means) - 1 and all(p is not None and p < 1 - level for p in adjusted.values())
  return first if good else None


def _beyond(found: Comparison, margin: float) -> bool | None:
  """Whether a is better than b by more than `margin`, as far as the interval tells."""
  if found.interval is None:
    return None
  low, high = found.interval if found.higher_is_better else (-found.interval[1], -found.interval[0])
  return True if low > margin else False if high < margin else None


def _base(arm: str, pair: tuple[str, str], baselines: Mapping[str, str]) -> str | None:
  """What an arm's Δm is relative to; of two arms of which one is the other's baseline, that one."""
  a, b = pair
  if baselines.get(a) == b or baselines.get(b) == a:
    return baselines.get(a) if baselines.get(a) == b else a
  return baselines.get(arm, arm if arm in baselines.values() else None)


def _delta_m(frame, scores, higher, metric, arm, baseline, split) -> Table:
  if baseline is None:
    raise ValueError(f"metric='{metric}' needs what arm '{arm}' is relative to: give the study a baseline.")
  base = by_seed(frame, baseline, split)
  columns = list(scores) if metric == 'delta_m_all' else columns_of(scores, None, arm)
  if missing := [column for column in columns if column not in base]:
    raise ValueError(f"The baseline '{baseline}' has no {'/'.join(missing[0])}, which arm '{arm}' has.")
  seeds = sorted(set.intersection(*(set(scores[column]) & set(base[column]) for column in columns)))
  values, against = (_cube(own, columns, seeds) for own in (scores, base))
  change = 100 * relative_change(values, against, [higher[column] for column in columns])
  tasks = list(dict.fromkeys(task for task, _ in columns))
  means = np.stack([change[:, [t == task for t, _ in columns]].mean(1) for task in tasks], axis=1)
  return Table(means, [(task, 'delta_m') for task in tasks], seeds, True)


def _cube(scores, columns, seeds) -> np.ndarray:
  """[S, M]."""
  return np.array([[scores[column][seed] for column in columns] for seed in seeds]).reshape(-1, len(columns))


def _pair(interval) -> list[float] | None:
  return None if interval is None else [float(x) for x in interval]


Verdict = str | Claim | Sequence[Claim] | Callable[[ScoreFrame], bool | None]
