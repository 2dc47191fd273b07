"""Is arm a better than arm b? Paired differences, and an answer in words.

By seed: the same seeds and data order for both arms, so d[s] = S_a[s] - S_b[s]. By item: one run each on the same test
items, d[i] likewise; of scores 0 and 1 McNemar's exact test.

    difference    mean(d), with an interval
    effect_size   d_z = mean(d) / sd(d)
    p, p_holm     of the test, and adjusted over all tasks and metrics compared
    minimal_detectable_effect    what a paired t-test at alpha = 1 - level would find four times in five
    verdict       'better' | 'worse' where p_holm < 1 - level, else 'no evidence'

test='auto': by seed the paired t-test, by item McNemar's where scores are 0 and 1, else the paired t-test. Where all
pairs differ by the same, t is not defined and the exact sign-flip test stands in. The interval is Student's t by
default: with five seeds it keeps its level, which the percentile and BCa bootstraps do not (`mtjax.studies.power`), and
it is the inverse of the test, so the two never disagree. Other kinds: `mtjax.studies.intervals`.
"""
import dataclasses
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from mtjax.config import did_you_mean
from mtjax.studies import intervals, significance
from mtjax.studies.score_frame import ScoreFrame, by_seed, directions

TESTS = ('auto', 't', 'wilcoxon', 'sign_flip', 'mcnemar')
FEWEST_SEEDS = 5
Items = Mapping[str, Mapping[str, Mapping[Hashable, float]]]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """a against b on one metric of one task.

  Attributes:
    a, b, task, metric: what was compared.
    unit: 'seed' or 'item'.
    n: pairs.
    difference: mean of a - b, in the metric's own unit.
    interval: of the difference; None of a single pair.
    level: of the interval.
    test: by which p was found.
    p, p_holm: None where no test is defined.
    effect_size: d_z, None where the differences do not vary.
    minimal_detectable_effect: in the metric's unit; None where the differences do not vary.
    higher_is_better: direction of the metric.
    verdict: 'better', 'worse' or 'no evidence', of a.
    warnings: what a reader should know.
  """

  a: str
  b: str
  task: str
  metric: str
  unit: str
  n: int
  difference: float
  interval: tuple[float, float] | None
  level: float
  test: str
  p: float | None
  p_holm: float | None
  effect_size: float | None
  minimal_detectable_effect: float | None
  higher_is_better: bool
  verdict: str
  warnings: tuple[str, ...] = ()

  @property
  def sentence(self) -> str:
    """The verdict in plain language."""
    pairs = f'{self.n} {self.unit}{"s" * (self.n != 1)}'
    size = f'{self.difference:+.4g}'
    if self.interval is not None:
      size += f' ({100 * self.level:g} % interval {self.interval[0]:+.4g} to {self.interval[1]:+.4g})'
    p = 'no p-value' if self.p_holm is None else f'p = {self.p_holm:.2g} after Holm'
    head = {'better': f"'{self.a}' is better than '{self.b}'", 'worse': f"'{self.a}' is worse than '{self.b}'",
            'no evidence': f"There is no evidence that '{self.a}' differs from '{self.b}'"}[self.verdict]
    tail = ''
    if self.verdict == 'no evidence' and self.minimal_detectable_effect is not None:
      tail = f' A true difference of {self.minimal_detectable_effect:.3g} would be found four times in five.'
    return f'{head} on {self.task}/{self.metric}: {size}, {pairs}, {p}.{tail}'


