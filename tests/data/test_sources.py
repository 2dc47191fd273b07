"""The builders: splits that stay as they are and never overlap, columns that hold what they promise."""
import importlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from mtjax.data import fetch, paths
from mtjax.data.sources import SOURCES, base, census_income, movielens_100k, multimnist, sentiment

SHIPPED = ('mnist', 'multimnist', 'sentiment')
RENDERED = ('rendered_scenes',)    # of which a small configuration is shipped
FETCHED = sorted(set(SOURCES) - set(SHIPPED) - set(RENDERED))
NEEDS = {'bible_pairs': 'bible', 'debian_topics': 'debian_index', 'multifashion': 'fashion_mnist'}   # else its own name
COUNTS = {
  ('asterisk', 'all'): (1831, 313, 520), ('asterisk', 'short'): (1404, 249, 381),
  'bbc_news': (1646, 205, 206), 'bible': (27669, 1732, 1701), 'bible_pairs': (52852, 3290, 3136),
  'census_income': (199523, 49881, 49881), 'emoji': (6108, 702, 762),
  'fashion_mnist': (55000, 5000, 10000), 'movielens_100k': (80808, 9596, 9596), 'multifashion': (60000, 5000, 10000),
  'nafld': (12284, 1755, 3510), 'qm9': (109898, 10467, 10466), 'yeast': (1692, 242, 483),
}


def source(name):
  """The class of a source."""
  module, attribute = SOURCES[name].split(':')
  return getattr(importlib.import_module(module), attribute)


def read(builder, split):
  """{column: list of values} of a prepared split."""
  rows = list(builder.as_data_source(split=split))
  return {column: [row[column] for row in rows] for column in rows[0]}


@pytest.fixture(scope='session')
def prepared(tmp_path_factory):
  """The builders of the shipped data, prepared once."""
  folder = tmp_path_factory.mktemp('tfds')
  builders = {'mnist': source('mnist')(data_dir=folder), 'multimnist': source('multimnist')(data_dir=folder),
              'all': source('sentiment')(data_dir=folder, config='all'),
              'tweets': source('sentiment')(data_dir=folder, config='tweets'),
              'scenes': source('rendered_scenes')(data_dir=folder, config='sample')}
  for builder in builders.values():
    builder.download_and_prepare()
  return builders


# Splits

def test_frozen_splits_are_disjoint_complete_and_frozen():
  splits = base.frozen_splits(1000, {'train': 0.8, 'validation': 0.1, 'test': 0.1})
  assert [len(rows) for rows in splits.values()] == [800, 100, 100]
  assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(1000))
  assert [base.checksum(rows) for rows in splits.values()] == ['d7471b355652', '1e453d012039', '1c608e0a34cc']


def test_frozen_splits_by_hand():
  # sha256 of '0:a' is 9df3…, of '0:b' e021…, of '0:c' be08…: the order of the groups is a, c, b
  splits = base.frozen_splits(list('aabbc'), {'train': 2 / 3, 'test': 1 / 3})
  assert {'aabbc'[row] for row in splits['train']} == set('ac')
  assert {'aabbc'[row] for row in splits['test']} == {'b'}


def test_another_seed_gives_other_splits():
  a, b = (base.frozen_splits(100, {'train': 0.5, 'test': 0.5}, seed)['train'] for seed in (0, 1))
  assert set(a.tolist()) != set(b.tolist())


@pytest.mark.parametrize('fractions', [{'train': 0.5}, {'train': 1.5, 'test': -0.5}, {'train': 1.0, 'test': 0.0}])
def test_bad_fractions_are_refused(fractions):
  with pytest.raises(ValueError, match='positive and add up to 1'):
    base.frozen_splits(10, fractions)


def test_pairs():
  ids = np.arange(100, 200)
  left, right = multimnist.pairs(ids, 350, seed=0)
  assert len(left) == len(right) == 350 and not np.any(left == right)
  assert np.bincount(left)[100:].min() == 3 and np.bincount(left)[100:].max() == 4
  assert base.checksum(left) == '2a4950d2d361' and base.checksum(right) == '6153a431fb73'


def test_overlay_by_hand():
  left, right = np.full((1, 28, 28), 100, np.uint8), np.full((1, 28, 28), 200, np.uint8)
  canvas = multimnist.overlay(left, right)[0, :, :, 0]
  assert canvas[0, 0] == canvas[7, 27] == 100 and canvas[8, 8] == canvas[27, 27] == canvas[35, 35] == 200
  assert canvas[0, 35] == canvas[35, 0] == 0


