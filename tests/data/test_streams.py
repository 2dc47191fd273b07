import numpy as np
import pytest

from mtjax.data.formats import Bytes, decode_bytes
from mtjax.data.sampler import BlockSampler
from mtjax.data.streams import Batches, Stream, check_batch_size, mean_tokens, with_mask
from mtjax.data.tables import ArrayTable, RecordTable, add_formats, open_table


def table(rows, offset=0.0, label='y'):
  x = np.arange(rows * 2, dtype=np.float64).reshape(rows, 2) + offset
  return ArrayTable({'x': x, label: np.arange(rows)})


def single(rows=10, batch_size=4, seed=0, **tables):
  splits = {'train': table(rows), 'validation': table(3), 'test': table(5)} | tables
  return Stream('s', {'s': splits}, 'x', ('y',), batch_size, BlockSampler([len(splits['train'])], seed=seed))


def mixture(batch_size=8):
  a = dict.fromkeys(('train', 'validation', 'test'), table(6, label='ya'))
  b = dict.fromkeys(('train', 'validation', 'test'), table(4, 100, label='yb'))
  sampler = BlockSampler([6, 4], [0.75, 0.25], block_size=4)
  return Stream('m', {'a': a, 'b': b}, 'x', ('ya', 'yb'), batch_size, sampler, mixture=True)


def test_a_batch_is_arrays_with_masks():
  batch = single().train_batch(0)
  assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
    'x': ((4, 2), 'float32'), 'y': ((4,), 'int32'), 'y_mask': ((4,), 'bool'), 'valid': ((4,), 'bool')}
  np.testing.assert_array_equal(batch['x'][:, 0], 2 * batch['y'])
  assert batch['y_mask'].all()


def test_hosts_together_hold_the_one_global_batch():
  stream = mixture()
  whole = stream.train_batch(5)
  for hosts in (2, 4):
    share = 8 // hosts
    parts = [stream.train_batch(5, slice(h * share, (h + 1) * share)) for h in range(hosts)]
    for name in whole:
      np.testing.assert_array_equal(whole[name], np.concatenate([part[name] for part in parts]))


def test_a_mixture_masks_what_a_source_does_not_label_and_keeps_its_shapes():
  stream = mixture(batch_size=1)  # so that most batches lack one of the sources
  shapes = set()
  for step in range(12):
    batch = stream.train_batch(step)
    shapes.add(tuple(sorted((name, column.shape, str(column.dtype)) for name, column in batch.items())))
    from_a = batch['task_id'] == 0
    np.testing.assert_array_equal(batch['ya_mask'], from_a)
    np.testing.assert_array_equal(batch['yb_mask'], ~from_a)
    np.testing.assert_array_equal(batch['x'][:, 0] >= 100, ~from_a)
  assert len(shapes) == 1


@pytest.mark.parametrize('batch_size', [1, 2, 5, 16])
def test_evaluation_sees_every_row_once_in_order(batch_size):
  stream = mixture()
  batches = list(stream.eval_batches('test', batch_size))
  assert all(len(b['valid']) == batch_size for b in batches)
  x = np.concatenate([b['x'][b['valid'], 0] for b in batches])
  np.testing.assert_array_equal(x, [0, 2, 4, 6, 8, 10, 100, 102, 104, 106])
  assert sum(b['ya_mask'].sum() for b in batches) == 6 and sum(b['yb_mask'].sum() for b in batches) == 4


def test_batches_by_grain_start_anywhere():
  batches = Batches({'s': single()}, num_steps=9)
  whole = [b['s']['y'].tolist() for b in batches.iterate(0)]
  assert len(whole) == 9
  assert [b['s']['y'].tolist() for b in batches.iterate(4)] == whole[4:]
  assert [b['s']['y'].tolist() for b in Batches({'s': single(seed=1)}, 9).iterate(0)] != whole


def test_missing_labels_are_masks():
  label, mask = with_mask(np.array([1.0, np.nan, 3.0], np.float32), None)
  assert label.tolist() == [1, 0, 3] and mask.tolist() == [True, False, True]
  label, mask = with_mask(np.array([2, -1], np.int32), np.array([False, True]))
  assert label.tolist() == [0, 0] and mask.tolist() == [False, False]
  label, mask = with_mask(np.array([[1.0, np.nan]], np.float32), np.array([True]))
  assert mask.tolist() == [[True, False]]


