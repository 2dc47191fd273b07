"""Swin: windows, shifts, biases and merging against plain loops."""
import jax
import numpy as np
import pytest

from mtjax import encoders
from mtjax.encoders import swin

FIELDS = dict(patch=2, width=8, depths=(2, 1), heads=(2, 4), window=3, mlp_ratio=2.0)
IMAGES = np.random.default_rng(0).normal(size=(2, 14, 11, 1)).astype(np.float32)      # maps of 7 x 6 and 4 x 3


def norm(x, p):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * p['scale'] + p['bias']


def attention_by_loop(x, p, window, shift):
  """One image [H, W, C]: every position looks at those of its window, one by one."""
  height, width, channels = x.shape
  size = min(height, width, window)
  shift = 0 if min(height, width) <= window else shift
  full_h, full_w = -(-height // size) * size, -(-width // size) * size
  x = np.pad(x, [(0, full_h - height), (0, full_w - width), (0, 0)])
  q, k, v = (np.einsum('hwc,cnk->hwnk', x, p[n]['kernel']) + p[n]['bias'] for n in ('query', 'key', 'value'))
  region = lambda i, side: 0 if not shift or i < side - size else 1 if i < side - shift else 2
  place = lambda i, side: ((i - shift) % side)                      # where the roll puts a row or column
  out = np.zeros((height, width, *q.shape[2:]))
  for r in range(height):
    for c in range(width):
      a, b = place(r, full_h), place(c, full_w)
      seen, scores = [], []
      for r2 in range(full_h):
        for c2 in range(full_w):
          a2, b2 = place(r2, full_h), place(c2, full_w)
          same_window = (a // size, b // size) == (a2 // size, b2 // size)
          if same_window and (region(a, full_h), region(b, full_w)) == (region(a2, full_h), region(b2, full_w)):
            entry = (a - a2 + window - 1) * (2 * window - 1) + b - b2 + window - 1
            seen.append((r2, c2))
            scores.append((q[r, c] * k[r2, c2]).sum(-1) / np.sqrt(q.shape[-1]) + p['bias_table'][entry])
      weights = np.exp(np.array(scores))
      weights /= weights.sum(0)
      out[r, c] = sum(w[:, None] * v[at] for w, at in zip(weights, seen))
  return np.einsum('hwnk,nkc->hwc', out, p['out']['kernel']) + p['out']['bias']


@pytest.mark.parametrize('shape, shift', [((7, 6), 0), ((7, 6), 1), ((3, 5), 1), ((2, 4), 1), ((6, 6), 1)])
def test_a_block_equals_a_loop_over_positions(shape, shift):
  block = swin.Block(heads=2, window=3, shifted=bool(shift), hidden=4, use_bias=True, eps=1e-5, dropout_rate=0.0,
                     dtype=np.float32)
  rng = np.random.default_rng(1)
  x = rng.normal(size=(1, *shape, 8)).astype(np.float32)
  shapes = jax.eval_shape(block.init, jax.random.key(0), x)['params']
  p = jax.tree.map(lambda s: rng.normal(scale=0.5, size=s.shape).astype(s.dtype), shapes)
  for leaf in p['mlp'].values():
    leaf['kernel'] *= 0                                                # the attention alone
    leaf['bias'] *= 0
  expected = x[0] + attention_by_loop(norm(x[0].astype(np.float64), p['norm1']), p['attn'], 3, shift)
  np.testing.assert_allclose(jax.jit(block.apply)({'params': p}, x)[0], expected, atol=1e-5)


def test_windows_there_and_back():
  x = np.arange(2 * 4 * 6 * 1).reshape(2, 4, 6, 1)
  windows = swin.to_windows(x, 2)
  assert windows.shape == (2, 6, 4, 1)
  np.testing.assert_array_equal(windows[0, 1, :, 0], [2, 3, 8, 9])      # the second window of the first row
  np.testing.assert_array_equal(swin.from_windows(windows, 4, 6), x)


def test_positions_across_the_seam_do_not_see_each_other():
  seen = swin.neighbours(4, 4, size=2, shift=1)
  assert seen[0].all()                                                  # the first window holds true neighbours
  np.testing.assert_array_equal(seen[1], np.tile(np.eye(2, dtype=bool), (2, 2)))       # left | right edge of the image
  np.testing.assert_array_equal(seen[3], np.eye(4, dtype=bool))         # the four corners


def test_small_windows_read_the_middle_of_the_table():
  # Offsets of a window of 1 and of 2 in a table for windows of 3: entry (dr + 2) * 5 + dc + 2.
  np.testing.assert_array_equal(swin.relative_positions(1, 3), [[12]])
  np.testing.assert_array_equal(swin.relative_positions(2, 3)[0], [12, 11, 7, 6])


def test_merging_by_hand():
  x = np.arange(1, 7, dtype=np.float32).reshape(1, 2, 3, 1)             # odd width: a column of zeros is added
  params = {'norm': {'scale': np.zeros(4), 'bias': np.array([1.0, 10, 100, 1000])},
            'reduction': {'kernel': np.eye(4, 2, dtype=np.float32)}}
  np.testing.assert_allclose(swin.Merge(np.float32).apply({'params': params}, x), [[[[1, 10]] * 2]])
  params['norm'] = {'scale': np.ones(4), 'bias': np.zeros(4)}
  first = np.array([1.0, 4, 2, 5])                                      # (0,0), (1,0), (0,1), (1,1)
  expected = ((first - first.mean()) / np.sqrt(first.var() + 1e-5))[:2]
  np.testing.assert_allclose(swin.Merge(np.float32).apply({'params': params}, x)[0, 0, 0], expected, rtol=1e-5)


def test_maps_tokens_and_pooled():
  model = encoders.Swin(**FIELDS)
  shapes = jax.eval_shape(model.init, jax.random.key(0), IMAGES)
  variables = jax.tree.map(lambda x: np.random.default_rng(2).normal(scale=0.3, size=x.shape).astype(x.dtype), shapes)
  features = jax.device_get(jax.jit(model.apply)(variables, IMAGES))
  assert [m.shape for m in features.maps] == [(2, 7, 6, 8), (2, 4, 3, 16)]
  np.testing.assert_array_equal(features.tokens, features.maps[1].reshape(2, 12, 16))
  np.testing.assert_allclose(features.pooled, features.tokens.mean(1), atol=1e-6)


def test_black_images_have_gradients_of_usual_size():
  model, black = encoders.Swin(**FIELDS), np.zeros((1, 14, 11, 1), np.uint8)

  @jax.jit
  def gradient(key):
    params = model.init(key, black)
    return jax.grad(lambda p: model.apply(p, black).pooled[0, 0])(params)

  # Without a bias at the patches it is of the order of 1e20 here, and its norm beyond float32.
  assert max(np.abs(g).max() for g in jax.tree.leaves(jax.device_get(gradient(jax.random.key(0))))) < 100


ERRORS = [
  (dict(depths=(2, 2)), r'depths=\(2, 2\) and heads=\(3, 6, 12, 24\); allowed is one of each a stage'),
  (dict(width=8, heads=(3, 6, 12, 24)), r'3 heads do not divide the 8 channels of stage 0'),
  (dict(window=0), r'Swin has window=0'),
  (dict(mlp_ratio=0.0), r'mlp_ratio=0.0; allowed is at least one hidden unit'),
]


@pytest.mark.parametrize('fields, text', ERRORS)
def test_errors_name_field_value_and_what_is_allowed(fields, text):
  with pytest.raises(ValueError, match=text):
    encoders.Swin(**fields)
