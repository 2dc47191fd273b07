"""What many scores of an arm come to: mean rank, normalised scores, means by tag, retention, three levels.

All are functions of a ScoreFrame with one step a run (see `select`). Each seed gives one number, and what is returned
is the mean over seeds with its interval, so that what a seed does to all arms alike cancels where it can.

    mean_rank     rank of an arm among the arms, 1 = best, average ranks for ties; mean over metrics
    normalised    (S - lo) / (hi - lo), worst lo = 0 and best hi = 1 whichever the direction
    by_tag        mean over the tasks of a tag, of the mean over a task's metrics
    retention     S / b

`mean_rank`, and `normalised` by bounds taken from the table, change when an arm is added: print the arms and
the bounds. Normalisation by the worst arm and an ideal score is that of HEMM, Liang et al. 2024,
https://arxiv.org/abs/2407.03418.
"""
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from scipy import stats

from mtjax.studies import intervals
from mtjax.studies.delta_m import EPSILON, Baseline, paired
from mtjax.studies.intervals import Estimate
from mtjax.studies.score_frame import ScoreFrame, by_seed, directions

Bounds = Mapping[tuple[str, str], float]


def ranks(values: np.ndarray, higher: Sequence[bool]) -> np.ndarray:
  """Mean rank over metrics: [A, ..., M] -> [A, ...]; 1 = best.

  Example:
    >>> ranks([[0.9, 0.2], [0.8, 0.1], [0.7, 0.1]], [True, False]).tolist()
    [2.0, 1.75, 2.25]
  """
  signed = np.asarray(values, float) * np.where(higher, -1.0, 1.0)
  return stats.rankdata(signed, axis=0, nan_policy='propagate').mean(-1)


def mean_rank(frame: ScoreFrame, *, split: str = 'test', kind: str = 't', level: float = 0.95) -> dict[str, Estimate]:
  """{arm: mean rank}: ranks within each seed, over the seeds and metrics that all arms have."""
  values, columns = cube(frame, split)
  higher = directions(frame.where(split=split))
  found = ranks(values, [higher[column] for column in columns])  # [A, S]
  return {arm: intervals.estimate(own, kind, level) for arm, own in zip(frame.where(split=split).unique('arm'), found)}


def bounds(frame: ScoreFrame, *, split: str = 'test') -> tuple[dict, dict]:
  """(worst, best) of the arms' means over seeds: {(task, metric): value}. They change when an arm is added."""
  tables = [by_seed(frame, arm, split) for arm in frame.where(split=split).unique('arm')]
  worst, best = {}, {}
  for column, higher in directions(frame.where(split=split)).items():
    means = [float(np.mean(list(table[column].values()))) for table in tables if column in table]
    worst[column], best[column] = (min(means), max(means)) if higher else (max(means), min(means))
  return worst, best


def normalised(frame: ScoreFrame, lo: Bounds | None = None, hi: Bounds | None = None, *,
               split: str = 'test') -> ScoreFrame:
  """The frame with (S - lo) / (hi - lo) in place of S; higher is better in all of it.

  Args:
    frame: with scores of any direction.
    lo: {(task, metric): the value that becomes 0}; None = the worst arm's mean on `split`.
    hi: {(task, metric): the value that becomes 1}, such as the score of the reference; None = the best arm's mean.
    split: from whose scores missing bounds are taken.
  """
  if lo is None or hi is None:
    worst, best = bounds(frame, split=split)
    lo, hi = worst if lo is None else lo, best if hi is None else hi
  rows = []
  for row in frame:
    column = row.task, row.metric
    for name, table in (('lo', lo), ('hi', hi)):
      if column not in table:
        raise ValueError(f'{name} has no bound of {"/".join(column)}.')
    if hi[column] == lo[column]:
      raise ValueError(f'lo and hi of {"/".join(column)} are both {lo[column]:g}: nothing can be normalised by them.')
    if (hi[column] > lo[column]) != row.higher_is_better:
      raise ValueError(f'hi of {"/".join(column)} must be the better bound, got lo = {lo[column]:g} and hi = '
                       f'{hi[column]:g} where {"higher" if row.higher_is_better else "lower"} is better.')
    rows.append({**vars(row), 'value': (row.value - lo[column]) / (hi[column] - lo[column]), 'higher_is_better': True})
  return ScoreFrame.from_rows(rows)


