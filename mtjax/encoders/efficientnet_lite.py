"""EfficientNet-Lite: mobile inverted bottlenecks scaled in width and depth, without squeeze-and-excitation.

Tan & Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019,
https://arxiv.org/abs/1905.11946; the Lite variants: Liu, "Higher accuracy on vision models with EfficientNet-Lite",
2020, https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html.

    y = relu6(norm(expand(x)));   y = relu6(norm(depthwise(y)));   y = norm(project(y));   x <- x + y or y
    channels c -> the multiple of 8 nearest to a c;   blocks r -> ceil(d r);   stem, head and the repeats of the first
    and the last stage are not scaled

a, d of lite0 … lite4: (1, 1), (1, 1.1), (1.1, 1.2), (1.2, 1.4), (1.4, 1.8), made for images of 224, 240, 260, 280, 300.
The sum is there where a block changes neither stride nor channels; the first stage has no `expand`.

Batch norm is in its inference form, norm(x) = scale x + bias, both parameters: a run is a function of its parameters
alone, and stored statistics become part of these two numbers (`fold_batch_norm`). Fine-tune with them frozen (`frozen=[
r'_norm/']`) or not. To train from nothing, there is `ConvNet`, whose norms measure what they norm.
"""
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax import tree
from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.parallel import by_rows

VARIANTS = {'lite0': (1.0, 1.0), 'lite1': (1.0, 1.1), 'lite2': (1.1, 1.2), 'lite3': (1.2, 1.4), 'lite4': (1.4, 1.8)}
# Blocks, side of the depthwise kernel, stride, expansion, channels.
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
          (1, 3, 1, 6, 320))
STEM, HEAD, EPS = 32, 1280, 1e-3


