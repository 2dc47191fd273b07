"""Streams: where batches come from. One data set, or a mixture of several whose rows carry `task_id`.

A batch of a stream is a dict of arrays with leading axis B:

  <input columns>   what the encoder reads
  <label>           one a label column; missing values are zero …
  <label>_mask      … and False here (bool, shape of the label): missing labels are masks, not a special case
  valid             [B] bool, False for rows that only pad the last batch of an evaluation
  task_id           [B] int32, of mixtures: the index of the row's source in the mixture

The training batch of step k is a pure function of k (`mtjax.data.sampler`), so the position of a run is its step.
"""
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mtjax.config import did_you_mean
from mtjax.data.sampler import BlockSampler
from mtjax.data.tables import ArrayTable, Table
from mtjax.tree import align

SPLITS = ('train', 'validation', 'test')
Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
  """One source of batches.

  Attributes:
    name: its key in a batch.
    sources: {source: {split: table}}; a single data set is one source.
    inputs: the columns that the encoder reads; a str feeds the array alone, a tuple a dict of arrays.
    labels: the label columns; a source that lacks one has it masked.
    batch_size: rows a step, over all hosts.
    sampler: the order of the training rows.
    mixture: whether rows carry `task_id`.
    data_sets: {source: what was opened}, for the record.
  """

  name: str
  sources: Mapping[str, Mapping[str, Table]]
  inputs: str | tuple[str, ...]
  labels: tuple[str, ...]
  batch_size: int
  sampler: BlockSampler
  mixture: bool = False
  data_sets: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def input_columns(self) -> tuple[str, ...]:
    """The input columns, always as a tuple."""
    return (self.inputs,) if isinstance(self.inputs, str) else tuple(self.inputs)

  def check(self) -> None:
    """Raises ValueError for columns that the sources can't deliver."""
    self.schema  # noqa: B018  (reads a row of every source)

  def train_batch(self, step: int, rows: slice = slice(None)) -> Batch:
    """The batch of training step `step`; of it only `rows` (what this host holds)."""
    positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)[rows]
    source, row = self.sampler(positions)
    return self._gather('train', source, row, np.ones(len(row), bool))

  def validation_batch(self, step: int, rows: slice = slice(None)) -> Batch:
    """Rows of the validation split, for methods that watch validation losses while training."""
    positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)[rows]
    source, row = self._validation_sampler(positions)
    return self._gather('validation', source, row, np.ones(len(row), bool))

  def eval_batches(self, split: str, batch_size: int, rows: slice = slice(None)) -> Iterator[Batch]:
    """Every row of `split` once, in order, in batches of one size: the last is padded (`valid` is False there)."""
    sizes = [len(tables[split]) for tables in self.sources.values()]
    source = np.repeat(np.arange(len(sizes)), sizes)
    row = np.concatenate([np.arange(size) for size in sizes])
    padding = -len(row) % batch_size
    source, row = (np.concatenate([column, np.repeat(column[:1], padding)]) for column in (source, row))
    valid = np.arange(len(row)) < len(row) - padding
    for start in range(0, len(row), batch_size):
      here = np.arange(start, start + batch_size)[rows]
      yield self._gather(split, source[here], row[here], valid[here])

  def num_rows(self, split: str) -> int:
    """Rows of a split, over all sources."""
    return sum(len(tables[split]) for tables in self.sources.values())

  def fingerprint(self, split: str) -> str:
    """A hash of the rows of a split."""
    return '+'.join(tables[split].fingerprint for tables in self.sources.values())

  def describe(self) -> str:
    """The table printed at start: rows, share and epochs' worth of every source."""
    share = self.sampler.slots / self.sampler.slots.sum()
    rows = [('source', *SPLITS, 'share of a batch')]
    for i, (name, tables) in enumerate(self.sources.items()):
      rows.append((name, *(str(len(tables[split])) for split in SPLITS), f'{share[i]:.3f}'))
    return f'stream {self.name}: batches of {self.batch_size}\n{align(rows)}'

  @property
  def most_rows(self) -> dict[int, int]:
    """Of a mixture: {task_id: the most rows of it that a batch can hold}."""
    if self.sampler.run > 1:
      return dict.fromkeys(range(len(self.sources)), self.batch_size)
    blocks = -(-self.batch_size // self.sampler.block_size)
    blocks += self.batch_size % self.sampler.block_size > 0  # such a batch can begin within a block
    return {i: min(self.batch_size, blocks * int(slots)) for i, slots in enumerate(self.sampler.slots)}

  @functools.cached_property
  def _validation_sampler(self) -> BlockSampler:
    sizes = [len(tables['validation']) for tables in self.sources.values()]
    return BlockSampler(sizes, self.sampler.slots / self.sampler.slots.sum(), block_size=self.sampler.block_size,
                        run=self.sampler.run)

  @functools.cached_property
  def schema(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """{column: (shape of a row, dtype)} of inputs and labels. Raises ValueError for what the sources can't deliver."""
    schema: dict[str, tuple] = {}
    for source, tables in self.sources.items():
      table, where = tables['train'], f"Stream '{self.name}', source '{source}'"
      for name in self.input_columns:
        if name not in table.names:
          raise ValueError(f'{where}: there is no column {name!r} to feed the encoder. '
                           f'{did_you_mean(name, table.names)}')
      present = [name for name in (*self.input_columns, *self.labels) if name in table.names]
      for name, column in table.rows(np.arange(1), present).items():
        if column.dtype == object:
          raise ValueError(f'{where}: column {name!r} is text or ragged, not an array; give it a format, e.g. '
                           f"format={{'tokens': dict(name='bytes', column='{name}', length=128)}} and inputs='tokens'.")
        shape = (column.shape[1:], column.dtype)
        if schema.setdefault(name, shape) != shape:
          raise ValueError(f'{where}: {name!r} is {shape}, but {schema[name]} in the sources before it.')
    for label in self.labels:
      if label not in schema:
        known = {name for tables in self.sources.values() for name in tables['train'].names}
        raise ValueError(f"Stream '{self.name}' has no label column {label!r}. {did_you_mean(label, known)}")
    return schema

  def _gather(self, split: str, source: np.ndarray, row: np.ndarray, valid: np.ndarray) -> Batch:
    """Rows `row` [N] of the sources `source` [N]; what a source does not label is zero and masked."""
    batch: Batch = {name: np.zeros((len(row), *shape), dtype) for name, (shape, dtype) in self.schema.items()}
    batch |= {f'{label}_mask': np.zeros(batch[label].shape, bool) for label in self.labels}
    for i, tables in enumerate(self.sources.values()):
      here = np.flatnonzero(source == i) if len(self.sources) > 1 else slice(None)
      table = tables[split]
      labels = [label for label in self.labels if label in table.names]
      masks = [f'{label}_mask' for label in labels if f'{label}_mask' in table.names]
      part = table.rows(row[here], [*self.input_columns, *labels, *masks])
      for label in labels:
        part[label], part[f'{label}_mask'] = with_mask(part[label], part.get(f'{label}_mask'))
      for name, column in part.items():
        batch[name][here] = column
    for label in self.labels:
      mask = batch[f'{label}_mask']
      mask &= valid.reshape(-1, *[1] * (mask.ndim - 1))
    batch['valid'] = valid
    if self.mixture:
      batch['task_id'] = source.astype(np.int32)
    return batch


def with_mask(label: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
  """Label column and mask -> (label with zeros where missing, mask). NaN, or -1 in integers, means missing."""
  known = ~np.isnan(label) if label.dtype.kind == 'f' else label != -1 if label.dtype.kind == 'i' else None
  known = np.ones(label.shape, bool) if known is None else known
  if mask is not None:
    known = known & mask.reshape(*mask.shape, *[1] * (label.ndim - mask.ndim))
  return np.where(known, label, np.zeros((), label.dtype)), known


def labels_of(stream: Stream, label: str) -> Iterator[tuple[str, str, np.ndarray, np.ndarray]]:
  """(source, split, values of the label, mask) for every table in memory that has the column."""
  for source, tables in stream.sources.items():
    for split, table in tables.items():
      if isinstance(table, ArrayTable) and label in table.names:
        yield source, split, *with_mask(table.columns[label], table.columns.get(f'{label}_mask'))


class Batches:
  """Training batches of all streams by step, `batches[step] -> {stream: batch}`: a Grain random-access source.

  Args:
    streams: {name: stream}.
    num_steps: how many there are.
    rows: {stream: the slice of its batch that this host holds}.
    validation: whether each item is a pair (training batches, validation batches).
  """

  def __init__(self, streams: Mapping[str, Stream], num_steps: int, rows: Mapping[str, slice] | None = None,
               validation: bool = False):
    self._streams, self._num_steps, self._rows, self._validation = streams, num_steps, rows or {}, validation

  def __len__(self) -> int:
    return self._num_steps

  def __getitem__(self, step: int) -> Any:
    make = lambda kind: {name: getattr(stream, kind)(step, self._rows.get(name, slice(None)))
                         for name, stream in self._streams.items()}
    return (make('train_batch'), make('validation_batch')) if self._validation else make('train_batch')

  def iterate(self, start: int, prefetch: int = 8) -> Iterator[Any]:
    """Batches from step `start` on, made ahead of time by a thread."""
    import grain  # here, because `import mtjax` stays light

    dataset = grain.MapDataset.source(self)[start:]
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)))


def mean_tokens(table: Table, column: str, sample: int = 4096) -> float:
  """Mean number of tokens (ids > 0) a row of `column`, over the first `sample` rows."""
  return float((table.rows(np.arange(min(sample, len(table))), [column])[column] > 0).sum(1).mean())


def check_batch_size(batch_size: int, devices: int, axis: str, where: str) -> None:
  """Raises ValueError unless `batch_size` is a positive multiple of the `devices` on mesh axis `axis`."""
  check_multiple(batch_size, devices, where, f"devices on mesh axis '{axis}'")


def check_multiple(size: int, parts: int, where: str, what: str) -> None:
  """Raises ValueError unless `size` is a positive multiple of `parts`, which are `what`."""
  if not isinstance(size, int) or size < 1:
    raise ValueError(f"'{where}' must be a whole number >= 1, got {size!r}.")
  if size % parts:
    low = size // parts * parts
    near = f'{low} and {low + parts}' if low else f'{parts}'
    raise ValueError(f"'{where}' is {size}, which is not a multiple of the {parts} {what}; the nearest are {near}.")
