"""The patches of a ViT: reading order, the class token, and the token grid as a feature map."""
import functools

import jax
import numpy as np
import pytest

from mtjax import encoders

FIELDS = dict(patch=2, width=8, depth=1, heads=2, hidden=16)


def images(*shape):
  return np.random.default_rng(0).random(shape).astype(np.float32)


def parameters(vit, x):
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(vit.init, jax.random.key(0), x)
  return jax.tree.map(lambda s: rng.normal(scale=0.3, size=s.shape).astype(s.dtype), shapes)


@pytest.mark.parametrize('pool', ['cls', 'mean'])
def test_maps_are_the_tokens_of_the_patches_in_reading_order(pool):
  vit, x = encoders.ViT(pool=pool, **FIELDS), images(2, 4, 6, 3)
  features = jax.device_get(jax.jit(vit.apply)(parameters(vit, x), x))
  patches = features.tokens[:, 1:] if pool == 'cls' else features.tokens
  (grid,) = features.maps
  for row in range(2):
    for column in range(3):
      np.testing.assert_array_equal(grid[:, row, column], patches[:, 3 * row + column])
  expected = features.tokens[:, 0] if pool == 'cls' else features.tokens.mean(axis=1)
  np.testing.assert_allclose(features.pooled, expected, atol=1e-6)


def test_embedding_is_one_linear_map_of_each_patch():
  vit, x = encoders.ViT(pool='mean', **FIELDS), images(1, 2, 4, 3)
  variables = parameters(vit, x)
  capture = functools.partial(vit.apply, capture_intermediates=lambda module, _: module.name == 'embed')
  _, state = jax.device_get(jax.jit(capture)(variables, x))
  (embedded,) = state['intermediates']['embed']['__call__']
  kernel, bias = (variables['params']['embed'][name] for name in ('kernel', 'bias'))
  np.testing.assert_allclose(embedded[0, 0, 1], x[0, :, 2:].reshape(-1) @ kernel.reshape(-1, 8) + bias, atol=1e-5)


def test_without_positions_the_mean_does_not_see_the_order_of_patches():
  vit, x = encoders.ViT(pool='mean', **FIELDS), images(1, 4, 4, 1)
  swapped = np.concatenate([x[:, 2:], x[:, :2]], axis=1)
  variables = parameters(vit, x)
  run = jax.jit(lambda v, x: vit.apply(v, x).pooled)
  assert np.abs(np.asarray(run(variables, x)) - np.asarray(run(variables, swapped))).max() > 1e-3
  variables['params']['pos_embed'] = np.zeros_like(variables['params']['pos_embed'])
  np.testing.assert_allclose(run(variables, x), run(variables, swapped), atol=1e-5)
