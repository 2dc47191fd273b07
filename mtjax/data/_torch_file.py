"""Reads the tensors of a PyTorch checkpoint as data: no pickle machine runs, nothing in the file is imported or called.

`torch.save` writes a pickle that names functions of PyTorch, and the numbers beside it: as files of a zip archive
(since 1.6), or behind it in one file (before). Here the opcodes are only decoded (`pickletools.genops`); the few forms
that a dict of tensors needs are understood, and whatever else the file would call is an error.
"""
import io
import pathlib
import pickletools
import zipfile
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DTYPES = {'DoubleStorage': np.float64, 'FloatStorage': np.float32, 'HalfStorage': np.float16,
          'BFloat16Storage': ml_dtypes.bfloat16, 'LongStorage': np.int64, 'IntStorage': np.int32,
          'ShortStorage': np.int16, 'CharStorage': np.int8, 'ByteStorage': np.uint8, 'BoolStorage': np.bool_}
LITERALS = {'BININT', 'BININT1', 'BININT2', 'LONG1', 'BINUNICODE', 'SHORT_BINUNICODE', 'BINFLOAT', 'INT', 'LONG'}
CONSTANTS = {'NEWTRUE': True, 'NEWFALSE': False, 'NONE': None}


class Name(NamedTuple):
  """What the stream calls by name. Never imported."""
  text: str


class Storage(NamedTuple):
  """A block of numbers, to be found under `key`."""
  dtype: np.dtype
  key: str
  size: int


class Tensor(NamedTuple):
  """A view into a block: entry i is at offset + sum_k i_k strides_k."""
  storage: Storage
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def read_tensors(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """{name: array} of a checkpoint that holds a dict of tensors, or such a dict under 'state_dict'.

  Raises ValueError for a file that holds anything but dicts, tensors and literals, or is cut off.
  """
  path = pathlib.Path(path)
  with path.open('rb') as file:
    tensors, blocks = _read_zip(file) if zipfile.is_zipfile(file) else _read_plain(file)
  return {name: _view(tensor, blocks[tensor.storage.key], name) for name, tensor in tensors.items()}


def decode(data: bytes | BinaryIO) -> Any:
  """The opcodes of one pickle of protocol 2 -> dicts, lists, tuples, literals, `Tensor`."""
  stack: list[Any] = []
  marks: list[int] = []
  memo: dict[int, Any] = {}

  def pop(count: int) -> list[Any]:
    items = stack[len(stack) - count:]
    del stack[len(stack) - count:]
    return items

  for op, argument, _ in pickletools.genops(data):
    match op.name:
      case 'PROTO' | 'STOP':
        pass
      case name if name in LITERALS:
        stack.append(argument)
      case name if name in CONSTANTS:
        stack.append(CONSTANTS[name])
      case 'EMPTY_DICT':
        stack.append({})
      case 'EMPTY_LIST':
        stack.append([])
      case 'EMPTY_TUPLE':
        stack.append(())
      case 'MARK':
        marks.append(len(stack))
      case 'TUPLE1' | 'TUPLE2' | 'TUPLE3':
        stack.append(tuple(pop(int(op.name[-1]))))
      case 'TUPLE':
        stack.append(tuple(pop(len(stack) - marks.pop())))
      case 'BINPUT' | 'LONG_BINPUT':
        memo[argument] = stack[-1]
      case 'BINGET' | 'LONG_BINGET':
        stack.append(memo[argument])
      case 'APPEND':
        item = stack.pop()
        stack[-1].append(item)
      case 'APPENDS':
        items = pop(len(stack) - marks.pop())
        stack[-1].extend(items)
      case 'SETITEM':
        key, value = pop(2)
        stack[-1][key] = value
      case 'SETITEMS':
        items = pop(len(stack) - marks.pop())
        stack[-1].update(zip(items[::2], items[1::2]))
      case 'GLOBAL':
        stack.append(Name(argument))
      case 'BINPERSID':
        stack.append(_storage(stack.pop()))
      case 'REDUCE':
        function, arguments = pop(2)
        stack.append(_made(function, arguments))
      case 'BUILD':                                       # attributes of an OrderedDict: module versions
        if not isinstance(stack.pop(), dict) or not isinstance(stack[-1], dict):
          raise ValueError('The checkpoint gives a state to something that is no dict.')
      case name:
        raise ValueError(f'The checkpoint needs the opcode {name}, which a dict of tensors has no use for.')
  return stack.pop()


def _storage(identity: Any) -> Storage:
  match identity:
    case ('storage', Name(text), str(key), str(), int(size), *_) if text.removeprefix('torch ') in DTYPES:
      return Storage(np.dtype(DTYPES[text.removeprefix('torch ')]), key, size)
  raise ValueError(f'The checkpoint has a block of numbers that is not understood: {identity!r}.')


def _made(function: Any, arguments: Any) -> Any:
  match function, arguments:
    case Name('collections OrderedDict'), ():
      return {}
    case Name('torch._utils _rebuild_tensor_v2'), (Storage() as storage, int(offset), tuple(shape), tuple(strides), *_):
      return Tensor(storage, offset, shape, strides)
  raise ValueError(f'The checkpoint would call {getattr(function, "text", function)!r}. Only tensors are read from it.')


def _read_zip(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, bytes]]:
  """Of a zip archive: (the tensors of its data.pkl, {key: bytes})."""
  with zipfile.ZipFile(file) as archive:
    (pickle,) = [name for name in archive.namelist() if name.endswith('data.pkl')]
    tensors, folder = _tensors(decode(archive.read(pickle))), pickle.removesuffix('data.pkl')
    order = folder + 'byteorder'
    if order in archive.namelist() and archive.read(order) != b'little':
      raise ValueError('The checkpoint was written on a big-endian machine, which is not supported.')
    keys = {tensor.storage.key for tensor in tensors.values()}
    return tensors, {key: archive.read(f'{folder}data/{key}') for key in keys}


