"""The residual ConvNet: a block by hand, strides, and rows that do not see each other's statistics."""
import jax
import numpy as np
import pytest

from mtjax import encoders
from mtjax.encoders import convnet


def group_norm(x, groups, eps=1e-5):
  parts = x.reshape(x.shape[0], -1, groups, x.shape[-1] // groups)
  parts = (parts - parts.mean((1, 3), keepdims=True)) / np.sqrt(parts.var((1, 3), keepdims=True) + eps)
  return parts.reshape(x.shape)


def test_a_block_of_pointwise_kernels_by_matrices():
  # Kernels that are zero but for their middle act on each position alone: a block is then a few matrix products.
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
  kernels = {'conv1': rng.normal(size=(4, 6)), 'conv2': rng.normal(size=(6, 6)), 'shortcut': rng.normal(size=(4, 6))}
  params = {name: {'kernel': np.zeros((3, 3, *k.shape), np.float32)} for name, k in kernels.items() if name != 'shortcut'}
  for name in params:
    params[name]['kernel'][1, 1] = kernels[name]
  params |= {'shortcut': {'kernel': kernels['shortcut'][None, None].astype(np.float32)},
             'norm1': {'scale': np.ones(4), 'bias': np.zeros(4)}, 'norm2': {'scale': np.ones(6), 'bias': np.zeros(6)}}
  block = convnet.Block(channels=6, stride=1, groups=2, dropout_rate=0.0, dtype=np.float32)
  y = np.maximum(group_norm(x, 2), 0)
  expected = y @ kernels['shortcut'] + np.maximum(group_norm(y @ kernels['conv1'], 2), 0) @ kernels['conv2']
  np.testing.assert_allclose(jax.jit(block.apply)({'params': params}, x), expected, atol=1e-4)      # entries up to 20


def test_strides_halve_and_round_up():
  model = encoders.ConvNet(width=2, depths=(1, 1, 1), groups=1, stem_stride=2)
  features = jax.eval_shape(lambda key, x: model.init_with_output(key, x)[0], jax.random.key(0),
                            np.zeros((1, 22, 17, 3), np.uint8))
  assert [m.shape for m in features.maps] == [(1, 11, 9, 2), (1, 6, 5, 4), (1, 3, 3, 8)]
  assert features.pooled.shape == (1, 8)


def test_errors_name_field_value_and_what_is_allowed():
  with pytest.raises(ValueError, match=r'ConvNet has width=6, which is not a multiple of groups=4; allowed .* 1, 2, 3, 6'):
    encoders.ConvNet(width=6, groups=4)
  with pytest.raises(ValueError, match=r'ConvNet has depths=\(\)'):
    encoders.ConvNet(depths=())
