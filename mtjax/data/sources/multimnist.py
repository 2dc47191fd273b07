"""MultiMNIST: two digits on one canvas, two labels.

Sener & Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018, section 4.2,
https://arxiv.org/abs/1810.04650, after Sabour, Frosst & Hinton, "Dynamic Routing Between Capsules", 2017.
"""
import numpy as np
import tensorflow_datasets as tfds

from mtjax.data.sources import base, mnist

COUNTS = {'train': 30_000, 'validation': 2_000, 'test': 4_000}


def pairs(ids: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """`count` pairs (left, right) of `ids`, never an id with itself, each id about equally often on either side.

  RandomState's streams are frozen by numpy's promise (NEP 19), so the pairs are the same everywhere.
  """
  rng = np.random.RandomState(seed)
  rounds = -(-count // len(ids))
  left, right = (np.concatenate([rng.permutation(len(ids)) for _ in range(rounds)])[:count] for _ in range(2))
  right = np.where(left == right, (right + 1) % len(ids), right)
  return ids[left], ids[right]


def overlay(left: np.ndarray, right: np.ndarray, size: int = 36) -> np.ndarray:
  """Left pictures at the top left, right ones at the bottom right, pixelwise maximum.  [N,28,28] -> [N,36,36,1]."""
  canvas = np.zeros((len(left), size, size), np.uint8)
  height, width = left.shape[1:]
  canvas[:, :height, :width] = left
  corner = canvas[:, size - height:, size - width:]
  np.maximum(corner, right, out=corner)
  return canvas[..., None]


def compose(images: np.ndarray, labels: np.ndarray, splits: base.Splits, counts: dict[str, int]):
  """The table and splits of a two-picture data set, each split composed of its own pictures only."""
  left, right = (np.concatenate(side) for side in zip(*(
    pairs(splits[split], count, seed) for seed, (split, count) in enumerate(counts.items()))))
  table = {'image': overlay(images[left], images[right]), 'left': labels[left].tolist(),
           'right': labels[right].tolist(), 'left_id': left.astype(np.int32), 'right_id': right.astype(np.int32)}
  ends = np.cumsum(list(counts.values()))
  return table, {split: np.arange(end - count, end) for (split, count), end in zip(counts.items(), ends)}


def columns():
  """The columns of a two-picture data set."""
  return {'image': base.image(36, 36, 1), 'left': tfds.features.ClassLabel(num_classes=10),
          'right': tfds.features.ClassLabel(num_classes=10), 'left_id': np.int32, 'right_id': np.int32}


class MultiMnist(base.Source):
  """MultiMNIST from the 10,000 shipped digits: image uint8 [36, 36, 1] with two digits, labels `left` and `right`.

  The left digit lies at the top left, the right one 8 pixels further down and right, joined by pixelwise maximum.
  The digits are split first (8,000 / 600 / 1,400, as in `mnist`) and composed then (30,000 / 2,000 / 4,000), so no
  digit is in two splits; `left_id` and `right_id` say which they are. (The papers compose from all 60,000 digits.)
  """
  name = 'mt_multimnist'
  INPUTS = 'image'
  CITATION = 'Sener & Koltun, "Multi-Task Learning as Multi-Objective Optimization", NeurIPS 2018.'
  LICENCE = mnist.Mnist.LICENCE

  def columns(self):
    return columns()

  def rows(self):
    images, labels = mnist.digits()
    return compose(images, labels, base.frozen_splits(len(images), mnist.SPLITS), COUNTS)
