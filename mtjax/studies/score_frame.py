"""The ScoreFrame: one long table of scores, the only thing that comparisons and reports read.

A row is one metric of one task at one step of one run:

    run, arm, seed, task, split, step, metric, value, n, higher_is_better, selection, wall_s, params

`n`: rows that were scored. `selection`: the rule by which the step was chosen, '' of every step evaluated. `wall_s`,
`params`: the run's seconds and number of parameters. Those three and `n` may be None where unknown.

On disk: JSON-lines, one row a line. JSON has no NaN and no infinity; they are the strings "NaN", "Infinity",
"-Infinity", as in `metrics.jsonl`.
"""
import dataclasses
import json
import math
import os
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from mtjax.config import did_you_mean
from mtjax.studies.run_record import Record

SPLITS = ('train', 'validation', 'test')
_NON_FINITE = ('NaN', 'Infinity', '-Infinity')


@dataclasses.dataclass(frozen=True)
class Score:
  """One row. Raises ValueError for a value that its column cannot hold."""

  run: str
  arm: str
  seed: int
  task: str
  split: str
  step: int
  metric: str
  value: float
  n: int | None = None
  higher_is_better: bool = True
  selection: str = ''
  wall_s: float | None = None
  params: int | None = None

  def __post_init__(self):
    for name in ('run', 'arm', 'task', 'metric', 'selection'):
      if not isinstance(getattr(self, name), str) or not (getattr(self, name) or name == 'selection'):
        raise ValueError(f"Column '{name}' holds text, got {getattr(self, name)!r}.")
    if self.split not in SPLITS:
      raise ValueError(f"Column 'split' holds {', '.join(map(repr, SPLITS))}; got {self.split!r}.")
    for name, optional in (('seed', False), ('step', False), ('n', True), ('params', True)):
      value = getattr(self, name)
      if not (optional and value is None) and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise ValueError(f"Column '{name}' holds whole numbers >= 0{' or None' * optional}, got {value!r}.")
    if not isinstance(self.higher_is_better, bool):
      raise ValueError(f"Column 'higher_is_better' holds True or False, got {self.higher_is_better!r}.")
    for name, optional in (('value', False), ('wall_s', True)):
      value = getattr(self, name)
      if not (optional and value is None) and (not isinstance(value, (int, float)) or isinstance(value, bool)):
        raise ValueError(f"Column '{name}' holds numbers{' or None' * optional}, got {value!r}.")

  @property
  def key(self) -> tuple:
    """What tells rows apart."""
    return self.run, self.arm, self.seed, self.task, self.split, self.step, self.metric, self.selection


COLUMNS = tuple(field.name for field in dataclasses.fields(Score))
REQUIRED = tuple(field.name for field in dataclasses.fields(Score) if field.default is dataclasses.MISSING) + (
  'higher_is_better',)