class Affine(nn.Module):
  """Batch norm at inference: x [..., C] -> scale x + bias.  Parameters: scale [C], bias [C]."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    shape = (1,) * (x.ndim - 1) + (-1,)
    scale = self.param('scale', nn.initializers.ones, (x.shape[-1],)).reshape(shape)
    bias = self.param('bias', nn.initializers.zeros, (x.shape[-1],)).reshape(shape)
    return x.astype(jnp.float32) * scale + bias


class Block(nn.Module):
  """x [B, H, W, C] -> [B, H / stride, W / stride, channels].

  Parameters: expand, expand_norm (where expansion > 1), depthwise, depthwise_norm, project, project_norm.
  """
  channels: int
  kernel: int
  stride: int
  expansion: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    inner = self.expansion * x.shape[-1]
    y = x
    if self.expansion > 1:
      y = nn.relu6(Affine(name='expand_norm')(_conv(inner, 1, 1, self.dtype, 'expand')(y)))
    y = _conv(inner, self.kernel, self.stride, self.dtype, 'depthwise', feature_group_count=inner)(y)
    y = nn.relu6(Affine(name='depthwise_norm')(y))
    y = Affine(name='project_norm')(_conv(self.channels, 1, 1, self.dtype, 'project')(y))
    return x + y if self.stride == 1 and x.shape[-1] == self.channels else y


class Stage(nn.Module):
  """Blocks, of which the first has the stride: x [B, H, W, C] -> [B, H / stride, W / stride, channels]."""
  depth: int
  channels: int
  kernel: int
  stride: int
  expansion: int
  remat: bool
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    block = nn.remat(Block) if self.remat else Block
    for j in range(self.depth):
      layer = block(self.channels, self.kernel, 1 if j else self.stride, self.expansion, self.dtype, name=f'block_{j}')
      x = by_rows(layer(by_rows(x)))
    return x


class EfficientNetLite(nn.Module):
  """images [B, H, W, 3] -> maps [[B, H / s, W / s, C_s]] for s = 2, 4, 8, 16, 32, pooled [B, 1280], all float32.

  The published weights want uint8 pixels, which become (x - 127) / 128; floats are taken as they are.
  maps are the last sums at each stride (lite0: 16, 24, 40, 112, 320 channels); pooled is the mean over positions of the
  head. With `classes`, aux['logits'] [B, classes] is the classifier's.
  Parameters: stem, stem_norm, stage_i/block_j/{expand, expand_norm, depthwise, depthwise_norm, project, project_norm},
  head, head_norm, fc.

  Attributes:
    variant: 'lite0' … 'lite4'.
    classes: outputs of the classifier; None = there is none.
    dropout_rate: on pooled, in training (published: 0.2 for lite0 and lite1, else 0.3).
    remat: compute a block's activations again in the backward pass, to save memory.
    dtype: of the convolutions.
  """
  variant: str = 'lite0'
  classes: int | None = None
  dropout_rate: float = 0.0
  remat: bool = False
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.choice(self, 'variant', list(VARIANTS))
    _checks.rate(self)
    if self.classes is not None:
      _checks.sizes(self, 'classes')

  @nn.compact
  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    x = as_pixels(inputs)
    _checks.images(self, x)
    x = nn.relu6(Affine(name='stem_norm')(_conv(STEM, 3, 2, self.dtype, 'stem')(x)))
    maps = []
    for i, (repeats, kernel, stride, expansion, channels) in enumerate(scaled_stages(self.variant)):
      if stride > 1:
        maps.append(x)
      x = Stage(repeats, channels, kernel, stride, expansion, self.remat, self.dtype, name=f'stage_{i}')(x)
    maps.append(x)
    x = nn.relu6(Affine(name='head_norm')(_conv(HEAD, 1, 1, self.dtype, 'head')(x))).mean(axis=(1, 2))
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    aux = {}
    if self.classes is not None:
      aux['logits'] = nn.Dense(self.classes, dtype=jnp.float32, name='fc')(x)
    return Features(pooled=x, maps=maps, aux=aux)


def as_pixels(x: jax.Array) -> jax.Array:
  """uint8 -> (x - 127) / 128, float32; floats pass unchanged. Raises TypeError for any other dtype."""
  x = jnp.asarray(x)
  if x.dtype == jnp.uint8:
    return (x.astype(jnp.float32) - 127) / 128
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f'The input has dtype {x.dtype}; allowed are uint8 (pixels) and floats (taken as they are).')
  return x


def scaled_stages(variant: str) -> list[tuple[int, int, int, int, int]]:
  """(blocks, kernel, stride, expansion, channels) of each stage.

  Example:
    >>> [(blocks, channels) for blocks, *_, channels in scaled_stages('lite4')]
    [(1, 24), (4, 32), (4, 56), (6, 112), (6, 160), (8, 272), (1, 448)]
  """
  wider, deeper = VARIANTS[variant]
  stages = []
  for i, (repeats, *shape, channels) in enumerate(STAGES):
    scaled = max(8, int(wider * channels + 4) // 8 * 8)
    scaled += 8 if scaled < 0.9 * wider * channels else 0       # rounding takes no more than a tenth away
    fixed = i in (0, len(STAGES) - 1)
    stages.append((repeats if fixed else math.ceil(deeper * repeats), *shape, scaled))
  return stages


def fold_batch_norm(gamma: np.ndarray, beta: np.ndarray, mean: np.ndarray, var: np.ndarray,
                    eps: float = EPS) -> dict[str, np.ndarray]:
  """gamma (x - mean) / sqrt(var + eps) + beta as scale x + bias.

  Example:
    >>> folded = fold_batch_norm(np.array([6.0]), np.array([1.0]), np.array([5.0]), np.array([4.0]), eps=0.0)
    >>> print(folded['scale'], folded['bias'])        # 6 (x - 5) / 2 + 1
    [3.] [-14.]
  """
  scale = gamma / np.sqrt(var + eps)
  return {'scale': scale.astype(np.float32), 'bias': (beta - mean * scale).astype(np.float32)}


def convert(weights: Mapping[str, np.ndarray], variant: str = 'lite0') -> dict[str, Any]:
  """Parameters from arrays under the names of the PyTorch conversion (`_conv_stem.weight`, `_blocks.0._bn1.weight`, …).

  Raises ValueError listing every array that is missing, or is there without a use.
  """
  layers = {'stem': ('_conv_stem', '_bn0'), 'head': ('_conv_head', '_bn1')}
  number = 0
  for i, (repeats, _, _, expansion, _) in enumerate(scaled_stages(variant)):
    for j in range(repeats):
      block, names = f'_blocks.{number}.', ('expand', 'depthwise', 'project')[expansion == 1:]
      for k, name in enumerate(names, 3 - len(names)):
        layers[f'stage_{i}/block_{j}/{name}'] = (f'{block}_{name}_conv', f'{block}_bn{k}')
      number += 1
  statistics = {'weight': 'gamma', 'bias': 'beta', 'running_mean': 'mean', 'running_var': 'var'}
  wanted = {f'{conv}.weight' for conv, _ in layers.values()} | {'_fc.weight', '_fc.bias'}
  wanted |= {f'{norm}.{name}' for _, norm in layers.values() for name in statistics}
  given = {name for name in weights if not name.endswith('.num_batches_tracked')}
  if wanted != given:
    raise ValueError(f'The weights are not those of EfficientNet-{variant}. '
                     f'Missing: {", ".join(sorted(wanted - given)) or "none"}. '
                     f'Without a use: {", ".join(sorted(given - wanted)) or "none"}.')
  flat = {'fc/kernel': weights['_fc.weight'].T, 'fc/bias': weights['_fc.bias']}
  for path, (conv, norm) in layers.items():
    flat[f'{path}/kernel'] = weights[f'{conv}.weight'].transpose(2, 3, 1, 0)
    folded = fold_batch_norm(**{ours: weights[f'{norm}.{name}'] for name, ours in statistics.items()})
    flat |= {f'{path}_norm/{leaf}': value for leaf, value in folded.items()}
  return tree.unflatten(flat)


def load(path: str | pathlib.Path, variant: str = 'lite0', **fields: Any) -> tuple[EfficientNetLite, dict[str, Any]]:
  """(module, parameters) of a file `weights.npz`, as `python -m mtjax.data.fetch efficientnet_lite0` brings it.

  Args:
    path: the file.
    variant: which one it holds.
    **fields: of the module; with classes=None the classifier is left out.
  """
  with np.load(path, allow_pickle=False) as file:
    params = convert(dict(file), variant)
  classes = fields.pop('classes', params['fc']['bias'].size)
  if classes is None:
    params.pop('fc')
  elif classes != params['fc']['bias'].size:
    raise ValueError(f"The weights have {params['fc']['bias'].size} classes, got classes={classes}; allowed is that "
                     f'number, or None for no classifier.')
  return EfficientNetLite(variant, classes, **fields), jax.tree.map(jnp.asarray, params)


def _conv(channels: int, size: int, stride: int, dtype: DTypeLike, name: str, **kwargs: Any) -> nn.Conv:
  return nn.Conv(channels, (size, size), stride, use_bias=False, dtype=dtype, name=name, **kwargs)
