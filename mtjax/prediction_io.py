"""Reads inputs for `predict` (.npz, .jsonl, a folder of PNGs) and writes its outputs (.jsonl, .npz)."""
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from mtjax.config import did_you_mean
from mtjax.data.streams import Stream


def read_inputs(path: str, streams: Mapping[str, Stream], stream: str | None = None) -> tuple[Any, list[str]]:
  """A file or folder -> (inputs for `Run.predict`, a name for each row).

  Args:
    path: FILE.npz, FILE.jsonl or a folder of *.png.
    streams: of the run; they say which columns and formats the encoder reads.
    stream: which of them; None = the first.
  """
  if stream is not None and stream not in streams:
    raise ValueError(f'Unknown stream {stream!r}. {did_you_mean(stream, streams)}')
  target = streams[stream] if stream else next(iter(streams.values()))
  source = pathlib.Path(path)
  if not source.exists():
    raise FileNotFoundError(f'There is no input {path}.')
  if source.is_dir():
    return _read_pngs(source, target)
  if source.suffix == '.npz':
    with np.load(source, allow_pickle=False) as stored:
      columns = {name: stored[name] for name in stored.files}
    wanted = {name: columns[name] for name in target.input_columns if name in columns} or columns
    size = len(next(iter(wanted.values()), ()))
    return wanted, [str(i) for i in range(size)]
  if source.suffix == '.jsonl':
    return _read_jsonl(source, target)
  raise ValueError(f"--input must be a .npz, a .jsonl or a folder of PNGs, got '{path}'.")


def read_column(path: str, column: str) -> list[str]:
  """A column of a .npz or .jsonl that the encoder does not read, as text: the task of each row.

  Args:
    path: FILE.npz or FILE.jsonl.
    column: its name.
  """
  source = pathlib.Path(path)
  if source.suffix == '.npz':
    with np.load(source, allow_pickle=False) as stored:
      if column not in stored.files:
        raise ValueError(f'{path} has no {column!r}. {did_you_mean(column, stored.files)}')
      return [str(x) for x in stored[column]]
  if source.suffix == '.jsonl':
    rows = [json.loads(line) for line in source.read_text(encoding='utf-8').splitlines() if line.strip()]
    return [str(x) for x in _column(rows, column, source)]
  raise ValueError(f"The task of each row can be a column of a .npz or a .jsonl, got '{path}'.")


def check_output(path: str) -> None:
  """Raises ValueError for a name that `write_outputs` could not write, before anything is computed."""
  if pathlib.Path(path).suffix not in ('.jsonl', '.npz'):
    raise ValueError(f"--output must end in .jsonl or .npz, got '{path}'.")
  if not pathlib.Path(path).absolute().parent.is_dir():
    raise FileNotFoundError(f'The folder of --output does not exist: {pathlib.Path(path).absolute().parent}.')


def write_outputs(path: str, outputs: Mapping[str, Mapping[str, np.ndarray]], names: list[str]) -> None:
  """{task: {'prediction', 'probabilities'?}} -> one JSON object a row, or arrays named '<task>/<output>'.

  Outputs with 'rows' are those of these rows alone.
  """
  target = pathlib.Path(path)
  if target.suffix == '.npz':
    np.savez(target, names=np.array(names), **{f'{t}/{o}': a for t, out in outputs.items() for o, a in out.items()})
    return
  with target.open('w', encoding='utf-8') as file:
    for i, name in enumerate(names):
      row = {}
      for task, out in outputs.items():
        place = i if 'rows' not in out else next(iter(np.flatnonzero(out['rows'] == i)), None)
        if place is not None:
          row[task] = {key: np.asarray(array[place]).tolist() for key, array in out.items() if key != 'rows'}
      file.write(json.dumps({'input': name, **row}) + '\n')


def _read_jsonl(path: pathlib.Path, stream: Stream) -> tuple[dict[str, np.ndarray], list[str]]:
  rows = []
  for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1):
    if line.strip():
      try:
        rows.append(json.loads(line))
      except json.JSONDecodeError as error:
        raise ValueError(f'{path}, line {number} is not JSON: {error}.') from error
  if not rows:
    raise ValueError(f'{path} has no rows.')
  formats = next(iter(stream.data_sets.values())).formats if stream.data_sets else {}
  columns = {}
  for name in stream.input_columns:
    if name in formats and name not in rows[0]:
      needed = {c: _column(rows, c, path) for c in formats[name].columns}
      columns[name] = formats[name](needed)
    else:
      shape, dtype = stream.schema[name]
      try:
        columns[name] = np.asarray(_column(rows, name, path), dtype)
      except (TypeError, ValueError) as error:
        raise ValueError(f'{path}: column {name!r} must hold numbers of shape {list(shape)} in every row: '
                         f'{error}.') from error
  return columns, [str(row.get('id', i)) for i, row in enumerate(rows)]


def _column(rows: list[dict], name: str, path: pathlib.Path) -> list:
  for i, row in enumerate(rows):
    if name not in row:
      raise ValueError(f'{path}, row {i + 1} has no {name!r}. {did_you_mean(name, row)}')
  return [row[name] for row in rows]


def _read_pngs(folder: pathlib.Path, stream: Stream) -> tuple[np.ndarray, list[str]]:
  try:
    from PIL import Image
  except ImportError as error:
    raise ImportError("Reading PNGs needs Pillow: pip install 'mtjax[image]'.") from error
  files = sorted(folder.glob('*.png'))
  if not files:
    raise ValueError(f'{folder} holds no *.png.')
  name = stream.input_columns[0]
  shape, _ = stream.schema[name]
  if len(shape) != 3:
    raise ValueError(f"Stream '{stream.name}' reads {name!r} of shape {list(shape)}, not images.")
  images = []
  for file in files:
    pixels = np.asarray(Image.open(file).convert('L' if shape[-1] == 1 else 'RGB'))
    images.append(pixels.reshape(*pixels.shape[:2], -1))
    if images[-1].shape != shape:
      raise ValueError(f'{file} is of the wrong shape: {list(images[-1].shape)}; the model reads {list(shape)} '
                       f'(height, width, channels).')
  return np.stack(images), [file.name for file in files]