def compare(frame: ScoreFrame, a: str, b: str, unit: str = 'seed', test: str = 'auto', *, split: str = 'test',
            kind: str = 't', level: float = 0.95, items: Items | None = None) -> list[Comparison]:
  """a against b on every task and metric that both have; Holm over all of them.

  Args:
    frame: of one step a run (see `select`).
    a, b: arms.
    unit: 'seed', or 'item' with `items`.
    test: of TESTS.
    split: on which.
    kind: of the interval, see `intervals`.
    level: of the interval; 1 - level is that of the test.
    items: {arm: {task: {item's id: score}}}, of unit='item'; its metric is the frame's first of the task.

  Example:
    >>> row = dict(task='left', split='test', step=9, metric='accuracy', higher_is_better=True, selection='last')
    >>> frame = ScoreFrame.from_rows({**row, 'run': f'{arm}{seed}', 'arm': arm, 'seed': seed, 'value': value}
    ...   for arm, values in {'new': [.91, .92, .93, .93, .92, .94], 'old': [.90, .90, .91, .91, .91, .91]}.items()
    ...   for seed, value in enumerate(values))
    >>> compare(frame, 'new', 'old')[0].verdict
    'better'
  """
  if a == b:
    raise ValueError(f"a and b are the same arm, '{a}'.")
  for arm in (a, b):
    if arm not in frame.unique('arm'):
      raise ValueError(f"The frame has no arm '{arm}'. {did_you_mean(arm, frame.unique('arm'))}")
  if unit not in ('seed', 'item'):
    raise ValueError(f"unit must be 'seed' or 'item', got {unit!r}.")
  if (unit == 'item') != (items is not None):
    raise ValueError("Scores of items go with unit='item': items={arm: {task: {id: score}}}.")
  pairs, notes = (_by_seed if unit == 'seed' else _by_item)(frame, a, b, split, items)
  higher = directions(frame.where(split=split))
  found = {column: compare_values(x, y, higher[column], unit=unit, test=test, kind=kind, level=level, names=(a, b),
                                  column=column) for column, (x, y) in pairs.items()}
  general = budget_warnings(frame, a, b, split)
  adjusted = significance.holm({column: entry.p for column, entry in found.items()})
  return [dataclasses.replace(entry, p_holm=adjusted[column], verdict=_verdict(entry, adjusted[column]),
                              warnings=(*entry.warnings, *notes[column], *general))
          for column, entry in found.items()]


def compare_values(a: Sequence[float], b: Sequence[float], higher_is_better: bool = True, *, unit: str = 'seed',
                   test: str = 'auto', kind: str = 't', level: float = 0.95, names: tuple[str, str] = ('a', 'b'),
                   column: tuple[str, str] = ('task', 'metric')) -> Comparison:
  """One comparison of paired values: a [n], b [n]; p_holm is p.

  Example:
    >>> compare_values([0.5], [0.6]).sentence
    "There is no evidence that 'a' differs from 'b' on task/metric: -0.1, 1 seed, no p-value."
  """
  a, b = np.asarray(a, float), np.asarray(b, float)
  if a.shape != b.shape or a.ndim != 1 or not len(a):
    raise ValueError(f'a and b must be pairs, [n] each; got shapes {a.shape} and {b.shape}.')
  if test not in TESTS:
    raise ValueError(f'Unknown test {test!r}. {did_you_mean(test, TESTS)}')
  d, binary = a - b, bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
  if test == 'mcnemar' and not binary:
    raise ValueError("test='mcnemar' needs scores of 0 and 1.")
  if test == 'auto':
    test = 'mcnemar' if unit == 'item' and binary else 't'
  scale = float(np.abs(np.concatenate([a, b])).max())
  warnings = []
  if not np.isfinite(d).all():
    bad = int((~np.isfinite(d)).sum())
    warnings.append(f'{bad} of {len(d)} pairs have a score that is not finite; nothing is tested.')
    p = None
  elif len(d) < 2:
    warnings.append(f'A single pair of {"runs" if unit == "seed" else "items"}: no interval and no test are possible.')
    p = None
  else:
    if test == 't' and significance.paired_t(d, scale) is None:
      test = 'sign_flip'
      warnings.append('All pairs differ by the same, so t is not defined; the exact sign-flip test stands in.')
    p = {'t': lambda: significance.paired_t(d, scale), 'wilcoxon': lambda: significance.wilcoxon(d),
         'sign_flip': lambda: significance.sign_flip(d),
         'mcnemar': lambda: significance.mcnemar(int((d > 0).sum()), int((d < 0).sum()))}[test]()
  if unit == 'seed' and 1 < len(d) < FEWEST_SEEDS:
    warnings.append(f'{len(d)} seeds, fewer than five.')
  if unit == 'seed' and 2 <= len(d) <= FEWEST_SEEDS:
    warnings.append(f'With {len(d)} pairs the sign-flip and the Wilcoxon test cannot go below p = {2 / 2 ** len(d):g}; '
                    'use six seeds or more.')
  finite = bool(np.isfinite(d).all())
  sd = significance.spread(d, scale) if finite else 0.0
  entry = Comparison(
    *names, *column, unit=unit, n=len(d), difference=float(d.mean()), interval=intervals.interval(d, kind, level),
    level=level, test=test, p=p, p_holm=p, effect_size=float(d.mean() / sd) if sd else None,
    minimal_detectable_effect=significance.minimal_detectable_effect(sd, len(d), 1 - level) if sd else None,
    higher_is_better=bool(higher_is_better), verdict='no evidence', warnings=tuple(warnings))
  return dataclasses.replace(entry, verdict=_verdict(entry, p))