@dataclasses.dataclass(frozen=True)
class ScoreFrame:
  """Rows in the order they were added.

  Example:
    >>> row = dict(run='a0', arm='a', seed=0, task='left', split='test', step=9, metric='accuracy', value=0.9,
    ...            higher_is_better=True)
    >>> frame = ScoreFrame.from_rows([row, {**row, 'task': 'right', 'value': 0.8}])
    >>> [score.value for score in frame.where(task='right')]
    [0.8]
  """

  rows: tuple[Score, ...] = ()

  def __post_init__(self):
    seen: dict[tuple, float] = {}
    for row in self.rows:
      if row.key in seen:
        raise ValueError(f"Two rows for run '{row.run}', arm '{row.arm}', seed {row.seed}, task '{row.task}', split "
                         f"'{row.split}', step {row.step}, metric '{row.metric}', selection '{row.selection}': "
                         f'{seen[row.key]!r} and {row.value!r}.')
      seen[row.key] = row.value

  @classmethod
  def from_rows(cls, rows: Iterable[Mapping[str, Any]]) -> 'ScoreFrame':
    """Of mappings {column: value}; raises ValueError for columns missing or unknown."""
    return cls(tuple(_score(row, f'row {i}') for i, row in enumerate(rows)))

  @classmethod
  def from_workdir(cls, workdir: str | os.PathLike, arm: str | None = None, *, losses: bool = False,
                   unfinished: bool = False, higher_is_better: Mapping[str, bool] | None = None) -> 'ScoreFrame':
    """What a run wrote: metrics.jsonl, config.json, run.json.

    Args:
      workdir: the run's folder.
      arm: of the study; None = the folder's name.
      losses: also each task's loss, as the metric 'loss'.
      unfinished: also of a run that is not finished; otherwise that is an error.
      higher_is_better: {metric: direction}, where the run did not write it down; without it, told by the name.
    """
    workdir = pathlib.Path(workdir)
    record = Record.read(workdir)
    if not record.metrics:
      raise ValueError(f'{workdir} has no metrics.jsonl with scores.')
    if 'seed' not in record.config:
      raise ValueError(f"{workdir / 'config.json'} names no seed, which scores are paired by.")
    status = record.run.get('status')
    if status != 'finished' and not unfinished:
      raise ValueError(f'{workdir} is {status or "without a run.json"}, not finished; unfinished=True reads it.')
    rows: dict[tuple, Score] = {}
    for line in record.metrics:
      for task in record.tasks:
        prefix = f'eval/{task}/'
        count = line.get(f'{prefix}n')
        for name, value in line.items():
          metric = name.removeprefix(prefix)
          if not name.startswith(prefix) or metric == 'n' or (metric == 'loss' and not losses):
            continue
          direction = (higher_is_better or {}).get(metric, record.higher_is_better(task, metric))
          if direction is None:  # a number that is no score, such as the size of a bin
            continue
          score = Score(
            run=workdir.resolve().name, arm=arm or workdir.resolve().name, seed=record.config['seed'], task=task,
            split=line['split'], step=line['step'], metric=metric, value=float(value),
            n=None if count is None else int(count),
            higher_is_better=direction, wall_s=record.run.get('seconds'), params=record.run.get('parameters'))
          rows[score.key] = score  # a step written twice: the later counts
    return cls(tuple(rows.values()))

  @classmethod
  def read(cls, path: str | os.PathLike) -> 'ScoreFrame':
    """Of a JSON-lines file; raises ValueError naming the line that is no row."""
    rows = []
    for number, line in enumerate(pathlib.Path(path).read_text(encoding='utf-8').splitlines(), 1):
      try:
        row = json.loads(line, parse_constant=_refuse)
      except ValueError as error:
        raise ValueError(f'{path}, line {number} is not strict JSON: {error}') from error
      if not isinstance(row, dict):
        raise ValueError(f'{path}, line {number} is not an object.')
      numbers = {name: float(row[name]) for name in ('value', 'wall_s') if row.get(name) in _NON_FINITE}
      rows.append(_score({**row, **numbers}, f'{path}, line {number}'))
    return cls(tuple(rows))

  def write(self, path: str | os.PathLike) -> None:
    """As JSON-lines, in one replacement of the file."""
    path = pathlib.Path(path)
    lines = [json.dumps({name: _to_json(value) for name, value in dataclasses.asdict(row).items()}, allow_nan=False)
             for row in self.rows]
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(''.join(line + '\n' for line in lines), encoding='utf-8')
    temporary.replace(path)

  def __add__(self, other: 'ScoreFrame') -> 'ScoreFrame':
    """Rows of both; the same row twice counts once, two values of one row are an error."""
    own = {row.key: row for row in self.rows}
    return ScoreFrame(self.rows + tuple(row for row in other.rows if not _same(own.get(row.key), row)))

  def __len__(self) -> int:
    return len(self.rows)

  def __iter__(self) -> Iterator[Score]:
    return iter(self.rows)

  def where(self, **columns: Any) -> 'ScoreFrame':
    """The rows whose columns have the given value, or one of the given ones: `where(arm=['a', 'b'], split='test')`."""
    for name in columns:
      if name not in COLUMNS:
        raise ValueError(f"Unknown column '{name}'. {did_you_mean(name, COLUMNS)}")
    wanted = {name: set(value) if isinstance(value, Collection) and not isinstance(value, str) else {value}
              for name, value in columns.items()}
    return _part(row for row in self.rows if all(getattr(row, name) in values for name, values in wanted.items()))

  def groups(self, *columns: str) -> dict[tuple, 'ScoreFrame']:
    """{values of these columns: the rows that have them}, in one pass."""
    found: dict[tuple, list[Score]] = {}
    for row in self.rows:
      found.setdefault(tuple(getattr(row, name) for name in columns), []).append(row)
    return {key: _part(rows) for key, rows in found.items()}

  def unique(self, column: str) -> list[Any]:
    """The values of a column, in the order of their first row."""
    if column not in COLUMNS:
      raise ValueError(f"Unknown column '{column}'. {did_you_mean(column, COLUMNS)}")
    return list(dict.fromkeys(getattr(row, column) for row in self.rows))

  def replace(self, **columns: Any) -> 'ScoreFrame':
    """Every row with some columns changed."""
    return ScoreFrame(tuple(dataclasses.replace(row, **columns) for row in self.rows))


