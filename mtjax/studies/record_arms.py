"""The arms of a study in its record: scores with intervals, change against the baseline, which are best."""
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtjax.studies import aggregates
from mtjax.studies.intervals import estimate
from mtjax.studies.score_frame import ScoreFrame, by_seed, directions
from mtjax.studies.verdict import DELTA_M, best_arm, columns_of, summary, table


def entry(runner: Any, frame: ScoreFrame, arm: str, baselines: Mapping[str, str],
          warnings: list[str]) -> dict[str, Any]:
  """One arm's entry; what could not be computed is said in `warnings`."""
  study, split = runner.study, runner.study.split
  cells = runner.cells(arm)
  states = [runner.status(cell)['status'] for cell in cells]
  rows = frame.where(arm=arm, split=split)
  status = 'finished' if set(states) == {'finished'} else 'partial' if rows else (
    'failed' if 'failed' in states else 'missing')
  made: dict[str, Any] = {
    'status': status, 'n': 0, 'seeds': [], 'values': {}, 'mean': None, 'interval': None, 'sd': None, 'iqm': None,
    'iqm_interval': None, 'delta_m': None, 'mean_rank': None, 'params': None, 'steps': None, 'seconds': None,
    'tasks': {}, 'overrides': dict(runner.arms[arm]) if isinstance(runner.arms[arm], Mapping) else {}}
  if not rows:
    return made
  base = baselines.get(arm, arm if arm in baselines.values() else None)
  known = set(frame.where(split=split).unique('arm'))
  try:
    made |= summary(table(frame, arm, study.metric, base if base in known else None, split))
  except ValueError as error:
    warnings.append(f"Arm '{arm}' has no score: {error}")
  if base in known and base != arm:
    try:
      changes = table(frame, arm, 'delta_m', base, split)
      found = estimate(list(changes.by_seed.values()))
      made['delta_m'] = {'mean': found.value, 'interval': found.interval}
    except ValueError as error:
      warnings.append(f"Arm '{arm}' has no Δm: {error}")
  params, seconds = (_of_runs(rows, name) for name in ('params', 'wall_s'))
  steps = sorted(rows.unique('step'))
  made |= {'params': params[0] if len(set(params)) == 1 else None, 'steps': steps[0] if len(steps) == 1 else None,
            'seconds': round(float(np.mean(seconds)), 1) if seconds else None,
            'tasks': _tasks(frame, arm, base if base in known else None, split)}
  return made


def _of_runs(rows: ScoreFrame, name: str) -> list:
  """One value a seed of a column that is the run's."""
  return [value for value in {row.seed: getattr(row, name) for row in rows}.values() if value is not None]


def _tasks(frame, arm, base, split) -> dict[str, dict[str, Any]]:
  found: dict[str, dict[str, Any]] = {}
  own, higher = by_seed(frame, arm, split), directions(frame.where(split=split))
  against = by_seed(frame, base, split) if base else {}
  for (task, metric), values in own.items():
    result = estimate(list(values.values()))
    change = None
    seeds = [seed for seed in values if seed in against.get((task, metric), {})]
    reference = np.mean([against[task, metric][seed] for seed in seeds]) if seeds else 0.0
    if abs(reference) > 1e-8:
      sign = 1 if higher[task, metric] else -1
      change = 100 * sign * float(np.mean([values[s] - against[task, metric][s] for s in seeds]) / abs(reference))
    found.setdefault(task, {})[metric] = {'mean': result.value, 'interval': result.interval, 'n': result.n,
                                          'higher_is_better': higher[task, metric], 'change': change}
  return found


def best(frame: ScoreFrame, study: Any, baselines: Mapping[str, str]) -> dict[str, Any]:
  """The arms that are better than every other one: by the study's score, and by each metric of each task."""
  arms = frame.where(split=study.split).unique('arm')
  score = None
  try:
    tables = {arm: table(frame, arm, study.metric, baselines.get(arm, arm if arm in baselines.values() else None),
                         study.split) for arm in arms}
    score = best_arm({arm: found.by_seed for arm, found in tables.items()},
                     next(iter(tables.values())).higher_is_better) if tables else None
  except ValueError:
    pass
  higher = directions(frame.where(split=study.split))
  scores = {arm: by_seed(frame, arm, study.split) for arm in arms}
  tasks: dict[str, dict[str, str | None]] = {}
  for column in higher:
    own = {arm: scores[arm][column] for arm in arms if column in scores[arm]}
    tasks.setdefault(column[0], {})[column[1]] = best_arm(own, higher[column])
  return {'score': score, 'tasks': tasks}


def add_ranks(frame: ScoreFrame, arms: dict[str, dict], metric: str | None, split: str) -> None:
  """Mean rank of each arm among those that have every column of the metric and share seeds."""
  scores = {arm: by_seed(frame, arm, split) for arm in frame.where(split=split).unique('arm')}
  columns = {arm: columns_of(own, None if metric in DELTA_M else metric, arm) for arm, own in scores.items()}
  if len(scores) < 2 or len({tuple(sorted(own)) for own in columns.values()}) > 1:
    return
  wanted = next(iter(columns.values()))
  rows = ScoreFrame(tuple(row for row in frame if (row.task, row.metric) in wanted))
  try:
    ranks = aggregates.mean_rank(rows, split=split)
  except ValueError:  # no seed that all have
    return
  for arm, found in ranks.items():
    arms[arm]['mean_rank'] = {'mean': found.value, 'interval': found.interval}