def budget_warnings(frame: ScoreFrame, a: str, b: str, split: str = 'test') -> list[str]:
  """Unequal steps or parameters of two arms. Steps only where no rule chose among them."""
  found = []
  rows = {arm: frame.where(arm=arm, split=split) for arm in (a, b)}
  if all(rule in ('', 'last') for rule in frame.where(split=split).unique('selection')):
    steps = {arm: sorted(own.unique('step')) for arm, own in rows.items()}
    if steps[a] != steps[b]:
      found.append(f"Unequal steps: '{a}' {_listed(steps[a])}, '{b}' {_listed(steps[b])}.")
  params = {arm: sorted(count for count in own.unique('params') if count is not None) for arm, own in rows.items()}
  if params[a] and params[b] and params[a] != params[b]:
    found.append(f"Unequal parameters: '{a}' {_listed(params[a])}, '{b}' {_listed(params[b])}.")
  return found


def _verdict(entry: Comparison, p: float | None) -> str:
  if p is None or p >= 1 - entry.level or entry.difference == 0:
    return 'no evidence'
  return 'better' if (entry.difference > 0) == entry.higher_is_better else 'worse'


def _by_seed(frame, a, b, split, _):
  one, other = by_seed(frame, a, split), by_seed(frame, b, split)
  pairs, notes = {}, {}
  for column in one:
    if column not in other:
      continue
    seeds = sorted(set(one[column]) & set(other[column]))
    if not seeds:
      raise ValueError(f"Arms '{a}' and '{b}' share no seed on {'/'.join(column)}, so nothing can be paired.")
    alone = sorted(set(one[column]) ^ set(other[column]))
    pairs[column] = [one[column][s] for s in seeds], [other[column][s] for s in seeds]
    notes[column] = [f'Seeds that only one arm has were left out: {_listed(alone)}.'] if alone else []
  if not pairs:
    raise ValueError(f"Arms '{a}' and '{b}' share no task and metric on '{split}'.")
  return pairs, notes


def _by_item(frame, a, b, split, items):
  if missing := [arm for arm in (a, b) if arm not in items]:
    raise ValueError(f"items has no arm '{missing[0]}'.")
  metric: dict[str, str] = {}
  for task, name in directions(frame.where(split=split)):
    metric.setdefault(task, name)
  pairs, notes = {}, {}
  for task in items[a]:
    if task not in items[b]:
      continue
    if task not in metric:
      raise ValueError(f"items names task '{task}', of which the frame has no score on '{split}'.")
    one, other = items[a][task], items[b][task]
    shared = [key for key in one if key in other]
    if not shared:
      raise ValueError(f"Arms '{a}' and '{b}' share no item of task '{task}'.")
    column = task, metric[task]
    pairs[column] = [one[key] for key in shared], [other[key] for key in shared]
    alone = len(one) + len(other) - 2 * len(shared)
    notes[column] = [f'Unequal item sets: {len(shared)} items are shared, {alone} are of one arm only and were left '
                     'out.'] if alone else []
    for arm in (a, b):
      if len(seeds := frame.where(arm=arm, task=task, split=split).unique('seed')) == 1:
        notes[column].append(f"Arm '{arm}' is a single run (seed {seeds[0]}): its items say nothing of other seeds.")
  if not pairs:
    raise ValueError(f"Arms '{a}' and '{b}' share no task with scores of items.")
  return pairs, notes


def _listed(values: Sequence) -> str:
  return ', '.join(map(str, values[:6])) + (', …' if len(values) > 6 else '')
