"""Runs a study: what is missing of its cells, then the verdict and the report.

    DIR/cells/<arm>/[<part>/]<seed>/   a run folder each (config.json, metrics.jsonl, run.json, checkpoints/)
    DIR/scores.jsonl                   the ScoreFrame of all of them
    DIR/verdict.json, report.md, report.html
    DIR/smoke/…                        the same of a smoke run

Cells whose configs differ in the seed alone are trained side by side by one program (`mtjax.together`). A finished cell
is not run again, an interrupted one goes on from its checkpoint. One that fails is shown as failed, and tried again by
the next run.
"""
import concurrent.futures
import dataclasses
import json
import logging
import math
import os
import pathlib
import re
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mtjax import experiment
from mtjax.config import did_you_mean, differences, to_dict
from mtjax.data.configure import shared_data_sets
from mtjax.run import Run, decisive
from mtjax.studies import provenance, record
from mtjax.studies.score_frame import ScoreFrame, merge
from mtjax.studies.search import arm_name
from mtjax.studies.verdict import CHOSEN, table
from mtjax.study.definition import Arm, Cell, Parts, Study, group_key, load_file
from mtjax.together import Outcome, spread_devices, train_together
from mtjax.training.writers import read_metrics

log = logging.getLogger('mtjax')


class Interrupted(Exception):
  """SIGTERM or Ctrl-C ended the work; every run has saved."""


