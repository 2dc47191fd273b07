"""Tables: random access to the rows of a split, in memory or on disk.

A table has `len(table)`, `table.names` and `table.rows(index, names) -> {name: array [N, …]}`. Data sets that fit are
read once into arrays; larger ones are read record by record from array_record files. Integers come as int32, floats as
float32, text as bytes; a nested feature is named by its path, 'answers/text'.
"""
import functools
import hashlib
import os
import pathlib
import platform
import zipfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tqdm

IN_MEMORY_BYTES = 1 << 30


class Table(Protocol):
  """Random access to rows."""

  names: tuple[str, ...]
  fingerprint: str

  def __len__(self) -> int: ...

  def rows(self, index: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The rows at `index` [N] (each in 0 … len-1) as {name: array [N, …]}."""
    ...


class ArrayTable:
  """A table held in memory.

  Args:
    columns: {name: array [N, …]}, all with the same N.
  """

  def __init__(self, columns: Mapping[str, np.ndarray]):
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
      raise ValueError(f'Columns of a table must have the same number of rows, got {sizes}.')
    self.columns = {name: _narrow(column) for name, column in columns.items()}
    self.names = tuple(self.columns)

  def __len__(self) -> int:
    return len(next(iter(self.columns.values()))) if self.columns else 0

  def rows(self, index: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """See `Table.rows`."""
    return {name: self.columns[name][index] for name in names}

  def with_columns(self, columns: Mapping[str, np.ndarray]) -> 'ArrayTable':
    """This table and further columns."""
    return ArrayTable({**self.columns, **columns})

  @functools.cached_property
  def fingerprint(self) -> str:
    """A hash of the content."""
    digest = hashlib.blake2b(digest_size=8)
    for name, column in sorted(self.columns.items()):
      digest.update(name.encode())
      if column.dtype == object:
        for item in column.reshape(-1):
          digest.update(item if isinstance(item, bytes) else repr(item).encode())
      else:
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


class RecordTable:
  """A table on disk, read through TFDS' random-access data source.

  Args:
    source: has `len` and `__getitems__(indices) -> list of examples`.
    where: named in errors.
  """

  def __init__(self, source: Any, where: str):
    self._source, self._where = source, where
    self.names = tuple(_flat_example(source[0])) if len(source) else ()
    self.fingerprint = f'{len(source)} records'

  def __len__(self) -> int:
    return len(self._source)

  def rows(self, index: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """See `Table.rows`."""
    examples = [_flat_example(e) for e in read_records(self._source, np.asarray(index).tolist(), self._where)]
    return {name: _narrow(_stack([example[name] for example in examples])) for name in names}


def open_table(source: Any, where: str, *, in_memory_bytes: int = IN_MEMORY_BYTES, cache: pathlib.Path | None = None):
  """A TFDS data source -> an `ArrayTable` where it fits into `in_memory_bytes`, else a `RecordTable`.

  Args:
    source: what `builder.as_data_source(split)` returns.
    where: name of data set and split, for errors and the progress bar.
    in_memory_bytes: the bound, estimated from the first rows.
    cache: a .npz file beside the records. Rows are decoded one by one (a tenth of a millisecond each), so the arrays
      are kept there and read from it the next time. None for no cache.
  """
  if not len(source):
    raise ValueError(f'{where} is empty: there is nothing to train or evaluate on. Choose another split.')
  sample = [_flat_example(e) for e in read_records(source, range(min(64, len(source))), where)]
  row_bytes = sum(np.asarray(v).nbytes if not isinstance(v, bytes) else len(v) for e in sample for v in e.values())
  if row_bytes / len(sample) * len(source) > in_memory_bytes:
    return RecordTable(source, where)
  columns = _read_cache(cache)
  if columns is None:
    examples = []
    for start in tqdm.trange(0, len(source), 1000, desc=f'reading {where}', leave=False, disable=None, delay=2):
      block = range(start, min(start + 1000, len(source)))
      examples.extend(_flat_example(e) for e in read_records(source, block, where))
    columns = {name: _stack([example[name] for example in examples]) for name in examples[0]}
    _write_cache(cache, columns)
  return ArrayTable(columns)


def read_records(source: Any, index: Sequence[int], where: str) -> list[dict]:
  """`source.__getitems__(index)`; a damaged file raises ValueError that says what to do."""
  try:
    return source.__getitems__(list(index))
  except Exception as error:
    raise ValueError(
      f'{where} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}. '
      f'A data file is damaged: delete {_folder(source)} and run again to prepare it anew.'
    ) from error


def _folder(source: Any) -> str:
  """Where the files of a TFDS data source lie."""
  info = getattr(source, 'dataset_info', None)
  return str(info.data_dir) if info is not None else 'its folder'


def add_formats(table: Table, formats: Mapping[str, Callable]) -> Table:
  """The table with the columns that `formats` compute: at once where it is in memory, else row by row."""
  for name, fn in formats.items():
    missing = [column for column in fn.columns if column not in table.names]
    if missing:
      raise ValueError(f'The format {name!r} reads column {missing[0]!r}, which is not there. '
                       f'Columns: {", ".join(table.names)}.')
  if not formats:
    return table
  if isinstance(table, ArrayTable):
    return table.with_columns({name: fn(table.columns) for name, fn in formats.items()})
  return _Formatted(table, formats)


class _Formatted:
  def __init__(self, table: Table, formats: Mapping[str, Callable]):
    self._table, self._formats = table, formats
    self.names = (*table.names, *formats)
    self.fingerprint = table.fingerprint

  def __len__(self) -> int:
    return len(self._table)

  def rows(self, index, names):
    computed = {name: self._formats[name] for name in names if name in self._formats}
    plain = [name for name in names if name not in computed]
    read = dict.fromkeys([*plain, *(c for fn in computed.values() for c in fn.columns)])
    rows = self._table.rows(index, list(read))
    return {name: rows[name] for name in plain} | {name: fn(rows) for name, fn in computed.items()}


def _flat_example(example: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  flat: dict[str, Any] = {}
  for key, value in example.items():
    path = f'{prefix}/{key}' if prefix else key
    if isinstance(value, Mapping):
      flat |= _flat_example(value, path)
    else:
      flat[path] = value
  return flat


def _stack(values: Sequence[Any]) -> np.ndarray:
  """Rows of one column -> an array; text and ragged rows become an array of objects."""
  if isinstance(values[0], (bytes, str)) or len({np.shape(v) for v in values}) > 1:
    out = np.empty(len(values), object)
    out[:] = values
    return out
  return np.stack([np.asarray(v) for v in values])


def _narrow(column: np.ndarray) -> np.ndarray:
  column = np.asarray(column)
  if column.dtype == np.int64:
    if column.size and max(abs(int(column.min())), abs(int(column.max()))) >= 2**31:
      return column
    return column.astype(np.int32)
  return column.astype(np.float32) if column.dtype == np.float64 else column


def _read_cache(path: pathlib.Path | None) -> dict[str, np.ndarray] | None:
  if path is None or not path.exists():
    return None
  try:
    with np.load(path, allow_pickle=False) as stored:
      flat = {name: stored[name] for name in stored.files}
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
    return None  # torn or old: it is only a cache
  columns = {}
  for name in flat:
    if name.startswith('array:'):
      columns[name[6:]] = flat[name]
    elif name.startswith('bytes:'):
      ends, data = flat['ends:' + name[6:]], flat[name].tobytes()
      columns[name[6:]] = _stack([data[a:b] for a, b in zip([0, *ends[:-1].tolist()], ends.tolist())])
  return columns


def _write_cache(path: pathlib.Path | None, columns: Mapping[str, np.ndarray]) -> None:
  flat = {}
  for name, column in columns.items():
    if column.dtype != object:
      flat['array:' + name] = column
    elif all(isinstance(item, bytes) for item in column):
      flat['bytes:' + name] = np.frombuffer(b''.join(column), np.uint8)
      flat['ends:' + name] = np.cumsum([len(item) for item in column])
    else:
      return  # ragged arrays: not worth a format of their own
  if path is not None:
    temporary = path.with_suffix(f'.{platform.node()}.{os.getpid()}.tmp.npz')
    np.savez(temporary, **flat)
    temporary.replace(path)
