"""Safetensors files of a directory: read tensor by tensor, written shard by shard.

https://huggingface.co/docs/safetensors. A directory holds `model.safetensors`, or `model.safetensors.index.json` that
says which of `model-00001-of-0000n.safetensors` holds which tensor. A file is the length of its header (8 bytes), the
header (JSON: name -> dtype, shape, begin and end of the data behind it) and the data. It is read with plain reads: of a
mapped file, the pages that were read count as memory beside the array that was made of them.
"""
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
DTYPES = {name: np.dtype(dtype) for name, dtype in {
  'F64': np.float64, 'F32': np.float32, 'F16': np.float16, 'BF16': jnp.bfloat16, 'I64': np.int64, 'I32': np.int32,
  'I16': np.int16, 'I8': np.int8, 'U8': np.uint8, 'BOOL': np.bool_}.items()}
BLOCK = 1 << 24  # bytes that are read at once where a tensor needs no rearranging
PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.h5', '.msgpack')


class Entry(NamedTuple):
  """A tensor in a file: which one, its shape, its dtype as the file says it ('F32'), and its first byte."""
  file: pathlib.Path
  shape: tuple[int, ...]
  dtype: str
  offset: int


def scan(directory: pathlib.Path) -> dict[str, Entry]:
  """{name: entry} of all tensors; reads the headers alone.

  Raises:
    FileNotFoundError: there are no safetensors.
    ValueError: there are weights in another format, or the index is damaged.
  """
  if (directory / SINGLE).exists():
    files, index = [SINGLE], None
  elif (directory / INDEX).exists():
    index = json.loads((directory / INDEX).read_text())['weight_map']
    files = sorted(set(index.values()))
    bad = [name for name in files if '/' in name or not (directory / name).exists()]
    if bad:
      raise ValueError(f'{directory / INDEX} names files that are not beside it: {", ".join(bad)}.')
  else:
    _refuse(directory)
  entries: dict[str, Entry] = {}
  for name in files:
    entries |= header(directory / name)
  if index is not None and (gone := [tensor for tensor, file in index.items() if tensor not in entries]):
    raise ValueError(f'{directory / INDEX} names tensors that its files do not hold: {", ".join(sorted(gone))}.')
  return entries


def read(name: str, entry: Entry) -> np.ndarray:
  """One tensor. Raises ValueError for a dtype that has no counterpart here."""
  flat = np.fromfile(entry.file, dtype_of(name, entry), math.prod(entry.shape), offset=entry.offset)
  return flat.reshape(entry.shape)


def read_blocks(name: str, entry: Entry) -> Iterator[tuple[slice, np.ndarray]]:
  """One tensor by and by: pairs (rows, the tensor at these rows), none of them large."""
  if not entry.shape:
    yield slice(None), read(name, entry)
    return
  row = dtype_of(name, entry).itemsize * math.prod(entry.shape[1:])
  step = max(1, BLOCK // max(row, 1))
  for start in range(0, entry.shape[0], step):
    stop = min(start + step, entry.shape[0])
    part = entry._replace(shape=(stop - start, *entry.shape[1:]), offset=entry.offset + start * row)
    yield slice(start, stop), read(name, part)


def dtype_of(name: str, entry: Entry) -> np.dtype:
  """The dtype of a tensor. Raises ValueError for one that has no counterpart here."""
  if entry.dtype not in DTYPES:
    raise ValueError(f'{entry.file} holds {name} as {entry.dtype}; allowed are {", ".join(DTYPES)}.')
  return DTYPES[entry.dtype]


def header(path: pathlib.Path) -> dict[str, Entry]:
  """The tensors of one file. Raises ValueError if it is damaged or cut off."""
  size, entries = path.stat().st_size, {}
  with path.open('rb') as file:
    length = int.from_bytes(file.read(8), 'little')
    if size < 8 or length > size - 8:
      raise ValueError(f'{path} is no safetensors file, or cut off: {size} bytes, of which the header takes {length}.')
    try:
      header = json.loads(file.read(length))
    except ValueError as error:
      raise ValueError(f'{path} is no safetensors file: its header is not JSON ({error}).') from error
  for name, facts in header.items():
    if name != '__metadata__':
      begin, end = facts['data_offsets']
      itemsize = DTYPES[facts['dtype']].itemsize if facts['dtype'] in DTYPES else None
      if 8 + length + end > size or itemsize not in (None, (end - begin) / max(math.prod(facts['shape']), 1)):
        raise ValueError(f'{path} is damaged or cut off at the tensor {name}.')
      entries[name] = Entry(path, tuple(facts['shape']), facts['dtype'], 8 + length + begin)
  return entries


def write(directory: pathlib.Path, sizes: Mapping[str, int], tensor: Callable[[str], np.ndarray], limit: int) -> None:
  """Writes tensors into as many shards of at most `limit` bytes as it takes (a larger tensor has its own).

  Args:
    directory: where; files of these names that are there already are replaced.
    sizes: {name: bytes}.
    tensor: name -> array; called for a shard at a time.
    limit: bytes a shard.
  """
  shards: list[list[str]] = [[]]
  filled = 0
  for name, size in sizes.items():
    if shards[-1] and filled + size > limit:
      shards.append([])
      filled = 0
    shards[-1].append(name)
    filled += size
  for path in directory.iterdir():
    if path.name in (SINGLE, INDEX) or re.fullmatch(r'model-\d{5}-of-\d{5}\.safetensors', path.name):
      path.unlink()
  names = [SINGLE] if len(shards) == 1 else [
    f'model-{i + 1:05d}-of-{len(shards):05d}.safetensors' for i in range(len(shards))]
  for file, members in zip(names, shards):
    write_file({name: tensor(name) for name in members}, directory / file)
  if len(shards) > 1:
    weight_map = {name: file for file, members in zip(names, shards) for name in members}
    index = {'metadata': {'total_size': sum(sizes.values())}, 'weight_map': weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2))


def _refuse(directory: pathlib.Path) -> None:
  others = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLES)
  if not others:
    raise FileNotFoundError(f'{directory} has neither {SINGLE} nor {INDEX}.')
  raise ValueError(
    f'{directory} has no safetensors, but {", ".join(others)}. Such files are not read: unpickling one runs whatever '
    f'code it holds. Convert it where you trust it, with PyTorch: '
    f"safetensors.torch.save_file(torch.load('{others[0]}', weights_only=True), '{SINGLE}').")


def write_file(arrays: Mapping[str, np.ndarray], path: pathlib.Path) -> None:
  """Writes one file."""
  try:
    import safetensors.numpy
  except ImportError as error:
    raise ImportError("To write checkpoints takes the package safetensors: pip install 'mtjax[hf]'.") from error
  safetensors.numpy.save_file({k: np.ascontiguousarray(x) for k, x in arrays.items()}, path, metadata={'format': 'pt'})
