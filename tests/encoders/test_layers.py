"""Attention and the block against slow, obvious numpy."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders


def attend_by_loops(query, key, value, mask):
  out = np.zeros_like(query)
  rows, length, heads, size = query.shape
  for b in range(rows):
    for h in range(heads):
      for q in range(length):
        seen = [m for m in range(key.shape[1]) if mask[b, h, q, m]]
        weights = np.array([np.exp(query[b, q, h] @ key[b, m, h] / np.sqrt(size)) for m in seen])
        for weight, m in zip(weights / weights.sum(), seen):
          out[b, q, h] += weight * value[b, m, h]
  return out


@pytest.fixture
def qkv():
  rng = np.random.default_rng(0)
  return (rng.normal(size=(2, 3, 2, 5)).astype(np.float32), *rng.normal(size=(2, 2, 4, 2, 5)).astype(np.float32))


def test_attend_equals_loops(qkv):
  everything = np.ones((2, 2, 3, 4), bool)
  np.testing.assert_allclose(encoders.attend(*qkv), attend_by_loops(*qkv, everything), atol=1e-6)


@pytest.mark.parametrize('shape', [(2, 1, 1, 4), (1, 1, 3, 4), (2, 2, 3, 4)])
def test_attend_with_masks_equals_loops(qkv, shape):
  mask = np.random.default_rng(1).random(shape) < 0.5
  mask[..., 0] = True
  expected = attend_by_loops(*qkv, np.broadcast_to(mask, (2, 2, 3, 4)))
  np.testing.assert_allclose(encoders.attend(*qkv, mask), expected, atol=1e-6)


def test_attend_by_hand():
  # One head of size 1, one query 1, keys log 1 and log 3: weights 1/4 and 3/4, values 8 and 4 -> 5.
  query = jnp.ones((1, 1, 1, 1))
  key = jnp.log(jnp.array([1.0, 3.0])).reshape(1, 2, 1, 1)
  value = jnp.array([8.0, 4.0]).reshape(1, 2, 1, 1)
  np.testing.assert_allclose(encoders.attend(query, key, value).ravel(), [5.0], rtol=1e-6)


def test_a_query_that_sees_nothing_stays_finite_with_its_gradient(qkv):
  mask = np.zeros((1, 1, 1, 4), bool)
  out, grads = jax.value_and_grad(lambda q: jnp.sum(encoders.attend(q, *qkv[1:], mask)))(jnp.asarray(qkv[0]))
  assert np.isfinite(out) and np.isfinite(grads).all()


def test_softmax_is_float32_under_bfloat16(qkv):
  jaxpr = str(jax.make_jaxpr(encoders.attend)(*(jnp.asarray(x, jnp.bfloat16) for x in qkv)))
  exponentials = [line for line in jaxpr.splitlines() if ' exp ' in line]
  assert exponentials and all('f32[' in line.split('=')[0] for line in exponentials)
  assert encoders.attend(*(jnp.asarray(x, jnp.bfloat16) for x in qkv)).dtype == jnp.bfloat16


def test_block_is_two_residual_branches_with_norm_before():
  block = encoders.TransformerBlock(heads=2, hidden=6)
  x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
  variables = jax.jit(block.init)(jax.random.key(0), x)
  p = jax.tree.map(np.asarray, variables['params'])

  def norm(x):      # scale 1 and bias 0, as initialised
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)

  def split(x, layer):
    return np.einsum('bld,dhk->blhk', x, layer['kernel']) + layer['bias'][None, None]

  y = norm(x)
  query, key, value = (split(y, p['attn'][name]) for name in ('query', 'key', 'value'))
  y = attend_by_loops(query, key, value, np.ones((2, 2, 3, 3), bool))
  x1 = x + np.einsum('blhk,hkd->bld', y, p['attn']['out']['kernel'])
  y = np.asarray(jax.nn.gelu(norm(np.asarray(x1)) @ p['mlp']['fc1']['kernel'], approximate=False))
  expected = x1 + y @ p['mlp']['fc2']['kernel']
  np.testing.assert_allclose(jax.jit(block.apply)(variables, x), expected, atol=1e-5)