class Runner:
  """A study in a folder.

  Args:
    study: what to run.
    workdir: where.
    name: the study's, for the report; None = the folder's.
    seeds: in place of the study's.
    arms: only these; None = all.
    smoke: a few steps of two seeds, in workdir/smoke.
    command: how it was started.
  """

  def __init__(self, study: Study, workdir: str | os.PathLike, *, name: str | None = None,
               seeds: Sequence[int] | None = None, arms: Sequence[str] | None = None, smoke: bool = False,
               command: str = ''):
    self.study = study.for_smoke() if smoke else study
    self.folder = pathlib.Path(workdir) / 'smoke' if smoke else pathlib.Path(workdir)
    self.name, self.smoke, self.command = name or pathlib.Path(workdir).resolve().name, smoke, command
    self.seeds = list(seeds) if seeds is not None else self.study.seed_list()
    self.arms: dict[str, Arm] = dict(self.study.arms)
    for arm in arms or ():
      if arm not in self.arms:
        raise ValueError(f'Unknown arm {arm!r}. {did_you_mean(arm, self.arms)}')
    self.wanted, self._cells = list(arms) if arms else None, {}

  def run(self, jobs: int = 1, spawn: Callable[[str, int], list[str]] | None = None) -> dict[str, Any]:
    """Runs what is missing and writes the results.

    Args:
      jobs: processes at a time; 1 = this one, with the seeds side by side.
      spawn: (arm, slot) -> the command of a process that runs the cells of one arm.

    Returns:
      The verdict.
    """
    cells = [cell for arm in self.wanted or self.arms for cell in self.cells(arm)]
    if any(self.status(cell)['status'] != 'finished' for cell in cells) or self.study.search is not None:
      provenance.add(self.folder, self.command)
    try:
      if jobs > 1 and spawn is not None:
        self._run_in_processes(cells, jobs, spawn)
      else:
        self.run_cells(cells)
      if self.study.search is not None and self.wanted is None:
        self._search()
    except Interrupted:
      log.warning('Stopped. The same command goes on from here.')
    return self.write()

  def cells(self, arm: str) -> list[Cell]:
    """The runs of an arm."""
    if arm not in self._cells:
      self._cells[arm] = list(self.study.cells(arm, self.seeds, self.arms[arm], self.smoke))
    return self._cells[arm]

  def folder_of(self, cell: Cell) -> pathlib.Path:
    """Where a cell's run lies."""
    parts = [safe(cell.arm), *([safe(cell.part)] if cell.part else []), str(cell.seed)]
    return self.folder.joinpath('cells', *parts)

  def run_cells(self, cells: Sequence[Cell]) -> None:
    """Runs the unfinished ones, group by group. Raises ValueError before any, where a config cannot be built."""
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
      self._check_unchanged(cell)
      if self.status(cell)['status'] != 'finished':
        groups.setdefault(group_key(cell.config), []).append(cell)
    with shared_data_sets():
      bases = [self._build(members[0]) for members in groups.values()]
    for number, members in enumerate(groups.values(), 1):
      what = ', '.join(dict.fromkeys(_title(cell) for cell in members))
      seeds = ', '.join(dict.fromkeys(str(cell.seed) for cell in members))
      log.info('%d of %d: %s, seeds %s', number, len(groups), what, seeds)
      self._run_group(bases.pop(0), members)

  def status(self, cell: Cell) -> dict[str, Any]:
    """{'status': 'finished' | 'failed' | 'stopped' | 'running' | 'missing', 'message', 'seconds', 'parameters'}."""
    folder = self.folder_of(cell)
    path = folder / 'run.json'
    found = json.loads(path.read_text()) if path.exists() else {}
    status = found.get('status', 'missing')
    if status == 'finished' and self._tested_step(cell) is None:
      status = 'stopped'
    return {'status': status, 'message': found.get('message', ''), 'seconds': found.get('seconds'),
            'parameters': found.get('parameters')}

  def frame(self, chosen: bool = True) -> ScoreFrame:
    """The scores of all finished cells; `chosen`: of one step a run on test, as the study selects."""
    frames = []
    for arm in self.arms:
      for cell in self.cells(arm):
        if self.status(cell)['status'] == 'finished':
          frames.append(self._scores(cell, chosen))
    return _arm_totals(merge(frames))

  def write(self) -> dict[str, Any]:
    """scores.jsonl, verdict.json and the report, of what is there."""
    self.folder.mkdir(parents=True, exist_ok=True)
    if self.study.search is not None and self.wanted is None:
      self._search(run=False)
    frame, curves = self.frame(), self.frame(chosen=False)
    verdict = record.make(self, frame)
    curves.write(self.folder / 'scores.jsonl')
    temporary = self.folder / 'verdict.tmp'
    temporary.write_text(json.dumps(record.plain(verdict), indent=1, allow_nan=False) + '\n', encoding='utf-8')
    temporary.replace(self.folder / 'verdict.json')
    try:
      from mtjax.studies.study_report import write_study_report  # plotting only when asked for

      write_study_report(self.folder, record.plain(verdict), curves)
    except ImportError as error:
      log.warning('No report: %s', error)
    return verdict

  # --- one group of cells

  def _build(self, cell: Cell) -> Run:
    config = cell.config
    try:
      return experiment.build(config, command=self.command)
    except (ValueError, TypeError) as error:
      raise ValueError(f"Arm '{cell.arm}'{f', part {cell.part!r}' if cell.part else ''}: {error}") from error

  def _run_group(self, base: Run, members: Sequence[Cell]) -> None:
    if base.mesh.size > 1:
      self._run_one_by_one(members)
      return
    devices = spread_devices(len(members))
    runs = [base.with_seed(cell.config['seed'], self.folder_of(cell), devices[i % len(devices)])
            for i, cell in enumerate(members)]
    try:
      outcomes = train_together(runs, title=_title(members[0]))
    except Exception as error:
      log.error('%s failed: %s: %s', _title(members[0]), type(error).__name__, error)
      for run in runs:
        run.mark_failed(error)
      return
    self._evaluate(runs, outcomes)
    if any(run.stopped for run in runs):
      raise Interrupted

  def _run_one_by_one(self, members: Sequence[Cell]) -> None:
    """Runs that take several devices each."""
    for cell in members:
      run = experiment.build(cell.config, self.folder_of(cell), self.command)
      try:
        state, _ = run.train(run.init())
      except Exception as error:
        log.error('%s, seed %d failed: %s: %s', _title(cell), cell.seed, type(error).__name__, error)
        run.mark_failed(error)
        continue
      self._evaluate([run], [Outcome(state)])
      if run.stopped:
        raise Interrupted

  def _evaluate(self, runs: Sequence[Run], outcomes: Sequence[Outcome]) -> None:
    for run, outcome in zip(runs, outcomes):
      if outcome.state is not None and not run.stopped:
        state = run.restore('best') if self.study.selection == 'best' else outcome.state
        run.evaluate(state, 'test')

  def _check_unchanged(self, cell: Cell) -> None:
    path = self.folder_of(cell) / 'config.json'
    if path.exists():
      complete = to_dict(experiment.default_config()) | cell.config
      if changed := differences(decisive(json.loads(path.read_text())), decisive(complete)):
        raise ValueError(f'{_title(cell)}, seed {cell.seed} was run before with another config. Use another workdir, '
                         'or undo the difference in' + ''.join(f'\n  {line}' for line in changed))

  # --- scores

  def _scores(self, cell: Cell, chosen: bool) -> ScoreFrame:
    losses = (self.study.metric or '').split('/')[-1] == 'loss'
    frame = ScoreFrame.from_workdir(self.folder_of(cell), cell.arm, losses=losses)
    run = '/'.join(part for part in (cell.arm, cell.part, str(cell.seed)) if part)
    if chosen:
      step = self._tested_step(cell)
      metric = cell.config.get('best', {}).get('metric', 'eval/loss')
      rule = 'last' if self.study.selection == 'last' else f'best:{metric}'
      frame = frame.where(step=step).replace(selection=rule)
    frame = frame.replace(run=run, seed=cell.seed)
    if isinstance(self.arms[cell.arm], Parts):
      tasks = frame.unique('task')
      names = {task: cell.part if len(tasks) == 1 else f'{cell.part}/{task}' for task in tasks}
      frame = ScoreFrame(tuple(dataclasses.replace(row, task=names[row.task]) for row in frame))
    return frame

  def _tested_step(self, cell: Cell) -> int | None:
    """The step that the study's selection chooses, if the run was tested there; its last, or the best on validation."""
    lines = read_metrics(self.folder_of(cell))
    best = {'metric': 'eval/loss', 'mode': 'min', **cell.config.get('best', {})}
    scores = {line['step']: line.get(best['metric'], math.nan) for line in lines if line.get('split') == 'validation'}
    known = [step for step in sorted(scores) if math.isfinite(scores[step])]
    if self.study.selection == 'last' or not known:
      step = max(scores, default=None)
    else:
      sign = 1 if best['mode'] == 'max' else -1
      step = max(known, key=lambda step: sign * scores[step])  # the earliest of equals, as in training
    tested = {line['step'] for line in lines if line.get('split') == 'test'}
    return step if step in tested else None

  # --- processes

  def _run_in_processes(self, cells: Sequence[Cell], jobs: int, spawn: Callable[[str, int], list[str]]) -> None:
    """Every arm in a process of its own, `jobs` at a time; what it prints goes to DIR/logs."""
    for cell in cells:
      self._check_unchanged(cell)
    arms = list(dict.fromkeys(cell.arm for cell in cells if self.status(cell)['status'] != 'finished'))
    (self.folder / 'logs').mkdir(parents=True, exist_ok=True)
    free = list(range(jobs))

    def work(arm: str) -> None:
      slot = free.pop()
      try:
        path = self.folder / 'logs' / f'{safe(arm)}.log'
        log.info("arm '%s': see %s", arm, path)
        with open(path, 'w') as out:
          code = subprocess.run(spawn(arm, slot), stdout=out, stderr=subprocess.STDOUT, check=False).returncode
        if code:
          last = [line for line in path.read_text().splitlines() if line.strip()][-1:]
          log.error("arm '%s' ended with exit status %d: %s", arm, code, ''.join(last))
      finally:
        free.append(slot)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
      list(pool.map(work, arms))

  # --- search

  def _search(self, run: bool = True) -> None:
    """Tries arms as the search proposes them; what was tried is told from the cells, so that a killed one goes on.

    Args:
      run: False finds those that were tried, and stops there.
    """
    search, tried = self.study.search, []
    higher = True
    while True:
      overrides = search.propose([(own, value) for own, value in tried], higher)
      if overrides is None:
        return
      arm = arm_name(overrides)
      self.arms[arm] = overrides
      if run:
        self.run_cells(self.cells(arm))
      elif any(self.status(cell)['status'] == 'missing' for cell in self.cells(arm)):
        del self.arms[arm]
        return
      value, higher = self.validation_score(arm)
      log.info('%s: %s on validation', arm, 'failed' if value is None else f'{value:.5g}')
      tried.append((overrides, value))

  def validation_score(self, arm: str) -> tuple[float | None, bool]:
    """(the arm's mean score on validation, whether more is better); None where a seed has none."""
    cells = self.cells(arm)
    if any(self.status(cell)['status'] != 'finished' for cell in cells):
      return None, True
    frame = merge(self._scores(cell, True) for cell in cells)
    found = table(frame, arm, self.study.metric, split='validation')
    value = float(found.values.mean())
    return (value if np.isfinite(value) else None), found.higher_is_better

  def searched(self) -> dict[str, float | None]:
    """{arm that the search tried: its mean score on validation}."""
    return {arm: self.validation_score(arm)[0] for arm in self.arms if arm not in self.study.arms}

  def chosen(self) -> str | None:
    """The searched arm that is best on validation."""
    scores = {arm: self.validation_score(arm) for arm in self.arms if arm not in self.study.arms}
    usable = {arm: value if higher else -value for arm, (value, higher) in scores.items() if value is not None}
    return max(usable, key=usable.get) if usable else None

  def resolve(self, arm: str) -> str:
    """'(chosen)' -> the arm that it stands for."""
    return (self.chosen() or arm) if arm == CHOSEN else arm


