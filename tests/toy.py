"""A small real data set for tests: scikit-learn's 1,797 handwritten digits (8 x 8), with labels of every kind.

In configs it is 'toy:Toy': a user's own data set, named by import path. 'toy:Bad' has a label out of range in row 3.
"""
import zlib

import numpy as np
import sklearn.datasets
import tensorflow_datasets as tfds

NUM_TRAIN, NUM_VALIDATION = 1000, 300


class Toy(tfds.core.GeneratorBasedBuilder):
  """image [8, 8, 1] uint8, text, and six labels of the digit."""

  VERSION = tfds.core.Version('1.0.0')
  INPUTS = 'image'
  FORMAT: dict = {}

  def _info(self):
    return tfds.core.DatasetInfo(builder=self, disable_shuffling=True, features=tfds.features.FeaturesDict({
      'image': tfds.features.Tensor(shape=(8, 8, 1), dtype=np.uint8),
      'text': tfds.features.Text(),
      'digit': tfds.features.ClassLabel(num_classes=10),
      'odd': tfds.features.ClassLabel(names=['even', 'odd']),
      'ink': tfds.features.Scalar(dtype=np.float32),       # mean intensity; NaN, i.e. missing, in every fifth row
      'bits': tfds.features.Tensor(shape=(4,), dtype=np.int32),
      'grade': tfds.features.Scalar(dtype=np.int32),       # 0 … 4, ordinal
      'soft': tfds.features.Tensor(shape=(10,), dtype=np.float32),
    }))

  def _split_generators(self, dl_manager):
    del dl_manager
    bounds = {'train': (0, NUM_TRAIN), 'validation': (NUM_TRAIN, NUM_TRAIN + NUM_VALIDATION),
              'test': (NUM_TRAIN + NUM_VALIDATION, 1797)}
    return {split: self._generate_examples(*bound) for split, bound in bounds.items()}

  def _generate_examples(self, start, stop):
    digits = sklearn.datasets.load_digits()
    for i in range(start, stop):
      digit = int(digits.target[i])
      soft = np.full(10, 0.02, np.float32)
      soft[digit] += 0.8
      yield i, {
        'image': (digits.images[i] * 15.9).astype(np.uint8)[..., None],
        'text': f'{digit} is {"odd" if digit % 2 else "even"}',
        'digit': digit, 'odd': digit % 2, 'grade': digit // 2, 'soft': soft,
        'ink': np.float32(np.nan) if i % 5 == 0 else np.float32(digits.images[i].mean()),
        'bits': [digit >> b & 1 for b in range(4)],
      }


class Long(Toy):
  """The same with each text three times over."""

  VERSION = tfds.core.Version('1.0.0')

  def _generate_examples(self, start, stop):
    for i, example in super()._generate_examples(start, stop):
      yield i, example | {'text': ' '.join([example['text']] * 3)}


class Bad(Toy):
  """The same with a grade of 6 in row 3, which five classes do not have."""

  VERSION = tfds.core.Version('1.0.0')

  def _generate_examples(self, start, stop):
    for i, example in super()._generate_examples(start, stop):
      yield i, example | ({'grade': 6} if i == 3 else {})


def config(**fields):
  """A run of seconds: two tasks on an MLP."""
  from mtjax.experiment import default_config

  base = default_config()
  base.update({
    'data': {'name': 'toy:Toy', 'batch_size': 64, 'seed': 0},
    'tasks': {
      'digit': {'label': 'digit', 'head': {'name': 'classification', 'classes': 10}, 'metrics': ('accuracy',)},
      'ink': {'label': 'ink', 'head': {'name': 'regression', 'mean': 4.9}, 'metrics': ('rmse',), 'weight': 0.1},
    },
    'encoder': {'name': 'mlp', 'widths': (16,)},
    'optimizer': {'name': 'adam', 'lr': 3e-3},
    'steps': 12, 'log_every': 3, 'eval_every': 6, 'checkpoint_every': 4, 'tensorboard': False, 'mesh': {'data': 1},
  })
  for name, value in fields.items():
    base[name] = value
  return base


def fingerprint(kind='text'):
  """A metric of text that is another number for other texts, or for another order of them."""
  from mtjax.metrics._text import Texts
  from mtjax.metrics.base import MetricSpec

  return Texts(MetricSpec('fingerprint', None, (0, 2**32)), lambda said, refs: zlib.crc32(repr((said, refs)).encode()))


def nan_loss(outputs, label):
  """A loss that is never finite."""
  return 0.0 * label + np.float32(np.nan) * outputs.sum(tuple(range(1, outputs.ndim)))
