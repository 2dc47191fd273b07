"""Choosing the step at which a run is judged, as data: the rule is written into every row that it leaves.

    last               the run's last step
    best:<aggregate>   joint: the one step at which the aggregate over tasks is best on validation
    per_task           for each task the step at which its first metric is best on validation: up to T checkpoints

Aggregates, of the values S[step, metric] of a run, o = ±1 the direction: `mean`, mean of o S; `normalised`, mean of
(o S - min) / (max - min), over the run's own steps; `delta_m`, against baseline values. Of equals the earliest
step wins. `joint:` is another name of `best:`.

On validation per_task is at least as good as any joint rule in each task, by construction; it is not one model, so the
two never share a table. The test split chooses nothing.
"""
from collections.abc import Mapping, Sequence

import numpy as np

from mtjax.config import did_you_mean
from mtjax.studies.delta_m import delta_m_values
from mtjax.studies.score_frame import ScoreFrame, directions

AGGREGATES = ('mean', 'normalised', 'delta_m')


def select(frame: ScoreFrame, rule: str, *, split: str = 'validation',
           baseline: Mapping[tuple[str, str], float] | None = None, within_task_first: bool = True) -> ScoreFrame:
  """The rows of the chosen steps, on all splits, with `selection` = rule.

  Args:
    frame: of every step evaluated.
    rule: 'last', 'best:<aggregate>' or 'per_task'.
    split: that chooses: 'validation', or 'train'; never 'test'.
    baseline: {(task, metric): value on the choosing split}, for 'best:delta_m'.
    within_task_first: the convention of 'best:delta_m'.

  Example:
    >>> row = dict(run='a', arm='a', seed=0, task='x', metric='accuracy', higher_is_better=True)
    >>> frame = ScoreFrame.from_rows({**row, 'split': split, 'step': step, 'value': value} for split, step, value in [
    ...   ('validation', 1, 0.9), ('validation', 2, 0.8), ('test', 1, 0.7), ('test', 2, 0.75)])
    >>> [(score.split, score.step, score.selection) for score in select(frame, 'best:mean')]
    [('validation', 1, 'best:mean'), ('test', 1, 'best:mean')]
  """
  if split == 'test':
    raise ValueError("select refuses split='test': what is chosen on the test split is no longer measured by it. "
                     "Use split='validation'.")
  if split not in ('train', 'validation'):
    raise ValueError(f"split must be 'validation' or 'train', got {split!r}.")
  kind, _, aggregate = rule.partition(':')
  kind = 'best' if kind == 'joint' else kind
  known = ('last', 'per_task', *(f'best:{name}' for name in AGGREGATES))
  if f'{kind}:{aggregate}'.rstrip(':') not in known:
    raise ValueError(f"Unknown rule '{rule}'. {did_you_mean(rule, known)}")
  if (baseline is None) == (aggregate == 'delta_m'):
    raise ValueError(f"rule '{rule}' {'needs' if baseline is None else 'has no use for'} a baseline.")
  if chosen := [name for name in frame.unique('selection') if name]:
    raise ValueError(f"Steps have been chosen already, by '{chosen[0]}'.")
  rows = []
  for own in frame.groups('run', 'arm', 'seed').values():
    if kind == 'last':
      step = max(row.step for row in own if row.split != 'train' or not _evaluated(own))
      steps = dict.fromkeys(own.unique('task'), step)
    elif kind == 'per_task':
      steps = {task: _best(own.where(task=task), split, 'first') for task in own.unique('task')}
    else:
      steps = dict.fromkeys(own.unique('task'), _best(own, split, aggregate, baseline, within_task_first))
    for task, step in steps.items():
      _check_evaluated(own.where(task=task), step, rule)
    rows += [row for row in own if row.step == steps[row.task]]
  return ScoreFrame(tuple(rows)).replace(selection=rule)


def best_step(values: np.ndarray, higher: Sequence[bool], aggregate: str, tasks: Sequence[str],
              baseline: np.ndarray | None = None, within_task_first: bool = True) -> int:
  """Which of the steps is best: [steps, M] -> index. A step with a value that is not finite is never chosen.

  Of equal steps, up to rounding, the earliest is chosen.

  Args:
    values: of one run.
    higher: [M].
    aggregate: of AGGREGATES, or 'first': the first column alone.
    tasks: [M], whose metric each column is.
    baseline: [M], for 'delta_m'.
    within_task_first: see `delta_m`.
  """
  signed = np.asarray(values, float) * np.where(higher, 1.0, -1.0)
  columns = signed[:, :1] if aggregate == 'first' else signed
  usable = np.isfinite(columns).all(1)
  if not usable.any():
    raise ValueError('No step has finite scores of every metric, so none is best.')
  if aggregate == 'normalised':
    low, high = columns[usable].min(0), columns[usable].max(0)
    columns = (columns - low) / np.where(high > low, high - low, 1.0)
  if aggregate == 'delta_m':
    score = delta_m_values(values, np.asarray(baseline, float), higher, tasks, within_task_first)
  else:
    score = columns.mean(1)
  score = np.where(usable, score, -np.inf)
  scale = np.abs(score[usable]).max()
  return int(np.argmax(score >= score.max() - 1e-12 * scale))  # equals may differ by rounding: the earliest of them


def _best(own: ScoreFrame, split: str, aggregate: str, baseline=None, within_task_first=True) -> int:
  rows = own.where(split=split)
  columns = list(directions(rows))
  if not columns:
    raise ValueError(f"Run '{own.rows[0].run}' has no scores on '{split}', by which to choose.")
  found = {(row.step, row.task, row.metric): row.value for row in rows}
  steps = sorted(step for step in rows.unique('step') if all((step, *column) in found for column in columns))
  if not steps:
    raise ValueError(f"Run '{own.rows[0].run}' has no step with scores of every task and metric on '{split}'.")
  if baseline is not None and (missing := [column for column in columns if column not in baseline]):
    raise ValueError(f'The baseline has no value of {"/".join(missing[0])}.')
  values = np.array([[found[step, *column] for column in columns] for step in steps], float)
  base = None if baseline is None else np.array([baseline[column] for column in columns], float)
  higher = directions(rows)
  try:
    index = best_step(values, [higher[column] for column in columns], aggregate, [task for task, _ in columns], base,
                      within_task_first)
  except ValueError as error:
    raise ValueError(f"Run '{own.rows[0].run}', split '{split}': {error}") from error
  return steps[index]


def _evaluated(own: ScoreFrame) -> bool:
  return any(row.split != 'train' for row in own)


def _check_evaluated(own: ScoreFrame, step: int, rule: str) -> None:
  """A split that was scored at other steps only would drop out of the table unseen."""
  for split in own.unique('split'):
    rows = own.where(split=split)
    if split != 'train' and step not in rows.unique('step'):
      raise ValueError(f"'{rule}' chose step {step} of run '{own.rows[0].run}', which has no {split} scores of task "
                       f"'{own.rows[0].task}' there, only at {sorted(rows.unique('step'))}: evaluate that checkpoint.")
