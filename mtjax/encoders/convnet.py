"""A residual ConvNet with group normalisation, of any depth and width.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, https://arxiv.org/abs/1603.05027 (the blocks);
Wu & He, "Group Normalization", ECCV 2018, https://arxiv.org/abs/1803.08494 (the norms, which know no other rows: a run
is a function of its parameters alone).

    y = relu(norm1(x));   x <- shortcut + conv2(relu(norm2(conv1(y))))
    shortcut = x, or conv(y) of 1 x 1 where the block changes channels or stride

Stage i has width 2^i channels and, but for the first, begins with stride 2. B rows, H x W positions, C channels.
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.layers import as_float_image
from mtjax.encoders.stack import check_remat, run_block


class Block(nn.Module):
  """x [B, H, W, C] -> [B, H / stride, W / stride, channels].

  Parameters: norm1, conv1, norm2, conv2 (3 x 3, without bias), shortcut (1 x 1) where it is not the identity.
  """
  channels: int
  stride: int
  groups: int
  dropout_rate: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, mask: None = None, *, ctx: Ctx | None = None, train: bool = False) -> jax.Array:
    def conv(size, stride, name):
      return nn.Conv(self.channels, (size, size), stride, use_bias=False, dtype=self.dtype, name=name)

    y = nn.relu(_norm(self.groups, 'norm1')(x))
    same = self.stride == 1 and x.shape[-1] == self.channels
    shortcut = x if same else conv(1, self.stride, 'shortcut')(y).astype(jnp.float32)
    y = conv(3, self.stride, 'conv1')(y).astype(jnp.float32)
    y = conv(3, 1, 'conv2')(nn.relu(_norm(self.groups, 'norm2')(y))).astype(jnp.float32)
    return shortcut + nn.Dropout(self.dropout_rate)(y, deterministic=not train)


class Stage(nn.Module):
  """Blocks, of which the first has the stride: x [B, H, W, C] -> [B, H / stride, W / stride, channels]."""
  depth: int
  channels: int
  stride: int
  groups: int
  dropout_rate: float
  remat: bool | str
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> jax.Array:
    for j in range(self.depth):
      block = Block(self.channels, 1 if j else self.stride, self.groups, self.dropout_rate, self.dtype,
                    name=f'block_{j}')
      x = run_block(block, x, ctx=ctx, train=train, remat=self.remat)
    return x


class ConvNet(nn.Module):
  """images [B, H, W, C] -> maps [[B, H_i, W_i, width 2^i]], pooled [B, D], all float32.

  maps[i] is the sum that stage i hands on, H_i = H / (stem_stride 2^i), rounded up; the last one is relu(norm) of it,
  and pooled its mean over positions. D = width 2^(stages - 1).
  Parameters: stem (3 x 3), stage_i/block_j/{norm1, conv1, norm2, conv2, shortcut}, norm.

  Attributes:
    width: channels of the first stage.
    depths: blocks of each stage.
    groups: of channels that are normalised together; it divides the width.
    stem_stride: of the first convolution; 1 suits small images.
    dropout_rate: on every residual branch, in training.
    remat: compute a block's activations again in the backward pass, to save memory; or a name of `stack.POLICIES`.
    dtype: of the convolutions; norms and sums are float32.
  """
  width: int = 32
  depths: Sequence[int] = (2, 2, 2, 2)
  groups: int = 8
  stem_stride: int = 1
  dropout_rate: float = 0.0
  remat: bool | str = False
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'width', 'depths', 'groups', 'stem_stride')
    _checks.divides(self, 'groups', of='width')
    _checks.rate(self)
    check_remat(self)

  @nn.compact
  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    x = as_float_image(inputs)
    _checks.images(self, x)
    x = nn.Conv(self.width, (3, 3), self.stem_stride, use_bias=False, dtype=self.dtype, name='stem')(x)
    x, maps = x.astype(jnp.float32), []
    for i, depth in enumerate(self.depths):
      x = Stage(depth, self.width * 2**i, 2 if i else 1, self.groups, self.dropout_rate, self.remat, self.dtype,
                name=f'stage_{i}')(x, ctx=ctx, train=train)
      maps.append(x)
    maps[-1] = x = nn.relu(_norm(self.groups, 'norm')(x))
    return Features(pooled=x.mean(axis=(1, 2)), maps=maps)


def _norm(groups: int, name: str) -> nn.GroupNorm:
  return nn.GroupNorm(num_groups=groups, epsilon=1e-5, dtype=jnp.float32, name=name)
