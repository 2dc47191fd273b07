"""Composite digits: two handwritten 8 x 8 digits on one 12 x 12 canvas, two labels; MultiMNIST that trains in a second.

The 1,797 digits of scikit-learn (UCI, CC BY 4.0) are split first, 1000 / 797, and composed then: one at the top left,
one at the bottom right, joined by the pixelwise maximum; 4,000 canvases for training and 4,000 for the test. Of the
1,000, 200 are kept apart for 1,000 canvases of validation, or with `validation=False` they train too.
`noisy`: 1,000 training canvases, of whose labels each is replaced by a random class with probability 0.2, and 40
epochs in place of 30. Labels for validation and test are clean.
`fixed`: Adam at 1e-3 throughout, nothing tuned, as the published numbers for such beds are made.
MLP 144-256-128 with two linear heads, batch 128.
"""
import numpy as np
from sklearn.datasets import load_digits

from experiments.studies.beds.base import Bed
from mtjax.data.sources.base import frozen_splits
from mtjax.data.sources.multimnist import overlay, pairs
from mtjax.encoders import MLP
from mtjax.heads import Classification
from mtjax.losses import softmax_xent
from mtjax.metrics import Collection, accuracy
from mtjax.tasks import Task

SIDES = ('left', 'right')
NOISE = 0.2


def load(noisy: bool = False, fixed: bool = False, validation: bool = True) -> Bed:
  """The bed; `validation=False` is the setting that the reference levels of the effect checks belong to."""
  digits = load_digits()
  parts = {'train': 800, 'validation': 200, 'test': 797} if validation else {'train': 1000, 'test': 797}
  base = frozen_splits(len(digits.target), {split: count / len(digits.target) for split, count in parts.items()})
  counts = {'train': 1000 if noisy else 4000, 'validation': 1000, 'test': 4000}
  splits, origin = {}, {}
  for seed, split in enumerate(base):
    left, right = pairs(base[split], counts[split], seed)
    canvas = overlay(digits.images[left].astype(np.uint8), digits.images[right].astype(np.uint8), size=12)
    splits[split] = {'x': canvas.reshape(-1, 144).astype(np.float32) / 16,
                     'left': digits.target[left].astype(np.int32), 'right': digits.target[right].astype(np.int32)}
    origin[split] = np.union1d(left, right)
  if noisy:
    splits['train'] |= {side: with_noise(splits['train'][side], seed) for seed, side in enumerate(SIDES)}
  grid = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2) if noisy else (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
  return Bed(
    name='composite_digits' + '_noisy' * noisy + '_fixed' * fixed, splits=splits, origin=origin, inputs='x',
    encoder=MLP(widths=(256, 128)), batch_size=128, steps=(40 if noisy else 30) * (counts['train'] // 128),
    tasks={side: Task(side, 'bed', side, Classification(classes=10), softmax_xent,
                      Collection({'accuracy': accuracy()})) for side in SIDES},
    learning_rates=(1e-3,) if fixed else grid, decay='constant' if fixed else 'cosine', last_layer='fc2/').check()


def with_noise(labels: np.ndarray, seed: int) -> np.ndarray:
  """Labels [N], each replaced by a random class with probability NOISE."""
  rng = np.random.RandomState(seed)
  return np.where(rng.rand(len(labels)) < NOISE, rng.randint(0, 10, len(labels)), labels).astype(np.int32)
