"""Fashion-MNIST (fetched)."""
import gzip
import math
import pathlib
import struct

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

CLASSES = ('t_shirt', 'trouser', 'pullover', 'dress', 'coat', 'sandal', 'shirt', 'sneaker', 'bag', 'ankle_boot')


def read_idx(path: pathlib.Path) -> np.ndarray:
  """A gzip'd idx file of unsigned bytes: magic (0, 0, 8, rank), big-endian sizes, then the numbers."""
  data = gzip.decompress(path.read_bytes())
  if len(data) < 4 or data[:3] != b'\0\0\x08':
    raise ValueError(f'{path} is not an idx file of unsigned bytes.')
  rank = data[3]
  shape = struct.unpack(f'>{rank}I', data[4:4 + 4 * rank])
  if len(data) != 4 + 4 * rank + math.prod(shape):
    raise ValueError(f'{path} holds {len(data) - 4 - 4 * rank} numbers, its header says {shape}.')
  return np.frombuffer(data, np.uint8, offset=4 + 4 * rank).reshape(shape)


def pictures() -> tuple[np.ndarray, np.ndarray, base.Splits]:
  """images uint8 [70000, 28, 28], labels [70000], splits: 55,000 / 5,000 of the training file, 10,000 test."""
  folder = fetch.require('fashion_mnist') / 'datasets' / 'fashion-mnist'
  images, labels = (np.concatenate([read_idx(folder / f'{part}-{kind}-ubyte.gz') for part in ('train', 't10k')])
                    for kind in ('images-idx3', 'labels-idx1'))
  splits = base.frozen_splits(60_000, {'train': 55 / 60, 'validation': 5 / 60})
  splits['test'] = 60_000 + base.hash_order(range(10_000))
  return images, labels, splits


class FashionMnist(base.Source):
  """70,000 pictures of clothes: image uint8 [28, 28, 1], label of 10 classes, id (training file first, then test).

  The published test file is the test split; 5,000 of the 60,000 training pictures are the validation split.
  """
  name = 'mt_fashion_mnist'
  INPUTS = 'image'
  CITATION = 'Xiao, Rasul & Vollgraf, "Fashion-MNIST", 2017, https://arxiv.org/abs/1708.07747.'
  LICENCE = 'MIT'

  def columns(self):
    return {'image': base.image(28, 28, 1), 'label': tfds.features.ClassLabel(names=CLASSES), 'id': np.int32}

  def rows(self):
    images, labels, splits = pictures()
    table = {'image': images[..., None], 'label': labels.tolist(), 'id': np.arange(len(images), dtype=np.int32)}
    return table, splits
