"""What the builders share: written as array_record without TensorFlow, splits frozen by hashing, rows in hash order.

A source says what its columns are (`columns`) and gives them as arrays with the rows of each split (`rows`).
"""
import abc
import hashlib
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import paths

Table = Mapping[str, Sequence[Any] | np.ndarray]
Splits = dict[str, np.ndarray]


class Source(tfds.core.GeneratorBasedBuilder, skip_registration=True):
  """A data set. Not registered with TFDS, whose own builders keep their names.

  Attributes:
    INPUTS: the column, or columns, fed to the encoder by default.
    FORMAT: default column transforms for the stream: {new column: dict(name=…, column=…, …)}.
    CITATION: where to read about the data.
    LICENCE: of the data.
  """
  VERSION = tfds.core.Version('1.0.0')
  INPUTS: ClassVar[str | tuple[str, ...]]
  FORMAT: ClassVar[dict[str, dict[str, Any]]] = {}
  CITATION: ClassVar[str]
  LICENCE: ClassVar[str]

  def __init_subclass__(cls, **kwargs):
    super().__init_subclass__(skip_registration=True, **kwargs)

  def __init__(self, *, data_dir=None, file_format='array_record', **kwargs):
    super().__init__(data_dir=data_dir or paths.prepared(), file_format=file_format, **kwargs)

  @abc.abstractmethod
  def columns(self) -> dict[str, Any]:
    """{column: TFDS feature}."""

  @abc.abstractmethod
  def rows(self) -> tuple[Table, Splits]:
    """The columns of all rows, and the rows of each split, in the order in which they are written."""

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self, description=inspect.getdoc(type(self)), features=tfds.features.FeaturesDict(self.columns()),
      citation=self.CITATION, license=self.LICENCE,
      disable_shuffling=True)  # `rows` come in hash order already

  def _split_generators(self, dl_manager):
    del dl_manager  # nothing is downloaded here; see mtjax.data.fetch
    table, splits = self.rows()
    return {split: self._generate_examples(table, index) for split, index in splits.items()}

  def _generate_examples(self, table: Table, index: np.ndarray):
    names = list(table)
    for key, row in enumerate(index.tolist()):
      yield key, {name: table[name][row] for name in names}


def image(*shape: int) -> tfds.features.Tensor:
  """uint8 pictures [H, W, C] stored as raw bytes: quicker to write and to read than PNG, and needs no codec."""
  return tfds.features.Tensor(shape=shape, dtype=np.uint8, encoding='bytes')


def hash_order(keys: Sequence[Any], seed: int = 0) -> np.ndarray:
  """The order of `keys` by sha256 of 'seed:key': random-looking, and the same for ever and everywhere."""
  digests = [hashlib.sha256(f'{seed}:{key}'.encode()).digest() for key in keys]
  return np.array(sorted(range(len(digests)), key=digests.__getitem__), np.int64)


def frozen_splits(groups: int | Sequence[Any], fractions: Mapping[str, float], seed: int = 0) -> Splits:
  """Disjoint rows of each split, in hash order; rows of one group always lie in one split.

  Groups are ordered by their hash and that order is cut, so neither numpy's version nor the platform matters.

  Args:
    groups: [N], each row's group (its text, its document, its owner), or N for rows that stand alone.
    fractions: {split: share of the groups}, adding up to 1.
    seed: another one gives other splits.
  """
  if abs(sum(fractions.values()) - 1) > 1e-9 or min(fractions.values()) <= 0:
    raise ValueError(f'Fractions of splits must be positive and add up to 1, got {dict(fractions)}.')
  groups = range(groups) if isinstance(groups, int) else groups
  unique = list(dict.fromkeys(groups))
  order = hash_order(unique, seed)
  ends = np.rint(np.cumsum(list(fractions.values())) * len(unique)).astype(int)
  split_of = {}
  for position, which in enumerate(order.tolist()):
    split_of[unique[which]] = int(np.searchsorted(ends, position, side='right'))
  rows = [[] for _ in fractions]
  for row in hash_order(range(len(groups)), seed).tolist():
    rows[split_of[groups[row]]].append(row)
  return {split: np.array(index, np.int64) for split, index in zip(fractions, rows)}


def checksum(index: np.ndarray) -> str:
  """Twelve hexadecimal digits that stand for the rows of a split and their order."""
  return hashlib.sha256(np.ascontiguousarray(index, '<i8').tobytes()).hexdigest()[:12]
