"""Where a run's numbers go: `DIR/metrics.jsonl`, TensorBoard event files, a progress bar.

`metrics.jsonl` is the source of truth; all else is a view of it. One JSON object a line, `step` and `split` first, then
flat names:

    {"step": 100, "split": "train", "train/left/loss": 0.93, "train/loss": 2.03, "time/steps_per_second": 21.3}
    {"step": 500, "split": "validation", "eval/left/accuracy": 0.88, "eval/left/n": 2000}

JSON has no NaN and no infinity. They are written as the strings "NaN", "Infinity", "-Infinity", which any JSON reader
takes and which lose nothing; `read_metrics` makes floats of them again.
"""
import json
import logging
import math
import numbers
import os
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import tqdm

log = logging.getLogger('mtjax')

FILENAME = 'metrics.jsonl'
_NON_FINITE = ('NaN', 'Infinity', '-Infinity')


class MetricWriter:
  """Appends metrics to `workdir/metrics.jsonl` and, where tensorboardX is installed, to `workdir/tensorboard`.

  A line reaches the file in one unbuffered write, so a killed process leaves at most one torn line, the last. Opening
  removes it. With `resume_step=k` it also removes the lines of later steps, in one atomic replacement of the file. So a
  run that writes what it has measured up to step k before it saves checkpoint k ends with the lines of an uninterrupted
  run, however often it is killed and resumed.

  Args:
    workdir: the run's folder; made if it is not there.
    tensorboard: also write event files. Without tensorboardX this is one line in the log, and no error.
    resume_step: the step of the checkpoint that the run continues from; None keeps every whole line.

  Example:
    >>> with MetricWriter(workdir) as writer:
    ...   writer.write(100, 'train', {'train/left/loss': 0.93, 'train/loss': 2.03})
  """

  def __init__(self, workdir: str | os.PathLike, *, tensorboard: bool = True, resume_step: int | None = None):
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    _repair(workdir / FILENAME, resume_step)
    self._file = open(workdir / FILENAME, 'ab', buffering=0)
    self._events = _event_writer(workdir / 'tensorboard', resume_step) if tensorboard else None

  def write(self, step: int, split: str, values: Mapping[str, float]) -> None:
    """Writes one line.

    Args:
      step: the number of updates done.
      split: 'train', 'validation' or 'test'.
      values: {flat name: number}; 0-d arrays count as numbers, integers stay integers. In TensorBoard the prefix 'eval'
        becomes the split, so that validation and test are two curves.
    """
    if reserved := [name for name in ('step', 'split') if name in values]:
      raise ValueError(f'The metric name {reserved[0]!r} is taken: each line has its own step and split. Rename it.')
    values = {name: _number(name, value) for name, value in values.items()}
    line = {'step': int(step), 'split': split} | {name: _to_json(value) for name, value in values.items()}
    self._file.write(json.dumps(line, allow_nan=False).encode() + b'\n')
    if self._events is not None:
      for name, value in values.items():
        tag = split + name.removeprefix('eval') if name.startswith('eval/') else name
        self._events.add_scalar(tag, value, int(step))
      self._events.flush()

  def close(self) -> None:
    """Closes the files. Closing twice is harmless."""
    self._file.close()
    if self._events is not None:
      self._events.close()
      self._events = None

  def __enter__(self) -> 'MetricWriter':
    return self

  def __exit__(self, *_) -> None:
    self.close()


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """The lines of `workdir/metrics.jsonl`, oldest first; [] where there is no such file.

  Made for reading at any moment of a run: a line that is no JSON object with a step (the torn end of a killed or still
  writing process) is passed over. "NaN", "Infinity", "-Infinity" and null become floats.
  """
  path = pathlib.Path(workdir) / FILENAME
  if not path.exists():
    return []
  lines = (_parse(line) for line in path.read_bytes().split(b'\n'))
  return [{name: value if name == 'split' else _from_json(value) for name, value in line.items()}
          for line in lines if line is not None]


def progress(total: int, initial: int = 0, enabled: bool | None = None) -> tqdm.tqdm:
  """A progress bar over training steps: steps done, time left, steps/s of this process.

  Args:
    total: the steps of the whole run.
    initial: the steps done before this process, which the rate leaves out.
    enabled: None shows the bar where stderr is a terminal.

  Returns:
    A tqdm bar. `bar.update(n)` advances it; `bar.set_postfix({'left': 0.93}, refresh=False)` shows task losses to three
    digits. Where it is off, both do nothing.
  """
  enabled = sys.stderr.isatty() if enabled is None else enabled
  return tqdm.tqdm(total=total, initial=initial, disable=not enabled, unit='step', dynamic_ncols=True)


def _repair(path: pathlib.Path, last_step: int | None) -> None:
  """Rewrites the file without a torn last line and without steps after `last_step`; leaves a sound file untouched."""
  if not path.exists():
    return
  old = path.read_bytes()
  *lines, torn = old.split(b'\n')
  if torn and _parse(torn) is not None:  # whole but for its newline
    lines.append(torn)
  kept = []
  for line in lines:
    entry = _parse(line)
    if entry is None:
      log.warning('%s: dropped a damaged line: %.80r', path, line)
    elif last_step is None or entry['step'] <= last_step:
      kept.append(line)
  new = b''.join(line + b'\n' for line in kept)
  if new != old:
    _replace(path, new)


def _replace(path: pathlib.Path, content: bytes) -> None:
  """Atomic: at every moment the path holds all of the old content or all of the new, also after a power cut."""
  temporary = path.with_name(path.name + '.tmp')
  with open(temporary, 'wb') as file:
    file.write(content)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)


def _event_writer(folder: pathlib.Path, resume_step: int | None) -> Any:
  """A tensorboardX writer whose reader forgets steps after `resume_step`; None where tensorboardX is not installed."""
  try:
    import tensorboardX
  except ImportError:
    log.info("No TensorBoard files: tensorboardX is not installed (pip install 'mtjax[tensorboard]').")
    return None
  return tensorboardX.SummaryWriter(
    str(folder),
    purge_step=None if resume_step is None else resume_step + 1,
    filename_suffix=f'.{time.time_ns()}',  # its own name has whole seconds: a quick restart would overwrite the file
  )


def _parse(line: bytes) -> dict[str, Any] | None:
  try:
    entry = json.loads(line)
  except ValueError:  # of JSON or of UTF-8
    return None
  return entry if isinstance(entry, dict) and isinstance(entry.get('step'), int) else None


def _number(name: str, value: Any) -> int | float:
  try:
    return int(value) if isinstance(value, numbers.Integral) else float(value)
  except (TypeError, ValueError) as error:
    raise ValueError(f'Metric {name!r} is not a number: {value!r}. Write one scalar a name.') from error


def _to_json(value: int | float) -> int | float | str:
  if math.isnan(value):
    return 'NaN'
  if math.isinf(value):
    return 'Infinity' if value > 0 else '-Infinity'
  return value


def _from_json(value: Any) -> Any:
  if value is None:
    return math.nan
  return float(value) if value in _NON_FINITE else value
