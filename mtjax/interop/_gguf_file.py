"""The container of GGUF, versions 2 and 3: a header, metadata, a table of tensors, their data.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Little-endian throughout:

    'GGUF', version u32, tensors u64, pairs u64
    pairs:    key, type of the value u32, value        (a string is its length u64 and UTF-8; an array is the type of
                                                        its values u32, their number u64, the values)
    tensors:  name, axes u32, lengths u64 (the last axis first), type u32, offset u64
    the data, from the next multiple of `general.alignment` (32) on; offsets count from there

Files are read with plain reads: what is in memory is the table, and one tensor when it is asked for.
"""
import math
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from mtjax.interop._cursor import Cursor
from mtjax.interop._gguf_quants import OTHERS, TYPES, Type

VERSIONS = (2, 3)
NUMBERS = {0: '<u1', 1: '<i1', 2: '<u2', 3: '<i2', 4: '<u4', 5: '<i4', 6: '<f4', 7: '?', 10: '<u8', 11: '<i8',
           12: '<f8'}
STRING, ARRAY = 8, 9
DEEPEST = 4     # arrays in arrays; a damaged file could ask for thousands
BLOCK = 1 << 22  # numbers that are decoded at once


class Tensor(NamedTuple):
  """A tensor in a file: which one, its shape (rows first, as numpy has it), how it is stored, and its first byte."""
  file: pathlib.Path
  shape: tuple[int, ...]
  type: Type
  offset: int


class Contents(NamedTuple):
  """What a file says of itself.

  Attributes:
    path: the file.
    version: 2 or 3.
    metadata: {key: a number, bool, string, array of numbers, or list of strings or arrays}.
    tensors: {name: tensor}.
  """
  path: pathlib.Path
  version: int
  metadata: dict[str, Any]
  tensors: dict[str, Tensor]


def scan(path: str | pathlib.Path) -> Contents:
  """Reads everything but the tensors' data.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is no GGUF file, of another version, cut off or damaged, one part of several, or holds a tensor of a
      type that is not read.
  """
  path = pathlib.Path(path).expanduser()
  with path.open('rb') as file:
    cursor = Cursor(path, file)
    magic = file.read(4)
    if magic != b'GGUF':
      raise ValueError(f"{path} is no GGUF file: it begins with {magic!r}; allowed is b'GGUF'.")
    version = cursor.number('<u4', 'the version')
    if version not in VERSIONS:
      kind = 'big-endian' if version and version % (1 << 16) == 0 else f'of version {version}'
      raise ValueError(f'{path} is a GGUF file {kind}; allowed are the versions 2 and 3, little-endian.')
    num_tensors, num_pairs = (cursor.number('<u8', 'the header') for _ in range(2))
    metadata: dict[str, Any] = {}
    for i in range(num_pairs):
      key = cursor.text('<u8', f'metadata {i + 1} of {num_pairs}')
      if key in metadata:
        raise ValueError(f'{path} is damaged: it has the metadata {key!r} twice.')
      metadata[key] = _value(cursor, cursor.number('<u4', key), key)
    if metadata.get('split.count', 1) not in (0, 1):
      raise ValueError(f"{path} is one of {metadata['split.count']} parts of a model. Join them with llama-gguf-split "
                       f'--merge.')
    headers = [_tensor(cursor, f'tensor {i + 1} of {num_tensors}') for i in range(num_tensors)]
    alignment = metadata.get('general.alignment', 32)
    if not isinstance(alignment, int) or isinstance(alignment, bool) or alignment < 1:
      raise ValueError(f'{path} has general.alignment={alignment!r}; allowed is an integer >= 1.')
    start = -(-cursor.at // alignment) * alignment
  tensors: dict[str, Tensor] = {}
  for name, shape, type_, offset in headers:
    if name in tensors:
      raise ValueError(f'{path} is damaged: it holds the tensor {name!r} twice.')
    end = start + offset + math.prod(shape) // type_.block * type_.size
    if end > cursor.size:
      raise ValueError(f'{path} is damaged or cut off at the tensor {name}: that ends at byte {end}, the file at '
                       f'{cursor.size}.')
    tensors[name] = Tensor(path, shape, type_, start + offset)
  return Contents(path, version, metadata, tensors)


def read(name: str, tensor: Tensor) -> np.ndarray:
  """One tensor as numbers: float32 where it is quantised, else as it is stored."""
  out = np.empty(tensor.shape, tensor.type.dtype)
  for rows, block in read_blocks(name, tensor):
    out[rows] = block
  return out


def read_blocks(name: str, tensor: Tensor) -> Iterator[tuple[Any, np.ndarray]]:
  """One tensor by and by: pairs (index of rows, the tensor at these rows), none of them large."""
  matrix = len(tensor.shape) > 1
  rows, columns = (tensor.shape[0], math.prod(tensor.shape[1:])) if matrix else (1, math.prod(tensor.shape))
  row_bytes = columns // tensor.type.block * tensor.type.size
  step = max(1, BLOCK // max(columns, 1))
  for start in range(0, rows, step):
    stop = min(start + step, rows)
    raw = np.fromfile(tensor.file, np.uint8, (stop - start) * row_bytes, offset=tensor.offset + start * row_bytes)
    numbers = tensor.type.decode(raw.reshape(-1, tensor.type.size))
    if matrix:
      yield slice(start, stop), numbers.reshape(stop - start, *tensor.shape[1:])
    else:
      yield ..., numbers.reshape(tensor.shape)


def dtype_of(name: str, tensor: Tensor) -> np.dtype:
  """The dtype that `read` gives."""
  return tensor.type.dtype


def _value(cursor: Cursor, kind: int, what: str, depth: int = 0) -> Any:
  """A value of metadata."""
  if kind in NUMBERS:
    return cursor.number(NUMBERS[kind], what)
  if kind == STRING:
    return cursor.text('<u8', what)
  if kind != ARRAY or depth == DEEPEST:
    raise ValueError(f'{cursor.path} is damaged at {what}: a value of type {kind} at depth {depth}; allowed are the '
                     f'types 0 to 12, and arrays to depth {DEEPEST}.')
  inner, count = cursor.number('<u4', what), cursor.number('<u8', what)
  if inner in NUMBERS:
    return np.frombuffer(cursor.take(count * np.dtype(NUMBERS[inner]).itemsize, what), NUMBERS[inner])
  return [_value(cursor, inner, what, depth + 1) for _ in range(count)]


def _tensor(cursor: Cursor, what: str) -> tuple[str, tuple[int, ...], Type, int]:
  """A line of the table: name, shape, type, offset."""
  name = cursor.text('<u8', what)
  axes = cursor.number('<u4', name)
  if axes > 4:
    raise ValueError(f'{cursor.path} is damaged at the tensor {name}: it has {axes} axes; allowed are up to 4.')
  shape = tuple(cursor.number('<u8', name) for _ in range(axes))[::-1]
  kind, offset = cursor.number('<u4', name), cursor.number('<u8', name)
  if kind not in TYPES:
    raise ValueError(f'{cursor.path} holds the tensor {name} as {OTHERS.get(kind, f"type {kind}")}; allowed are '
                     f'{", ".join(known.name for known in TYPES.values())}.')
  if (shape[-1] if shape else 1) % TYPES[kind].block:
    raise ValueError(f'{cursor.path} is damaged at the tensor {name}: of shape {list(shape)}, its rows are no whole '
                     f'blocks of {TYPES[kind].block} ({TYPES[kind].name}).')
  return name, shape, TYPES[kind], offset
