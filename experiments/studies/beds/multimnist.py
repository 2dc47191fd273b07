"""MultiMNIST and Multi-Fashion: two pictures on one canvas of 36 x 36, two labels of ten classes.

mtjax's own sources: the 10,000 shipped digits in 30,000 / 2,000 / 4,000 canvases, and Fashion-MNIST
(`python -m mtjax.data.fetch fashion_mnist`) in 60,000 / 5,000 / 10,000; here the first 30,000 / 2,000 / 4,000 of
either. No picture is in two splits. LeNet with two linear heads, batch 128, three epochs.
"""
import numpy as np

from experiments.studies.beds.base import Bed
from mtjax.data.load import open_data_set
from mtjax.data.sources.multifashion import MultiFashion
from mtjax.data.sources.multimnist import COUNTS, MultiMnist
from mtjax.encoders import LeNet
from mtjax.heads import Classification
from mtjax.losses import softmax_xent
from mtjax.metrics import Collection, accuracy
from mtjax.tasks import Task

SIDES = ('left', 'right')
EPOCHS = 3


def load(fashion: bool = False) -> Bed:
  """The bed, of digits or of clothes."""
  tables = open_data_set(MultiFashion() if fashion else MultiMnist()).splits
  splits, origin = {}, {}
  for split, count in COUNTS.items():
    columns = tables[split].rows(np.arange(count), ('image', 'left', 'right', 'left_id', 'right_id'))
    origin[split] = np.union1d(columns.pop('left_id'), columns.pop('right_id'))
    splits[split] = columns
  return Bed(
    name='multifashion' if fashion else 'multimnist', splits=splits, origin=origin, inputs='image',
    encoder=LeNet(channels=(8, 16), width=64), batch_size=128, steps=EPOCHS * (COUNTS['train'] // 128),
    tasks={side: Task(side, 'bed', side, Classification(classes=10), softmax_xent,
                      Collection({'accuracy': accuracy()})) for side in SIDES},
    learning_rates=(1e-3, 3e-3, 1e-2), last_layer='fc1/', seeds=5, tune_seeds=1,
    note='Three epochs, and the learning rate chosen on one seed: on one core the full grid would take half a day.'
  ).check()
