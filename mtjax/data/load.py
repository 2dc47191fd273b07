"""Opens data sets: a TFDS builder of ours, or any name that TFDS knows ('tfds:glue/mrpc'), as tables by split."""
import dataclasses
import itertools
import pathlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

from mtjax.data import paths
from mtjax.data.streams import SPLITS
from mtjax.data.tables import IN_MEMORY_BYTES, Table, add_formats, open_table
from mtjax.parallel import hosts

DEFAULT_SPLITS = {split: split for split in SPLITS}


@dataclasses.dataclass(frozen=True)
class DataSet:
  """An opened data set.

  Attributes:
    name, version: as the builder gives them.
    splits: {'train' | 'validation' | 'test': table}.
    class_names: {column: names of its classes}, where the builder knows them.
    formats: {new column: format}.
  """

  name: str
  version: str
  splits: dict[str, Table]
  class_names: dict[str, list[str]]
  formats: dict[str, Callable]


def open_data_set(
  builder: Any,
  *,
  splits: Mapping[str, str] | None = None,
  formats: Mapping[str, Callable] | None = None,
  in_memory_bytes: int = IN_MEMORY_BYTES,
) -> DataSet:
  """Prepares a TFDS builder where that has not been done, and opens its splits.

  Of several hosts the first prepares, and the others then find it on a disk that they share, or do it too.

  Args:
    builder: a `tfds.core.DatasetBuilder` made with file_format='array_record'.
    splits: {'train', 'validation', 'test'} -> TFDS split expressions such as 'train[:90%]'; they must not overlap.
    formats: {new column: format}.
    in_memory_bytes: splits below this size are read into arrays.
  """
  splits = DEFAULT_SPLITS | dict(splits or {})
  import tensorflow_datasets as tfds  # here, because `import mtjax` stays light

  name = builder.info.full_name
  if not sys.stderr.isatty():
    tfds.disable_progress_bar()
  with hosts.first_goes_first(f'data set {name}'), \
       paths.lock(pathlib.Path(builder.data_dir).parent / '.lock'):  # runs started together prepare it once
    builder.download_and_prepare()
    if not builder.info.splits:  # another process prepared it since this builder was made
      builder.info.read_from_directory(builder.data_dir)
  _check_splits(builder, splits)
  tables = {}
  for split, expression in splits.items():
    where = f"data set '{name}', {split} split '{expression}'"
    source = _data_source(builder, expression, where)
    cache = pathlib.Path(builder.data_dir) / f'{split}.arrays.npz' if expression == split else None
    tables[split] = add_formats(open_table(source, where, in_memory_bytes=in_memory_bytes, cache=cache), formats or {})
  features = builder.info.features
  names = {column: list(feature.names) for column, feature in features.items() if getattr(feature, 'names', None)}
  return DataSet(name, str(builder.info.version), tables, names, dict(formats or {}))


def tfds_builder(name: str, config: str | None = None) -> Any:
  """The builder of 'tfds:<name>[/<config>]', with TFDS's own download."""
  import tensorflow_datasets as tfds  # here, because `import mtjax` stays light

  name = name.removeprefix('tfds:')
  try:
    return tfds.builder(f'{name}/{config}' if config else name, data_dir=paths.prepared(), file_format='array_record')
  except tfds.core.registered.DatasetNotFoundError as error:
    raise ValueError(f"TFDS knows no data set {name!r}: {str(error).splitlines()[0]}") from error


def _data_source(builder: Any, expression: str, where: str) -> Any:
  try:
    return builder.as_data_source(split=expression)
  except Exception as error:
    raise ValueError(f'{where} cannot be opened: {str(error).splitlines()[0]}. A data file is missing or damaged: '
                     f'delete {builder.data_dir} and run again to prepare it anew.') from error


def _check_splits(builder: Any, splits: Mapping[str, str]) -> None:
  """Raises ValueError for a split that is not there, is empty, or shares rows with another."""
  rows = {}
  for split, expression in splits.items():
    try:
      info = builder.info.splits[expression]
    except (KeyError, ValueError) as error:
      raise ValueError(f"Data set '{builder.info.full_name}' has no split '{expression}' (given as '{split}'). "
                       f'It has: {", ".join(sorted(builder.info.splits))}; parts are written e.g. '
                       f"'train[:90%]'.") from error
    if not info.num_examples:
      raise ValueError(f"Data set '{builder.info.full_name}': the {split} split '{expression}' is empty.")
    rows[split] = [(f.filename, f.skip, f.skip + f.examples_in_shard if f.take < 0 else f.skip + f.take)
                   for f in info.file_instructions]
  for (one, mine), (other, theirs) in itertools.combinations(rows.items(), 2):
    for (file, start, stop), (file2, start2, stop2) in itertools.product(mine, theirs):
      if file == file2 and max(start, start2) < min(stop, stop2):
        raise ValueError(f"Data set '{builder.info.full_name}': the {one} split '{splits[one]}' and the {other} split "
                         f"'{splits[other]}' share rows.")