def merge(frames: Iterable[ScoreFrame]) -> ScoreFrame:
  """The rows of all."""
  total = ScoreFrame()
  for frame in frames:
    total = total + frame
  return total


def by_seed(frame: ScoreFrame, arm: str, split: str = 'test') -> dict[tuple[str, str], dict[int, float]]:
  """{(task, metric): {seed: value}} of one arm on one split.

  Raises ValueError where the arm or split is absent, where steps are still to be chosen, and where rules are mixed.
  """
  rows = frame.where(arm=arm)
  if not rows:
    raise ValueError(f"The frame has no arm '{arm}'. {did_you_mean(arm, frame.unique('arm'))}")
  rows = rows.where(split=split)
  if not rows:
    raise ValueError(f"Arm '{arm}' has no scores on split '{split}'.")
  if len(rules := frame.where(split=split).unique('selection')) > 1:
    raise ValueError(f'One table holds steps chosen by different rules, {", ".join(map(repr, rules))}: compare like '
                     "with like, e.g. frame.where(selection='last').")
  table: dict[tuple[str, str], dict[int, float]] = {}
  for row in rows:
    values = table.setdefault((row.task, row.metric), {})
    if row.seed in values:
      raise ValueError(f"Arm '{arm}', seed {row.seed} has several scores of {row.task}/{row.metric} on '{split}': "
                       "choose a step first, e.g. select(frame, 'last').")
    values[row.seed] = float(row.value)
  return table


def directions(frame: ScoreFrame) -> dict[tuple[str, str], bool]:
  """{(task, metric): higher_is_better}; raises ValueError where rows disagree."""
  found: dict[tuple[str, str], bool] = {}
  for row in frame:
    if found.setdefault((row.task, row.metric), row.higher_is_better) != row.higher_is_better:
      raise ValueError(f'Rows of {row.task}/{row.metric} disagree on whether higher is better.')
  return found


def _score(row: Mapping[str, Any], where: str) -> Score:
  if unknown := [name for name in row if name not in COLUMNS]:
    raise ValueError(f"{where}: unknown column '{unknown[0]}'. {did_you_mean(unknown[0], COLUMNS)}")
  if missing := [name for name in REQUIRED if name not in row]:
    raise ValueError(f'{where}: no column {", ".join(map(repr, missing))}.')
  try:
    return Score(**row)
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error


def _part(rows: Iterable[Score]) -> ScoreFrame:
  """Some rows of a frame, not searched for duplicates again."""
  frame = object.__new__(ScoreFrame)
  object.__setattr__(frame, 'rows', tuple(rows))
  return frame


def _same(one: Score | None, other: Score) -> bool:
  """NaN is itself here."""
  return one is not None and all(
    x == y or (isinstance(x, float) and isinstance(y, float) and math.isnan(x) and math.isnan(y))
    for x, y in zip(dataclasses.astuple(one), dataclasses.astuple(other)))


def _refuse(constant: str) -> float:
  raise ValueError(f'{constant} is not JSON; it is written as the string "{constant}"')


def _to_json(value: Any) -> Any:
  if not isinstance(value, float) or math.isfinite(value):
    return value
  return 'NaN' if math.isnan(value) else 'Infinity' if value > 0 else '-Infinity'
