"""Swin, the ConvNet and EfficientNet-Lite with nothing but their products, convolutions and softmaxes.

Beside these only what moves numbers about: windows and merged positions are reshaped (but not rolled), and a block
that changes its channels adds its shortcut's convolution. Functions as in `plain_transformers`.
"""
import jax.numpy as jnp

from experiments.benchmarks._encoders.plain_transformers import attention, convolve, mlp, product
from mtjax.encoders import efficientnet_lite
from mtjax.encoders.swin import from_windows, to_windows


def swin(patch: int, window: int):
  """images [B, H, W, C] -> the last map [B, H', W', D]; windows fit into every map."""
  def run(p, x, how):
    x = convolve(x, p['embed'], how, patch, 'VALID')
    for i in range(sum(name.startswith('stage_') for name in p)):
      stage = p[f'stage_{i}']
      for j in range(sum(name.startswith('block_') for name in stage)):
        own, (_, height, width, _) = stage[f'block_{j}'], x.shape
        y = to_windows(x, min(window, height, width))
        y = attention(y.reshape(-1, *y.shape[2:]), own['attn'], how).reshape(y.shape)
        x = mlp(from_windows(y, height, width), own['mlp'], how)
      if 'merge' in stage:
        x = jnp.concatenate([x[:, row::2, column::2] for column in range(2) for row in range(2)], axis=-1)
        x = product(x, stage['merge']['reduction'], how)
    return x

  return run


def convnet(p, x, how):
  """images [B, H, W, C] -> the last map [B, H', W', D]."""
  x = convolve(x, p['stem'], how)
  for i in range(sum(name.startswith('stage_') for name in p)):
    stage = p[f'stage_{i}']
    for j in range(len(stage)):
      own, stride = stage[f'block_{j}'], 2 if i and not j else 1
      y = convolve(convolve(x, own['conv1'], how, stride), own['conv2'], how)
      x = y + convolve(x, own['shortcut'], how, stride) if 'shortcut' in own else y
  return x


def efficientnet(variant: str):
  """images [B, H, W, 3] -> the head's map [B, H', W', 1280]."""
  def run(p, x, how):
    x = convolve(x, p['stem'], how, 2)
    for i, (repeats, _, stride, _, _) in enumerate(efficientnet_lite.scaled_stages(variant)):
      for j in range(repeats):
        own = p[f'stage_{i}'][f'block_{j}']
        x = convolve(x, own['expand'], how) if 'expand' in own else x
        x = convolve(x, own['depthwise'], how, 1 if j else stride, groups=x.shape[-1])
        x = convolve(x, own['project'], how)
    return convolve(x, p['head'], how)

  return run
