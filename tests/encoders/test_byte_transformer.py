"""Text as bytes: padding changes nothing, and rows without a token do no harm."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders

FIELDS = dict(width=8, depth=1, heads=2, hidden=16, max_length=12)
TEXTS = np.array([[1, 70, 80, 90, 2], [1, 75, 2, 0, 0]], np.int32)


def run(encoder, variables, inputs):
  return jax.device_get(jax.jit(encoder.apply)(variables, inputs))


@pytest.fixture(scope='module')
def variables():
  return jax.device_get(jax.jit(encoders.ByteTransformer(**FIELDS).init)(jax.random.key(0), TEXTS))


@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_padding_changes_nothing(variables, pool):
  encoder = encoders.ByteTransformer(pool=pool, **FIELDS)
  short = run(encoder, variables, TEXTS)
  long = run(encoder, variables, np.pad(TEXTS, [(0, 0), (0, 7)]))
  np.testing.assert_allclose(long.pooled, short.pooled, atol=1e-5)
  np.testing.assert_allclose(long.tokens[:, :5][short.mask], short.tokens[short.mask], atol=1e-5)
  np.testing.assert_array_equal(long.mask, np.pad(TEXTS, [(0, 0), (0, 7)]) > 0)


@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_pooling(variables, pool):
  features = run(encoders.ByteTransformer(pool=pool, **FIELDS), variables, TEXTS)
  expected = {'mean': features.tokens[1, :3].mean(axis=0), 'first': features.tokens[1, 0]}[pool]
  np.testing.assert_allclose(features.pooled[1], expected, atol=1e-6)


@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_a_row_without_tokens_stays_finite_with_its_gradient(variables, pool):
  encoder, empty = encoders.ByteTransformer(pool=pool, **FIELDS), np.zeros((2, 3), np.int32)
  features = run(encoder, variables, empty)
  assert np.isfinite(features.tokens).all() and np.isfinite(features.pooled).all()
  if pool == 'mean':
    np.testing.assert_array_equal(features.pooled, 0)
  grads = jax.jit(jax.grad(lambda v: jnp.sum(encoder.apply(v, empty).pooled)))(variables)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.device_get(grads)))


def test_order_of_the_bytes_matters(variables):
  encoder = encoders.ByteTransformer(**FIELDS)
  pooled = run(encoder, variables, np.array([[1, 70, 80, 2], [1, 80, 70, 2]], np.int32)).pooled
  assert np.abs(pooled[0] - pooled[1]).max() > 1e-3


def test_an_id_outside_the_vocabulary_is_loud(variables):
  texts = np.array([[1, 259, 2], [1, 258, 2]], np.int32)
  pooled = run(encoders.ByteTransformer(**FIELDS), variables, texts).pooled
  assert np.isnan(pooled[0]).all() and np.isfinite(pooled[1]).all()