def test_column_errors():
  with pytest.raises(ValueError, match="no label column 'yy'. Did you mean 'y'"):
    s = single()
    Stream('s', s.sources, 'x', ('yy',), 4, s.sampler).schema  # noqa: B018
  with pytest.raises(ValueError, match="no column 'z' to feed the encoder"):
    Stream('s', single().sources, 'z', ('y',), 4, single().sampler).schema  # noqa: B018
  text = ArrayTable({'text': np.array([b'ab', b'c'], object), 'y': np.arange(2)})
  with pytest.raises(ValueError, match=r"'text' is text or ragged.*format=\{'tokens'"):
    Stream('s', {'s': {'train': text}}, 'text', ('y',), 2, BlockSampler([2])).schema  # noqa: B018


def test_batch_size_errors_name_the_nearest():
  check_batch_size(16, 8, 'data', 'data.batch_size')
  with pytest.raises(ValueError, match="'data.batch_size' is 100, which is not a multiple of the 8 devices on mesh axis "
                                       "'data'; the nearest are 96 and 104"):
    check_batch_size(100, 8, 'data', 'data.batch_size')
  for bad in (0, -8, 2.5):
    with pytest.raises(ValueError, match='must be a whole number >= 1'):
      check_batch_size(bad, 1, 'data', 'data.batch_size')


def test_bytes_round_trip_and_cut():
  tokens = Bytes('text', 8)({'text': [b'ab', 'é', b'abcdefghij']})
  assert tokens.tolist() == [[1, 100, 101, 2, 0, 0, 0, 0], [1, 198, 172, 2, 0, 0, 0, 0],
                             [1, 100, 101, 102, 103, 104, 105, 2]]
  assert [decode_bytes(t) for t in tokens] == ['ab', 'é', 'abcdef']
  pair = Bytes(('a', 'b'), 8)({'a': [b'x'], 'b': [b'y']})
  assert pair.tolist() == [[1, 123, 2, 124, 2, 0, 0, 0]]
  with pytest.raises(ValueError, match='length >= 3'):
    Bytes('text', 2)


class Source:
  """Stands for a TFDS data source: five rows of text."""

  def __init__(self, size=5, broken=False):
    self.size, self.broken = size, broken

  def __len__(self):
    return self.size

  def __getitem__(self, i):
    return self.__getitems__([i])[0]

  def __getitems__(self, index):
    if self.broken:
      raise RuntimeError('chunk hash mismatch')
    return [{'text': b'a' * (i + 1), 'n': {'length': i + 1}} for i in index]


def test_tables_on_disk_and_in_memory_agree(tmp_path):
  cache = tmp_path / 'c.npz'
  memory = open_table(Source(), 'here', cache=cache)
  again = open_table(Source(), 'here', cache=cache)
  disk = open_table(Source(), 'here', in_memory_bytes=1)
  assert isinstance(memory, ArrayTable) and isinstance(disk, RecordTable) and cache.exists()
  formats = {'tokens': Bytes('text', 8)}
  index = np.array([3, 0, 3])
  rows = [add_formats(t, formats).rows(index, ['tokens', 'n/length']) for t in (memory, again, disk)]
  for other in rows[1:]:
    for name in rows[0]:
      np.testing.assert_array_equal(rows[0][name], other[name])
  assert memory.fingerprint == again.fingerprint
  assert mean_tokens(add_formats(disk, formats), 'tokens') == 5  # 3 bytes on average and two marks
  cache.write_bytes(cache.read_bytes()[:50])
  assert open_table(Source(), 'here', cache=cache).fingerprint == memory.fingerprint


def test_damaged_and_empty_data_say_so():
  with pytest.raises(ValueError, match="data set 'd' cannot be read: chunk hash mismatch. A data file is damaged"):
    open_table(Source(broken=True), "data set 'd'")
  with pytest.raises(ValueError, match="data set 'd' is empty"):
    open_table(Source(0), "data set 'd'")
  with pytest.raises(ValueError, match="format 'tokens' reads column 'txt'.*Columns: text, n/length"):
    add_formats(open_table(Source(), 'd'), {'tokens': Bytes('txt', 8)})