def by_tag(frame: ScoreFrame, tags: Mapping[str, str | Collection[str]], *, split: str = 'test', kind: str = 't',
           level: float = 0.95) -> dict[str, dict[str, Estimate]]:
  """{tag: {arm: macro mean over its tasks}}.

  Args:
    frame: whose metrics share one direction and scale within a tag (see `normalised`).
    tags: {task: its tag or tags}; a task without an entry counts nowhere.
    split, kind, level: as elsewhere.
  """
  if unknown := [task for task in tags if task not in frame.unique('task')]:
    raise ValueError(f"tags names task '{unknown[0]}', of which the frame has no score.")
  members: dict[str, list[str]] = {}
  for task, own in tags.items():
    for tag in [own] if isinstance(own, str) else own:
      members.setdefault(tag, []).append(task)
  found: dict[str, dict[str, Estimate]] = {}
  for tag, tasks in members.items():
    part = frame.where(task=tasks, split=split)
    if len(set(directions(part).values())) > 1:
      raise ValueError(f"Tag '{tag}' mixes metrics of which more is better with others: see `normalised`.")
    values, columns = cube(part, split)
    means = np.mean([values[..., [t == task for t, _ in columns]].mean(-1) for task in tasks], axis=0)  # [A, S]
    found[tag] = {arm: intervals.estimate(own, kind, level) for arm, own in zip(part.unique('arm'), means)}
  return found


def three_level_report(frame: ScoreFrame, category: Mapping[str, str], trained: Collection[str], *, split: str = 'test',
                       kind: str = 't', level: float = 0.95) -> dict[str, dict[str, Estimate]]:
  """{'instances' | 'tasks' | 'categories': {arm: macro mean}}: how far what was learnt carries.

  'instances': test rows of tasks that were trained on; 'tasks': tasks that were not, of a category that was;
  'categories': tasks of a category of which none was. A level without tasks is left out.

  Args:
    frame: as of `by_tag`.
    category: {task: category}, of every task of the frame.
    trained: the tasks that were trained on.
    split, kind, level: as elsewhere.
  """
  if missing := [task for task in [*frame.unique('task'), *trained] if task not in category]:
    raise ValueError(f"category has no entry of task '{missing[0]}'.")
  seen = {category[task] for task in trained}
  held_out = {task: 'instances' if task in trained else 'tasks' if category[task] in seen else 'categories'
              for task in frame.unique('task')}
  found = by_tag(frame, held_out, split=split, kind=kind, level=level)
  return {name: found[name] for name in ('instances', 'tasks', 'categories') if name in found}


def retention(frame: ScoreFrame, baseline: Baseline, *, split: str = 'test', kind: str = 't',
              level: float = 0.95) -> dict[str, dict[tuple[str, str], Estimate]]:
  """{arm: {(task, metric): score / baseline}}, seeds paired; 1 = kept whole. Baselines as of `delta_m`."""
  found = {}
  for arm in frame.unique('arm'):
    if arm == baseline:
      continue
    values, base, columns, _ = paired(frame, arm, baseline, split)
    if (np.abs(base) < EPSILON).any():
      column = columns[int(np.argwhere(np.abs(base) < EPSILON)[0][1])]
      raise ValueError(f'The baseline of {"/".join(column)} is within {EPSILON:g} of 0: no share of it is defined.')
    found[arm] = {column: intervals.estimate(share, kind, level) for column, share in zip(columns, (values / base).T)}
  return found


def cube(frame: ScoreFrame, split: str = 'test') -> tuple[np.ndarray, list[tuple[str, str]]]:
  """([A, S, M], the M columns (task, metric)), over the seeds that all arms have in every column.

  Raises ValueError where an arm lacks a column that another has, and where no seed is common.
  """
  arms = frame.where(split=split).unique('arm')
  if not arms:
    raise ValueError(f"The frame has no scores on split '{split}'.")
  tables = [by_seed(frame, arm, split) for arm in arms]
  columns = list(directions(frame.where(split=split)))
  for arm, table in zip(arms, tables):
    if missing := [column for column in columns if column not in table]:
      raise ValueError(f"Arm '{arm}' has no {'/'.join(missing[0])} on '{split}', which others have.")
  seeds = sorted(set.intersection(*(set(table[column]) for table in tables for column in columns)))
  if not seeds:
    raise ValueError(f"No seed has scores of all arms and metrics on '{split}'.")
  return np.array([[[table[column][seed] for column in columns] for seed in seeds] for table in tables]), columns
