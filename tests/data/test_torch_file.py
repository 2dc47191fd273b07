"""PyTorch checkpoints read as data: both forms, views into blocks, and files that would call something."""
import collections
import io
import os
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest

from mtjax.data import _torch_file
from mtjax.data._torch_file import read_tensors


class Block:
  """A block of numbers as PyTorch's pickler refers to it."""

  def __init__(self, numbers, key):
    self.numbers, self.key = np.asarray(numbers), key


class Fake:
  """A tensor that pickles as PyTorch's do."""

  def __init__(self, block, offset, shape, strides):
    self.args = (block, offset, shape, strides, False, collections.OrderedDict())

  def __reduce__(self):
    return sys.modules['torch._utils']._rebuild_tensor_v2, self.args


@pytest.fixture(autouse=True)
def torch(monkeypatch):
  """Names that the pickles of the tests refer to."""
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in _torch_file.DTYPES:
    setattr(torch, name, type(name, (), {'__module__': 'torch'}))
  utils._rebuild_tensor_v2 = types.FunctionType((lambda *args: args).__code__, {}, '_rebuild_tensor_v2')
  utils._rebuild_tensor_v2.__module__, utils._rebuild_tensor_v2.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'
  monkeypatch.setitem(sys.modules, 'torch', torch)
  monkeypatch.setitem(sys.modules, 'torch._utils', utils)
  return torch


def dump(thing, legacy):
  kinds = {np.dtype(dtype): name for name, dtype in _torch_file.DTYPES.items()}

  class Pickler(pickle.Pickler):
    def persistent_id(self, block):
      if isinstance(block, Block):
        kind = getattr(sys.modules['torch'], kinds[block.numbers.dtype])
        return 'storage', kind, block.key, 'cpu', block.numbers.size, *((None,) if legacy else ())

  out = io.BytesIO()
  Pickler(out, protocol=2).dump(thing)
  return out.getvalue()


def save(path, thing, blocks, legacy):
  if legacy:
    system = dict(protocol_version=1001, little_endian=True, type_sizes=dict(short=2, int=4, long=4))
    parts = [dump(part, True) for part in (_torch_file.MAGIC, _torch_file.PROTOCOL, system, thing, [b.key for b in blocks])]
    parts += [struct.pack('<q', b.numbers.size) + b.numbers.tobytes() for b in blocks]
    path.write_bytes(b''.join(parts))
  else:
    with zipfile.ZipFile(path, 'w') as archive:
      archive.writestr('archive/data.pkl', dump(thing, False))
      for block in blocks:
        archive.writestr(f'archive/data/{block.key}', block.numbers.tobytes())
  return path


BLOCKS = [Block(np.arange(12, dtype=np.float32), '0'), Block(np.array([7], np.int64), '1')]
STATE = collections.OrderedDict(
  weight=Fake(BLOCKS[0], 0, (3, 4), (4, 1)), turned=Fake(BLOCKS[0], 1, (2, 3), (1, 4)), steps=Fake(BLOCKS[1], 0, (), ()),
  nothing=Fake(BLOCKS[0], 0, (0, 3), (3, 1)))
STATE._metadata = {'': {'version': 1}}


@pytest.mark.parametrize('legacy', [False, True])
def test_tensors_are_views_into_blocks(tmp_path, legacy):
  numbers = np.arange(12, dtype=np.float32)
  for thing in (STATE, {'epoch': 3, 'state_dict': STATE}):
    tensors = read_tensors(save(tmp_path / 'a.pth', thing, BLOCKS, legacy))
    np.testing.assert_array_equal(tensors['weight'], numbers.reshape(3, 4))
    np.testing.assert_array_equal(tensors['turned'], [[1, 5, 9], [2, 6, 10]])      # entry (i, j) at 1 + i + 4 j
    assert tensors['steps'] == 7 and tensors['steps'].dtype == np.int64
    assert tensors['nothing'].shape == (0, 3)


class Evil:
  """Would run a command."""

  def __reduce__(self):
    return os.system, ('exit 1',)


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('thing, text', [
  ({'a': Evil()}, r'would call .* system.\. Only tensors are read'),
  ({'a': np.dtype('float32').type}, 'holds no dict of tensors'),
  ({'a': Block}, 'holds no dict of tensors'),
  ({'a': [1, 2]}, 'holds no dict of tensors'),
  ([1, (2, 3.5), None, True], 'holds no dict of tensors'),
  ({'a': Fake(BLOCKS[0], 4, (3, 4), (4, 1)), 'b': STATE['steps']}, "The tensor 'a' reaches beyond its block"),
  ({'a': Fake(BLOCKS[0], 0, (3, 4), (-4, 1)), 'b': STATE['steps']}, "The tensor 'a' reaches beyond its block"),
])
def test_anything_but_tensors_is_an_error(tmp_path, thing, text, legacy):
  with pytest.raises(ValueError, match=text):
    read_tensors(save(tmp_path / 'a.pth', thing, BLOCKS, legacy))


def test_files_that_are_cut_off_or_something_else(tmp_path):
  path = save(tmp_path / 'a.pth', STATE, BLOCKS[:1] + [BLOCKS[1]], legacy=True)
  path.write_bytes(path.read_bytes()[:-9])
  with pytest.raises(ValueError, match='cut off or damaged'):
    read_tensors(path)
  path.write_bytes(b'GIF89a and so on')
  with pytest.raises(ValueError, match='no PyTorch checkpoint'):
    read_tensors(path)
