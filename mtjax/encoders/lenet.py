"""A LeNet-like ConvNet, the trunk of the MultiMNIST experiments.

LeCun et al., "Gradient-Based Learning Applied to Document Recognition", Proceedings of the IEEE 86, 1998,
https://doi.org/10.1109/5.726791; as a shared trunk in Sener & Koltun, "Multi-Task Learning as Multi-Objective
Optimization", NeurIPS 2018, https://arxiv.org/abs/1810.04650.

    x <- relu(conv_i(x))   5 x 5, stride 2, for each i;   pooled = dropout(relu(fc1(flat(x))))

Differs from both: the convolutions have stride 2 in place of max-pooling behind stride 1. On a CPU a training step
takes a fifth of the time so (256 images of 36 x 36, two cores: about 20 ms in place of 100).
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.layers import as_float_image
from mtjax.encoders.stack import check_remat, rematerialise
from mtjax.parallel import by_rows

KERNEL, STRIDE = 5, 2


class LeNet(nn.Module):
  """images [B, H, W, C] -> pooled [B, width], maps [B, H_i, W_i, channels_i] after each convolution, all float32.

  H_i = floor((H_{i-1} - 5) / 2) + 1: from 36 x 36 to 16 x 16 and 6 x 6; from 28 x 28 to 12 x 12 and 4 x 4.
  Parameters: conv1, conv2, … with kernel [5, 5, in, channels]; fc1 with kernel [H_n W_n channels_n, width].

  Attributes:
    channels: outputs of each convolution.
    width: outputs of fc1.
    dropout_rate: on pooled, in training.
    remat: compute a layer's activations again in the backward pass, to save memory; or a name of `stack.POLICIES`.
    dtype: of the convolutions and the matrix product.
  """
  channels: Sequence[int] = (16, 32)
  width: int = 64
  dropout_rate: float = 0.0
  remat: bool | str = False
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'channels', 'width')
    _checks.rate(self)
    check_remat(self)

  @nn.compact
  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    x = as_float_image(inputs)
    _checks.images(self, x)
    smallest = _smallest_side(len(self.channels))
    if min(x.shape[1:3]) < smallest:
      raise ValueError(f'LeNet has {len(self.channels)} convolutions, which need images of at least {smallest} x '
                       f'{smallest}, but the input is {x.shape[1]} x {x.shape[2]}.')
    maps, layer = [], rematerialise(lambda layer, x: by_rows(nn.relu(layer(by_rows(x)))), self.remat)
    for i, channels in enumerate(self.channels):
      conv = nn.Conv(channels, (KERNEL, KERNEL), STRIDE, padding='VALID', dtype=self.dtype, name=f'conv{i + 1}')
      x = layer(conv, x)
      maps.append(x.astype(jnp.float32))
    x = layer(nn.Dense(self.width, dtype=self.dtype, name='fc1'), x.reshape(x.shape[0], -1))
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    return Features(pooled=x.astype(jnp.float32), maps=maps)


def _smallest_side(num_convolutions: int) -> int:
  """The smallest side that leaves one position after that many convolutions."""
  side = 1
  for _ in range(num_convolutions):
    side = STRIDE * (side - 1) + KERNEL
  return side
