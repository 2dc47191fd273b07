"""Dense prediction: something at every pixel, read from a map of features.

Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015, https://arxiv.org/abs/1411.4038.

    y = resize(out(relu(conv_i(map))))       conv_i: kernel x kernel, for each of hidden;  out: 1 x 1;  resize: bilinear

    Segmentation  logits [B, H, W, C]       classes
    Depth         [B, H, W]                 numbers in the unit of the labels: mean + std y
    Normals       [B, H, W, 3]              vectors of length 1: y / |y|
    Edges         logits [B, H, W]          yes or no; edges are rare
    Saliency      logits [B, H, W]          yes or no

Any of them reads any map of any encoder that fills features.maps; behind `MultiScale` it reads all of them.
"""
import math
import numbers
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base


def resize(x: jax.Array, size: Sequence[int]) -> jax.Array:
  """Bilinear, with pixel centres at half-integers: [B, H, W, C] -> [B, *size, C]; smoothed where it shrinks."""
  if x.shape[1:3] == tuple(size):
    return x
  return jax.image.resize(x, (x.shape[0], *size, x.shape[3]), 'bilinear')


class Dense(_base.Head):
  """What the heads of this file share.

  Attributes:
    level: which of features.maps, 0 = the finest, -1 = the coarsest.
    size: (H, W) of the outputs, those of the labels; None = the map's, times `stride`.
    stride: pixels of the outputs a position of the map.
    hidden: channels of convolutions between the map and the output (conv1, conv2, …, out).
    kernel: their side.
    dtype: of the convolutions; the last one is float32.
  """
  level: int = 0
  size: Sequence[int] | None = None
  stride: int = 1
  hidden: Sequence[int] = ()
  kernel: int = 3
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'kernel', minimum=1)
    _base.check_sizes(self, 'stride', minimum=1)
    if self.size is not None:
      object.__setattr__(self, 'size', tuple(self.size))
      if len(self.size) != 2 or min(self.size) < 1 or self.stride != 1:
        raise ValueError(f'{type(self).__name__} has size={self.size} and stride={self.stride}; allowed is a size of '
                         f'two integers >= 1, or a stride, not both.')

  def maps(self, features: Features, channels: int) -> jax.Array:
    """The outputs [B, H, W, channels] float32; to be called inside the compact method."""
    name = type(self).__name__
    maps = features.need('maps', by=name).maps
    if not -len(maps) <= self.level < len(maps):
      raise ValueError(f'{name} has level={self.level}, but this encoder fills {len(maps)} features.maps: allowed are '
                       f'{-len(maps)} … {len(maps) - 1}.')
    x = maps[self.level]
    for i, width in enumerate(self.hidden):
      side = (self.kernel, self.kernel)
      x = nn.relu(nn.Conv(width, side, dtype=self.dtype, name=f'conv{i + 1}')(x))
    x = nn.Conv(channels, (1, 1), dtype=jnp.float32, name='out')(x)
    return resize(x, self.size or [self.stride * side for side in x.shape[1:3]])

  def _check_shape(self, label: np.ndarray, name: str, tail: tuple[int, ...] = ()) -> None:
    """Raises ValueError unless label is [N, H, W, *tail], with (H, W) = size where that is given."""
    size = self.size or label.shape[1:3]
    if label.ndim != 3 + len(tail) or label.shape[1:] != (*size, *tail):
      wanted = ', '.join(['N', *map(str, self.size or ('H', 'W')), *map(str, tail)])
      raise ValueError(f"Label column '{name}' has shape {list(label.shape)}, but the head has size={self.size}: it "
                       f'reads labels of shape [{wanted}].')


class Segmentation(Dense):
  """features.maps -> logits [B, H, W, C] float32. Labels: integers [N, H, W], 0 … C - 1, negative = ignored.

  Attributes:
    classes: C >= 2.
  """
  kind = 'softmax'
  default_loss = 'position_xent'
  default_metrics = ('miou', 'pixel_accuracy')

  classes: int = 0                        # must be given

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'classes', minimum=2)

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    return self.maps(features, self.classes)

  def check_label(self, label: np.ndarray, name: str) -> None:
    label = np.asarray(label)
    self._check_shape(label, name)
    _base.check_positions(label, 3, name, f'classes={self.classes}', limit=self.classes)


class Depth(Dense):
  """features.maps -> [B, H, W] float32. Labels: numbers [N, H, W] >= 0, 0 = not known.

  Attributes:
    mean: of the labels, the origin of the outputs.
    std: of the labels, the unit of the last layer.
  """
  kind = 'identity'
  default_loss = 'depth_l1'
  default_metrics = ('depth_abs', 'depth_rel', 'depth_rmse')

  mean: float = 0.0
  std: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    for field, allowed in (('mean', 'a finite number'), ('std', 'a finite number > 0')):
      value = getattr(self, field)
      if not isinstance(value, numbers.Real) or not math.isfinite(value) or (field == 'std' and value <= 0):
        raise ValueError(f'Depth has {field}={value!r}; allowed is {allowed}.')

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    return self.mean + self.std * self.maps(features, 1)[..., 0]

  def check_label(self, label: np.ndarray, name: str) -> None:
    label = np.asarray(label)
    self._check_shape(label, name)
    _base.check_entries(label, np.isfinite(label) & (label >= 0), name, f'size={self.size}',
                        'finite numbers >= 0, 0 = not known')


class Normals(Dense):
  """features.maps -> [B, H, W, 3] float32 of length 1. Labels: vectors [N, H, W, 3], of length 0 = not known."""
  kind = 'identity'
  default_loss = 'normal_cosine'
  default_metrics = ('mean_angle', 'median_angle', 'angle_within')

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    x = self.maps(features, 3)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))

  def check_label(self, label: np.ndarray, name: str) -> None:
    label = np.asarray(label)
    self._check_shape(label, name, tail=(3,))
    _base.check_entries(label, np.isfinite(label), name, f'size={self.size}', 'finite numbers')


class Edges(Dense):
  """features.maps -> logits [B, H, W] float32. Labels: [N, H, W], 1 = edge, 0 = none, negative = ignored."""
  kind = 'sigmoid'
  default_loss = 'edge_xent'
  default_metrics = ('ods_f',)

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    return self.maps(features, 1)[..., 0]

  def check_label(self, label: np.ndarray, name: str) -> None:
    label = np.asarray(label)
    self._check_shape(label, name)
    _base.check_entries(label, label <= 1, name, f'size={self.size}', '0 … 1, and negative = ignored')


class Saliency(Edges):
  """features.maps -> logits [B, H, W] float32. Labels: [N, H, W], 1 = salient, 0 = not, negative = ignored."""
  default_loss = 'balanced_xent'
  default_metrics = ('miou', 'pixel_accuracy')

  @property
  def classes(self) -> int:
    """What metrics of classes count: 'no' and 'yes'."""
    return 2
