"""QM9: twelve properties of a molecule from its geometry.

Ramakrishnan et al., Scientific Data 2014, CC0 (`python -m mtjax.data.fetch qm9`). 25,600 molecules of the training
split train, 5,000 and 10,000 of the others are for validation and test. Targets are standardised by the training
molecules; losses are squared errors, the metric is the mean absolute error in units of the standard deviation.

Inputs, the two-body terms of a many-body tensor (Huo & Rupp, 2017, https://arxiv.org/abs/1704.06439): how many atoms of
each of the five elements, and for each pair of elements (15) the sum over pairs of atoms of eight Gaussians of their
distance, weighted by 1 / distance; 125 numbers, standardised, the same whatever the order of atoms or the orientation.
MLP 125-128-128 with twelve linear heads, batch 128, ten epochs.
"""
import itertools

import numpy as np

from experiments.studies.beds.base import Bed, standardised
from mtjax.data.load import open_data_set
from mtjax.data.sources.qm9 import ATOMIC_NUMBERS, TARGETS, Qm9
from mtjax.encoders import MLP
from mtjax.heads import Regression
from mtjax.losses import mse
from mtjax.metrics import Collection, mae
from mtjax.tasks import Task

ELEMENTS = tuple(ATOMIC_NUMBERS.values())
PAIRS = tuple(itertools.combinations_with_replacement(range(len(ELEMENTS)), 2))
CENTRES, WIDTH = np.array([1.0, 1.4, 1.8, 2.3, 2.9, 3.6, 4.6, 6.0]), np.array([0.2, 0.2, 0.2, 0.3, 0.3, 0.4, 0.6, 0.8])
COUNTS = {'train': 25_600, 'validation': 5_000, 'test': 10_000}
EPOCHS = 10


def describe(atoms: np.ndarray, positions: np.ndarray) -> np.ndarray:
  """Atomic numbers [N, A] (0 = none) and positions [N, A, 3] -> [N, 5 + 15 x 8]."""
  kinds = (atoms[:, :, None] == np.array(ELEMENTS)).astype(np.float64)                 # [N, A, 5]
  one, other = np.triu_indices(atoms.shape[1], 1)
  distance = np.linalg.norm(positions[:, one].astype(np.float64) - positions[:, other], axis=2)
  real = (atoms[:, one] > 0) & (atoms[:, other] > 0)
  near = np.exp(-0.5 * ((distance[..., None] - CENTRES) / WIDTH) ** 2)                 # [N, pairs of atoms, 8]
  near *= (real / np.where(real, distance, 1))[..., None]
  parts = [kinds.sum(1)]
  for i, j in PAIRS:
    these = kinds[:, one, i] * kinds[:, other, j]
    these = these if i == j else these + kinds[:, one, j] * kinds[:, other, i]
    parts.append(np.einsum('np,npc->nc', these, near))
  return np.concatenate(parts, axis=1)


def load() -> Bed:
  """The bed."""
  tables = open_data_set(Qm9()).splits
  inputs, targets, origin = [], [], {}
  for split, count in COUNTS.items():
    columns = tables[split].rows(np.arange(count), ('atomic_numbers', 'positions', 'id', *TARGETS))
    blocks = [describe(columns['atomic_numbers'][i:i + 1000], columns['positions'][i:i + 1000])
              for i in range(0, count, 1000)]
    inputs.append(np.concatenate(blocks))
    targets.append(np.stack([columns[name].astype(np.float64) for name in TARGETS], axis=1))
    origin[split] = columns['id']
  splits = {split: {'x': x, **dict(zip(TARGETS, y.T))}
            for split, x, y in zip(COUNTS, standardised(*inputs), standardised(*targets))}
  return Bed(
    name='qm9', splits=splits, origin=origin, inputs='x', encoder=MLP(widths=(128, 128)), batch_size=128,
    tasks={name: Task(name, 'bed', name, Regression(), mse, Collection({'mae': mae()})) for name in TARGETS},
    steps=EPOCHS * (COUNTS['train'] // 128), learning_rates=(1e-3, 3e-3, 1e-2, 3e-2), last_layer='fc2/', seeds=5,
    tune_seeds=1, note='The learning rate is chosen on one seed.').check()
