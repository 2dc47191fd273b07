"""MultiMNIST and Multi-Fashion: two pictures on one canvas of 36 x 36, two labels of ten classes.

mtjax's own sources: the 10,000 shipped digits in 30,000 / 2,000 / 4,000 canvases, and Fashion-MNIST
(`python -m mtjax.data.fetch fashion_mnist`) in 60,000 / 5,000 / 10,000; here the first 30,000 / 2,000 / 4,000 of
either. No picture is in two splits. LeNet with two linear heads, batch 128, two epochs.

The trunk is `mtjax.encoders.LeNet` with its convolutions written as products with patches: inside a loop or a branch
XLA's CPU convolutions are some fifteen times slower than outside (https://github.com/jax-ml/jax/issues/12868), and
here everything is inside.
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.beds.base import Bed
from mtjax.context import Ctx, Features
from mtjax.data.load import open_data_set
from mtjax.data.sources.multifashion import MultiFashion
from mtjax.data.sources.multimnist import COUNTS, MultiMnist
from mtjax.encoders.layers import as_float_image
from mtjax.encoders.lenet import KERNEL, STRIDE
from mtjax.heads import Classification
from mtjax.losses import softmax_xent
from mtjax.metrics import Collection, accuracy
from mtjax.tasks import Task

SIDES = ('left', 'right')
EPOCHS = 2


class PatchLeNet(nn.Module):
  """images [B, H, W, C] -> pooled [B, width], as `mtjax.encoders.LeNet`; kernels [5 x 5 x in, channels].

  Attributes:
    channels: outputs of each convolution.
    width: of the last layer.
  """
  channels: Sequence[int] = (16, 32)
  width: int = 64

  @nn.compact
  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    x = as_float_image(inputs)
    for i, channels in enumerate(self.channels):
      x = nn.relu(nn.Dense(channels, name=f'conv{i + 1}')(patches(x)))
    return Features(pooled=nn.relu(nn.Dense(self.width, name='fc1')(x.reshape(x.shape[0], -1))))


def patches(x: jax.Array) -> jax.Array:
  """[B, H, W, C] -> [B, H', W', 5 x 5 x C], what each position of a convolution reads."""
  height, width = ((side - KERNEL) // STRIDE + 1 for side in x.shape[1:3])
  parts = [x[:, i:i + STRIDE * height:STRIDE, j:j + STRIDE * width:STRIDE] for i in range(KERNEL)
           for j in range(KERNEL)]
  return jnp.concatenate(parts, axis=-1)


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
    encoder=PatchLeNet(channels=(8, 16), width=64), batch_size=128, steps=EPOCHS * (COUNTS['train'] // 128),
    tasks={side: Task(side, 'bed', side, Classification(classes=10), softmax_xent,
                      Collection({'accuracy': accuracy()})) for side in SIDES},
    learning_rates=(3e-3, 1e-2, 3e-2), last_layer='fc1/', seeds=5, tune_seeds=1,
    note='Two epochs, and the learning rate chosen on one seed: on one core the full grid would take half a day.'
  ).check()