def _read_plain(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, bytes]]:
  """Of the older form: five pickles (magic number, protocol, system, tensors, keys), then a size and a block a key."""
  file.seek(0)
  data = io.BytesIO(file.read())
  try:
    magic, protocol, system = decode(data), decode(data), decode(data)
  except (ValueError, IndexError, KeyError) as error:
    raise ValueError(f'The file is no PyTorch checkpoint ({error}).') from error
  if (magic, protocol) != (MAGIC, PROTOCOL) or not system.get('little_endian'):
    raise ValueError('The file is no PyTorch checkpoint, or was written on a big-endian machine.')
  tensors, keys = _tensors(decode(data)), decode(data)
  storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
  if set(keys) != set(storages):
    raise ValueError('The checkpoint has blocks of numbers that belong to no tensor of its dict.')
  blocks = {}
  for key in keys:
    size = int.from_bytes(data.read(8), 'little') * storages[key].dtype.itemsize
    blocks[key] = data.read(size)
  return tensors, blocks


def _tensors(found: Any) -> dict[str, Tensor]:
  """The dict of tensors that a checkpoint is, or holds under 'state_dict'."""
  found = found.get('state_dict', found) if isinstance(found, dict) else found
  if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
    raise ValueError('The checkpoint holds no dict of tensors.')
  return found


def _view(tensor: Tensor, block: bytes, name: str) -> np.ndarray:
  storage, shape, strides = tensor.storage, tensor.shape, tensor.strides
  last = tensor.offset + sum((n - 1) * stride for n, stride in zip(shape, strides)) if 0 not in shape else 0
  good = len(block) == storage.size * storage.dtype.itemsize and len(shape) == len(strides) and tensor.offset >= 0
  if not good or min((*shape, *strides, 0)) < 0 or last >= max(storage.size, 1):
    raise ValueError(f'The tensor {name!r} reaches beyond its block of numbers; the checkpoint is cut off or damaged.')
  numbers = np.frombuffer(block, storage.dtype)[tensor.offset:]
  steps = [stride * storage.dtype.itemsize for stride in strides]
  return np.array(np.lib.stride_tricks.as_strided(numbers, shape, steps))