def load_study(path: str) -> Study:
  """The study of a file 'FILE.py' or 'FILE.py:arg', by its get_study() or get_study(arg)."""
  module, argument = load_file(path)
  if not hasattr(module, 'get_study'):
    raise ValueError(f'{path} has no get_study(), which gives an mtjax.study.Study.')
  study = module.get_study(argument) if argument else module.get_study()
  if not isinstance(study, Study):
    raise ValueError(f'get_study() of {path} must give an mtjax.study.Study, got {type(study).__name__}.')
  return study


def safe(name: str) -> str:
  """A name as a folder's."""
  return re.sub(r'[^\w.=,+ -]', '_', name).strip(' .') or '_'


def _title(cell: Cell) -> str:
  return cell.arm + (f' · {cell.part}' if cell.part else '')


def _arm_totals(frame: ScoreFrame) -> ScoreFrame:
  """Parameters and seconds of an arm's parts together in every row: they are one model of as many parts."""
  totals: dict[tuple, dict[str, tuple]] = {}
  for row in frame:
    totals.setdefault((row.arm, row.seed), {})[row.run] = (row.params, row.wall_s)
  rows = []
  for row in frame:
    params, seconds = zip(*totals[row.arm, row.seed].values())
    rows.append({**vars(row), 'params': None if None in params else sum(params),
                 'wall_s': None if None in seconds else round(sum(seconds), 1)})
  return ScoreFrame.from_rows(rows)