def test_split_by_time_by_hand():
  users = np.array([1] * 20 + [2] * 3)               # 20 ratings: 2 + 2 held out; 3 ratings: 1 + 1
  splits = movielens_100k.split_by_time(users)
  assert set(splits['test'].tolist()) == {18, 19, 22} and set(splits['validation'].tolist()) == {16, 17, 21}


def test_census_codes_by_hand():
  train, test = {'a': ['x', 'y', 'x'], 'b': ['q', 'p', 'p']}, {'a': ['z'], 'b': ['q']}
  codes, count = census_income.encode(train, test, ['a', 'b'])
  # column a: 0 = not seen, x 1, y 2; column b: 3 = not seen, p 4, q 5
  assert codes.tolist() == [[1, 5], [2, 4], [1, 4], [0, 5]] and count == 6


# Shipped data

def test_mnist(prepared):
  ids = {split: read(prepared['mnist'], split)['id'] for split in ('train', 'validation', 'test')}
  assert [len(rows) for rows in ids.values()] == [8000, 600, 1400]
  assert len({i for rows in ids.values() for i in rows}) == 10_000
  assert [base.checksum(np.array(rows)) for rows in ids.values()] == ['c0c4ddad885d', '100ad67301d4', 'c139d77f8205']


def test_multimnist(prepared):
  from mtjax.data.sources import mnist
  images, labels = mnist.digits()
  splits = {split: read(prepared['multimnist'], split) for split in ('train', 'validation', 'test')}
  assert [len(rows['left']) for rows in splits.values()] == [30_000, 2_000, 4_000]
  used = [set(rows['left_id']) | set(rows['right_id']) for rows in splits.values()]
  assert not used[0] & used[1] and not used[0] & used[2] and not used[1] & used[2]
  assert [len(ids) for ids in used] == [8000, 600, 1400]
  for rows in splits.values():
    assert labels[rows['left_id']].tolist() == rows['left'] and labels[rows['right_id']].tolist() == rows['right']
    for side in ('left', 'right'):
      share = np.bincount(rows[side]) / len(rows[side])
      assert 0.06 < share.min() and share.max() < 0.15
  test = splits['test']
  picture = test['image'][7]
  assert picture.shape == (36, 36, 1) and picture.dtype == np.uint8
  np.testing.assert_array_equal(
    picture, multimnist.overlay(images[test['left_id'][7]][None], images[test['right_id'][7]][None])[0])
  assert base.checksum(np.array(test['left_id'])) == 'c33ef7092d34'


def test_sentiment(prepared):
  everything = {split: read(prepared['all'], split) for split in ('train', 'validation', 'test')}
  tweets = {split: read(prepared['tweets'], split) for split in ('train', 'validation', 'test')}
  assert sum(len(rows['id']) for rows in everything.values()) == 23_504
  assert sum(len(rows['id']) for rows in tweets.values()) == 4_001
  owner = {}
  for split, rows in everything.items():
    for text in rows['text']:
      assert owner.setdefault(' '.join(text.decode().lower().split()), split) == split
  for split, rows in tweets.items():
    assert set(rows['id']) <= set(everything[split]['id']) and set(rows['domain']) == {0}
  rows = everything['train']
  scores, shares = np.array(rows['score']), np.stack(rows['rating_distribution'])
  np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
  np.testing.assert_allclose(shares @ np.arange(-4, 5), scores, atol=1e-4)
  np.testing.assert_array_equal(np.array(rows['positive']), scores > 0)
  np.testing.assert_array_equal(np.array(rows['grade']), sum((scores >= cut).astype(int) for cut in sentiment.CUTS))
  assert base.checksum(np.frombuffer(b''.join(everything['test']['id']), np.uint8)) == '96b617b13048'


def test_rendered_scenes(prepared):
  from mtjax.data.sources import rendered_scenes
  shipped, start = rendered_scenes.sample(), rendered_scenes.SAMPLE_START
  splits = {split: read(prepared['scenes'], split) for split in ('train', 'validation', 'test')}
  assert [len(rows['index']) for rows in splits.values()] == [64, 16, 16]
  assert sorted(i for rows in splits.values() for i in rows['index']) == list(range(start, start + 96))
  for rows in splits.values():
    for column in ('image', 'segmentation', 'depth', 'normals', 'edges', 'saliency'):
      np.testing.assert_array_equal(rows[column], shipped[column][np.array(rows['index']) - start])
      assert rows[column][0].dtype == (np.float16 if column in ('depth', 'normals') else np.uint8)


