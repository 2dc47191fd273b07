"""The MLP worked out by hand, for each activation."""
import math

import numpy as np
import pytest

from mtjax import encoders

PARAMS = {
  'fc1': {'kernel': np.array([[1.0], [5.0]], np.float32), 'bias': np.array([-1.0], np.float32)},
  'fc2': {'kernel': np.array([[2.0, -3.0]], np.float32), 'bias': np.array([0.0, 1.0], np.float32)},
}


@pytest.mark.parametrize('name, fn', [
  ('relu', lambda x: max(x, 0.0)),
  ('gelu', lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2),
  ('silu', lambda x: x / (1 + math.exp(-x))),
  ('tanh', math.tanh),
])
def test_mlp_by_hand(name, fn):
  # Pixels [255, 51] -> [1, 0.2] -> fc1: 1 + 1 - 1 = 1 -> h = fn(1) -> fc2: [2 h, 1 - 3 h].
  encoder, pixels = encoders.MLP(widths=(1, 2), activation=name), np.array([[[255], [51]]], np.uint8)
  pooled = encoder.apply({'params': PARAMS}, pixels).pooled
  np.testing.assert_allclose(pooled, [[fn(2 * fn(1.0)), fn(1 - 3 * fn(1.0))]], rtol=1e-5, atol=1e-6)
