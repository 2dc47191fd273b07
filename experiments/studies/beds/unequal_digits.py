"""Unequal-scale digits: three tasks on one handwritten digit whose losses are of sizes 1, 100 and 0.01.

The 1,797 8 x 8 digits of scikit-learn (UCI, CC BY 4.0), split 900 / 897; of the 900, 200 are kept apart for validation,
or with `validation=False` they train too. Tasks: the class (cross-entropy); the total ink (standardised, squared error
times 100); the horizontal centre of mass (standardised, squared error times 0.01). Metrics are accuracy and the
*unscaled* squared errors. Trunk 64-64-32, batch 100, 60 epochs.
"""
import numpy as np
from sklearn.datasets import load_digits

from experiments.studies.beds.base import Bed, standardised, times
from mtjax.data.sources.base import frozen_splits
from mtjax.encoders import MLP
from mtjax.heads import Classification, Regression
from mtjax.losses import mse, softmax_xent
from mtjax.metrics import Collection, accuracy
from mtjax.metrics import mse as mse_metric
from mtjax.tasks import Task

FACTORS = {'ink': 100.0, 'centre': 0.01}
EPOCHS = 60


def load(validation: bool = True) -> Bed:
  """The bed; `validation=False` is the setting that the reference levels of the effect checks belong to."""
  digits = load_digits()
  images = digits.images.astype(np.float64) / 16
  mass = images.sum((1, 2))
  numbers = np.stack([mass, (images.sum(1) * np.arange(8)).sum(1) / mass], axis=1)
  parts = {'train': 700, 'validation': 200, 'test': 897} if validation else {'train': 900, 'test': 897}
  rows = frozen_splits(len(images), {split: count / len(images) for split, count in parts.items()})
  labels = dict(zip(rows, standardised(*(numbers[index] for index in rows.values()))))
  splits = {split: {'x': images[index].reshape(-1, 64).astype(np.float32),
                    'digit': digits.target[index].astype(np.int32),
                    'ink': labels[split][:, 0], 'centre': labels[split][:, 1]} for split, index in rows.items()}
  tasks = {'digit': Task('digit', 'bed', 'digit', Classification(classes=10), softmax_xent,
                         Collection({'accuracy': accuracy()}))}
  for name, factor in FACTORS.items():
    tasks[name] = Task(name, 'bed', name, Regression(), times(mse, factor), Collection({'mse': mse_metric()}))
  return Bed(
    name='unequal_digits', splits=splits, origin=rows, inputs='x', encoder=MLP(widths=(64, 32)), tasks=tasks,
    batch_size=100, steps=EPOCHS * (parts['train'] // 100), learning_rates=(1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
    last_layer='fc2/', note='The two errors are small in single-task training, so that delta_m runs to thousands of '
    'percent: ranks and verdicts say more than its size. Weights drawn from the simplex do not span the factor of '
    '10,000 between the losses; `scale_invariant` is the scalarisation that does.').check()
