"""A feature pyramid before a head: every map learns from all coarser ones.

Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, section 3, https://arxiv.org/abs/1612.03144.

    p_n = lateral_n(c_n);   p_i = lateral_i(c_i) + resize(p_{i+1});   maps_i = smooth_i(p_i)

c_i: features.maps, [B, H_i, W_i, C_i], from fine to coarse; lateral: 1 x 1 to `width` channels; smooth: 3 x 3.
Differs from the paper: bilinear in place of nearest, so that any two sizes will do.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads._base import Head
from mtjax.heads.dense import resize


class MultiScale(nn.Module):
  """A head that reads the pyramid in place of features.maps. Outputs, kind, loss, metrics and labels are the head's.

  Only the maps that the head's `level` needs are computed: a head of level 0 reads all maps through the finest.
  Parameters: lateral_i, smooth_i (kernel, bias), and the head's under 'head'.

  Attributes:
    head: a head of dense maps.
    width: channels of the pyramid.
    dtype: of the convolutions.
  """
  head: Head
  width: int = 64
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    if not isinstance(self.width, int) or isinstance(self.width, bool) or self.width < 1:
      raise ValueError(f'MultiScale has width={self.width!r}; allowed is an integer >= 1.')

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    maps, above = features.need('maps', by='MultiScale').maps, None
    level = getattr(self.head, 'level', 0)
    pyramid = [None] * len(maps)
    for i in reversed(range(level % len(maps), len(maps))):
      p = nn.Conv(self.width, (1, 1), dtype=self.dtype, name=f'lateral_{i}')(maps[i])
      above = p if above is None else p + resize(above, p.shape[1:3])
      if i == level % len(maps):
        pyramid[i] = nn.Conv(self.width, (3, 3), dtype=self.dtype, name=f'smooth_{i}')(above).astype(jnp.float32)
    return self.head(features.replace(maps=pyramid), batch, train=train)

  @property
  def kind(self) -> str:
    return self.head.kind

  @property
  def classes(self) -> int | None:
    return getattr(self.head, 'classes', None)

  @property
  def default_loss(self) -> str:
    return self.head.default_loss

  @property
  def default_metrics(self) -> tuple[str, ...]:
    return self.head.default_metrics

  def check_label(self, label, name: str) -> None:
    self.head.check_label(label, name)
