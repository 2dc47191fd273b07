"""Safetensors files of a directory: read tensor by tensor, written shard by shard.

https://huggingface.co/docs/safetensors. A directory holds `model.safetensors`, or `model.safetensors.index.json` that
says which of `model-00001-of-0000n.safetensors` holds which tensor.
"""
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

SINGLE, INDEX = 'model.safetensors', 'model.safetensors.index.json'
PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.h5', '.msgpack')


class Entry(NamedTuple):
  """A tensor in a file: which one, its shape, and its dtype as the file says it ('F32')."""
  file: pathlib.Path
  shape: tuple[int, ...]
  dtype: str


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
    with _open(directory / name) as file:
      for tensor in file.keys():
        part = file.get_slice(tensor)
        entries[tensor] = Entry(directory / name, tuple(part.get_shape()), part.get_dtype())
  if index is not None and (gone := [tensor for tensor, file in index.items() if tensor not in entries]):
    raise ValueError(f'{directory / INDEX} names tensors that its files do not hold: {", ".join(sorted(gone))}.')
  return entries


def read(name: str, entry: Entry) -> np.ndarray:
  """One tensor. The file is opened for it alone: what was read of a mapped file stays in memory until it is closed."""
  with _open(entry.file) as file:
    return file.get_tensor(name)


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
    arrays = {name: np.ascontiguousarray(tensor(name)) for name in members}
    _library().numpy.save_file(arrays, directory / file, metadata={'format': 'pt'})
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


def _open(path: pathlib.Path) -> Any:
  return _library().safe_open(path, framework='numpy')


def _library() -> Any:
  try:
    import safetensors.numpy
  except ImportError as error:
    raise ImportError("Published checkpoints need the package safetensors: pip install 'mtjax[hf]'.") from error
  return safetensors