def test_a_prepared_set_is_read_again_without_being_built(prepared):
  again = source('mnist')(data_dir=prepared['mnist'].data_dir.rsplit('mt_mnist', 1)[0])
  assert len(again.as_data_source(split='test')) == 1400


def test_text_and_array_round_trip(prepared):
  row = prepared['all'].as_data_source(split='train')[0]
  assert isinstance(row['text'], bytes) and isinstance(row['domain'], int) and row['rating_distribution'].shape == (9,)


# All

@pytest.mark.parametrize('name', SOURCES)
def test_declarations(name, tmp_path):
  cls = source(name)
  for config in cls.BUILDER_CONFIGS or [None]:
    builder = cls(data_dir=tmp_path, **({'config': config.name} if config else {}))
    columns = set(builder.info.features) | set(cls.FORMAT)
    inputs = {cls.INPUTS} if isinstance(cls.INPUTS, str) else set(cls.INPUTS)
    assert inputs <= columns
    for read in (format['column'] for format in cls.FORMAT.values()):
      assert ({read} if isinstance(read, str) else set(read)) <= set(builder.info.features)
    assert builder.name == f'mt_{name}' and cls.CITATION and cls.LICENCE and builder.info.description
    for column in builder.info.features:
      assert not column.endswith('_mask') or column.removesuffix('_mask') in builder.info.features


def test_names_of_tfds_are_left_alone():
  import tensorflow_datasets as tfds
  assert not any(name.startswith('mt_') for name in tfds.core.registered.list_imported_builders())


@pytest.mark.parametrize('name', FETCHED)
def test_absent_raw_data_name_the_command(name, tmp_path, monkeypatch):
  monkeypatch.setenv('MTJAX_DATA', str(tmp_path))
  with pytest.raises(FileNotFoundError, match=re.escape(f'python -m mtjax.data.fetch {NEEDS.get(name, name)}')):
    source(name)(data_dir=tmp_path).download_and_prepare()


def test_no_tensorflow():
  code = ('import sys, tempfile; from mtjax.data.sources.mnist import Mnist; b = Mnist(data_dir=tempfile.mkdtemp());'
          'b.download_and_prepare(); b.as_data_source(split="test")[0]; print("tensorflow" in sys.modules)')
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True,
                        env={**os.environ, 'PYTHONPATH': str(paths.ASSETS.parents[2])})
  assert done.stdout.split()[-1] == 'False'


@pytest.mark.slow
def test_all_rendered_scenes(tmp_path, monkeypatch):
  """As many as there are, at a few pixels each."""
  from mtjax.data.sources import rendered_scenes
  pytest.importorskip('pybullet', reason="pybullet renders the scenes: pip install 'mtjax[render]'")
  monkeypatch.setitem(rendered_scenes.SIZES, 'full', 4)
  builder = source('rendered_scenes')(data_dir=tmp_path, config='full')
  builder.download_and_prepare()
  index = [[row['index'] for row in builder.as_data_source(split=split)] for split in ('train', 'validation', 'test')]
  assert [len(rows) for rows in index] == [4000, 500, 500] and sorted(sum(index, [])) == list(range(5000))


@pytest.mark.slow
@pytest.mark.parametrize('name', FETCHED)
def test_fetched(name, tmp_path):
  """Builds a fetched source for real. Bring the data with `python -m mtjax.data.fetch NAME`."""
  try:
    fetch.require(NEEDS.get(name, name))
  except FileNotFoundError as error:
    pytest.skip(str(error))
  cls = source(name)
  for config in cls.BUILDER_CONFIGS or [None]:
    builder = cls(data_dir=tmp_path, **({'config': config.name} if config else {}))
    builder.download_and_prepare()
    counts = tuple(builder.info.splits[split].num_examples for split in ('train', 'validation', 'test'))
    if name in ('debian_index', 'debian_topics'):  # grow with the archive
      assert sum(counts) > 50_000 and counts[0] > 7 * counts[1]
    else:
      assert counts == COUNTS[name if name in COUNTS else (name, config.name)]
    rows = [builder.as_data_source(split='test')[i] for i in range(100)]
    for column in rows[0]:
      values = [np.asarray(row[column]) for row in rows]
      if len({value.shape for value in values}) > 1:
        continue  # recordings
      values = np.stack(values)
      if values.dtype.kind == 'f' and name != 'nafld':
        assert np.all(np.isfinite(values)), column
