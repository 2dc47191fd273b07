"""Real digits on a grid of three factors: modality x area x task, one data set a combination.

The grid of the effect check for Med-MAT (Cai et al., 2024, https://arxiv.org/abs/2412.20070), on the 1,797 handwritten
8 x 8 digits of scikit-learn (UCI, CC BY 4.0):

    modality   plain, inverted, edges (magnitude of the gradient), blurred (3 x 3 mean)
    area       the digits 0 1 6, 2 3 8, or 4 5 7: in each some are even and some odd, some small and some large
    task       parity, magnitude (5 and above is large), identity

One head answers all: even, odd, small, large, or a digit; which is asked stands in a token beside the pixels.
"""
import itertools

import numpy as np
import tensorflow_datasets as tfds
from scipy import ndimage
from sklearn.datasets import load_digits

from mtjax.data.sources import base

MODALITIES = ('plain', 'inverted', 'edges', 'blurred')
AREAS = {'016': (0, 1, 6), '238': (2, 3, 8), '457': (4, 5, 7)}
TASKS = ('parity', 'magnitude', 'identity')
ANSWERS = ('even', 'odd', 'small', 'large', *map(str, range(10)))
COMBINATIONS = tuple(itertools.product(MODALITIES, AREAS, TASKS))
SPLITS = {'train': 0.6, 'validation': 0.1, 'test': 0.3}
MOST = {'train': 300, 'validation': 48, 'test': 150}  # rows of a combination, the same in all


def name_of(combination: tuple[str, str, str], shuffled: bool = False) -> str:
  """The builder config of a combination; `shuffled`: with tokens that say nothing."""
  return '-'.join(combination) + '-shuffled' * shuffled


def render(images: np.ndarray, modality: str) -> np.ndarray:
  """Digits [N, 8, 8] in 0 … 1 as a modality shows them."""
  if modality == 'inverted':
    return 1 - images
  if modality == 'edges':
    return np.clip(np.hypot(ndimage.sobel(images, 1), ndimage.sobel(images, 2)) / 4, 0, 1)
  return ndimage.uniform_filter(images, (0, 3, 3)) if modality == 'blurred' else images


def answers(digits: np.ndarray, task: str) -> np.ndarray:
  """The index in ANSWERS of the right answer, [N]."""
  if task == 'parity':
    return digits % 2
  return 2 + (digits >= 5) if task == 'magnitude' else 4 + digits


class FactorGrid(base.Source):
  """One combination: x float32 [67], 64 pixels and the one-hot token of the task; answer 0..13; id of the digit.

  Digits are split 60 / 10 / 30 before anything else, so that no digit of a test set was trained on in any modality.
  """
  name = 'mt_factor_grid'
  INPUTS = 'x'
  CITATION = 'Alpaydin & Kaynak, "Optical Recognition of Handwritten Digits", UCI machine learning repository, 1998.'
  LICENCE = 'CC BY 4.0'
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name_of(combination, shuffled))
                     for shuffled in (False, True) for combination in COMBINATIONS]

  def columns(self):
    return {'x': tfds.features.Tensor(shape=(64 + len(TASKS),), dtype=np.float32),
            'answer': tfds.features.ClassLabel(names=ANSWERS), 'id': np.int32}

  def rows(self):
    modality, area, task = self.builder_config.name.split('-')[:3]
    digits = load_digits()
    splits = base.frozen_splits(len(digits.target), SPLITS)
    splits = {split: index[np.isin(digits.target[index], AREAS[area])][:MOST[split]] for split, index in splits.items()}
    token = np.full(len(digits.target), TASKS.index(task))
    if self.builder_config.name.endswith('-shuffled'):
      token = np.random.RandomState(0).randint(0, len(TASKS), len(token))
    x = np.concatenate([render(digits.images / 16, modality).reshape(-1, 64), np.eye(len(TASKS))[token]], axis=1)
    return {'x': x.astype(np.float32), 'answer': answers(digits.target, task).tolist(),
            'id': np.arange(len(x), dtype=np.int32)}, splits
