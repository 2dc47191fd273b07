"""The convolutions against loops: 5 x 5 windows, two apart, and the flattening behind them."""
import jax
import numpy as np

from mtjax import encoders


def conv_by_loops(x, layer):
  rows, height, width, _ = x.shape
  out = np.stack([
    np.einsum('bhwc,hwcd->bd', x[:, i:i + 5, j:j + 5], layer['kernel']) + layer['bias'][None]
    for i in range(0, height - 4, 2) for j in range(0, width - 4, 2)
  ], axis=1)
  return np.maximum(out, 0).reshape(rows, (height - 5) // 2 + 1, (width - 5) // 2 + 1, -1)


def test_lenet_equals_loops():
  rng = np.random.default_rng(0)
  lenet, x = encoders.LeNet(channels=(2, 3), width=4), rng.random((2, 15, 13, 1)).astype(np.float32)
  shapes = jax.eval_shape(lenet.init, jax.random.key(0), x)
  variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32), shapes)
  params = variables['params']
  first = conv_by_loops(x, params['conv1'])
  second = conv_by_loops(first, params['conv2'])
  pooled = np.maximum(second.reshape(2, -1) @ params['fc1']['kernel'] + params['fc1']['bias'][None], 0)
  features = jax.device_get(jax.jit(lenet.apply)(variables, x))
  for got, expected in zip((*features.maps, features.pooled), (first, second, pooled), strict=True):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_the_digits_sizes_that_the_docstring_names():
  for side, sizes in ((36, [16, 6]), (28, [12, 4])):
    lenet, x = encoders.LeNet(), np.zeros((1, side, side, 1), np.uint8)
    features = jax.eval_shape(lambda x, lenet=lenet: lenet.init_with_output(jax.random.key(0), x)[0], x)
    assert [m.shape for m in features.maps] == [(1, sizes[0], sizes[0], 16), (1, sizes[1], sizes[1], 32)]
    assert features.pooled.shape == (1, 64)
