"""Mamba and Mamba-2: against loops in numpy; causality, padding, packing, decoding, pooling."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders
from mtjax.context import Ctx
from mtjax.encoders import _state_space, mamba

FIELDS = dict(vocab_size=19, width=8, depth=2, state_size=4, pad_id=0, logits=True, chunk=4)
MODELS = {'mamba': encoders.Mamba(rank=2, **FIELDS), 'mamba2': encoders.Mamba2(head_size=4, groups=2, **FIELDS)}
TOKENS = np.random.default_rng(0).integers(1, 19, (2, 9)).astype(np.int32)


@pytest.fixture(scope='module', params=MODELS)
def case(request):
  """(model, variables, a compiled forward): one shape for nearly all that follows."""
  model = MODELS[request.param]
  shapes = jax.eval_shape(model.init, jax.random.key(0), TOKENS)
  rng = np.random.default_rng(1)
  variables = jax.tree.map(lambda x: rng.normal(scale=0.4, size=x.shape).astype(x.dtype), shapes)
  forward = jax.jit(lambda tokens, segments=None: model.apply(variables, tokens, ctx=Ctx(segment_ids=segments)))
  return model, variables, lambda *args: jax.device_get(forward(*args))


def silu(x):
  return x / (1 + np.exp(-x))


def rms(x, scale, eps=1e-5):
  return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * scale


def conv(x, p):
  padded = np.pad(x, [(3, 0), (0, 0)])
  return silu(sum(p['kernel'][k, 0] * padded[k:k + len(x)] for k in range(4)) + p['bias'])


def mamba_by_loop(p, x):
  """One row through one mixer, token by token: x [L, D] -> [L, D]."""
  u, z = np.split(x @ p['in_proj']['kernel'], 2, axis=1)
  u = conv(u, p['conv'])
  projected = u @ p['x_proj']['kernel']
  delta, B, C = projected[:, :2], projected[:, 2:6], projected[:, 6:]
  delta = np.logaddexp(0, delta @ p['dt_proj']['kernel'] + p['dt_proj']['bias'])
  h, y = np.zeros((16, 4)), []
  for t in range(len(x)):
    h = np.exp(-delta[t][:, None] * np.exp(p['A_log'])) * h + (delta[t] * u[t])[:, None] * B[t]
    y.append(h @ C[t] + p['D'] * u[t])
  return np.array(y) * silu(z) @ p['out_proj']['kernel']


def mamba2_by_loop(p, x):
  """The same for Mamba-2, with four heads of four channels and two groups."""
  z, xbc, delta = np.split(x @ p['in_proj']['kernel'], [16, 48], axis=1)
  u, B, C = np.split(conv(xbc, p['conv']), [16, 24], axis=1)
  u, (B, C) = u.reshape(-1, 4, 4), (np.repeat(v.reshape(-1, 2, 4), 2, axis=1) for v in (B, C))
  delta = np.logaddexp(0, delta + p['dt_bias'])
  s, y = np.zeros((4, 4, 4)), []
  for t in range(len(x)):
    s = np.exp(-delta[t] * np.exp(p['A_log']))[:, None, None] * s
    s = s + delta[t][:, None, None] * u[t][:, :, None] * B[t][:, None]
    y.append((np.einsum('hpn,hn->hp', s, C[t]) + p['D'][:, None] * u[t]).ravel())
  y = (np.array(y) * silu(z)).reshape(-1, 2, 8)
  return rms(y, 1.0).reshape(-1, 16) * p['norm']['scale'] @ p['out_proj']['kernel']


def test_equals_a_loop_over_tokens(case):
  model, variables, forward = case
  p, features = variables['params'], forward(TOKENS)
  mixer = mamba_by_loop if isinstance(model, encoders.Mamba) else mamba2_by_loop
  for row in range(2):
    x = p['embed']['embedding'][TOKENS[row]].astype(np.float64)
    for block in (p['block_0'], p['block_1']):
      x = x + mixer(block['mixer'], rms(x, block['norm']['scale']))
    x = rms(x, p['norm']['scale'])
    np.testing.assert_allclose(features.tokens[row], x, atol=1e-5)
    np.testing.assert_allclose(features.aux['logits'][row], x @ p['embed']['embedding'].T, atol=1e-5)


def test_the_future_never_changes_the_past(case):
  _, _, forward = case
  changed = TOKENS.copy()
  changed[:, 5:] = 19 - changed[:, 5:]
  a, b = forward(TOKENS).tokens, forward(changed).tokens
  np.testing.assert_array_equal(a[:, :5], b[:, :5])
  assert np.abs(a[:, 5:] - b[:, 5:]).max(axis=(0, 2)).min() > 1e-4


@pytest.mark.parametrize('side', ['left', 'right'])
def test_padding_changes_nothing(case, side):
  _, _, forward = case
  padded = TOKENS.copy()
  padded[0, 6:] = 0
  if side == 'left':
    padded[0] = np.roll(padded[0], 3)
  where = slice(3, 9) if side == 'left' else slice(0, 6)
  plain, got = forward(TOKENS), forward(padded)
  np.testing.assert_allclose(got.tokens[0, where], plain.tokens[0, :6], atol=1e-5)
  np.testing.assert_allclose(got.tokens[1], plain.tokens[1], atol=1e-6)
  np.testing.assert_allclose(got.pooled[0], plain.tokens[0, 5], atol=1e-5)
  np.testing.assert_array_equal(got.mask, padded > 0)


def test_packed_segments_equal_rows_of_their_own(case):
  _, _, forward = case
  alone = TOKENS.copy()
  alone[0, 4:], alone[1, :7], alone[1, 7:] = 0, TOKENS[0, [4, 5, 6, 7, 8, 8, 8]], 0
  expected = forward(alone, (np.arange(9)[None] < np.array([[4], [4]])).astype(np.int32)).tokens[:, :4]
  packed = np.where(np.arange(9)[None] < 8, TOKENS, 0)
  segments = np.array([[1] * 4 + [2] * 4 + [0]] * 2, np.int32)
  got = forward(packed, segments)
  np.testing.assert_allclose(got.tokens[0, :4], expected[0], atol=1e-5)
  np.testing.assert_allclose(got.tokens[0, 4:8], expected[1], atol=1e-5)
  np.testing.assert_array_equal(got.mask, segments > 0)


def test_decoding_equals_the_full_forward(case):
  model, variables, forward = case
  prompt = TOKENS[:, :6].copy()
  prompt[1, 4:] = 0                                                   # a shorter prompt, padded on the right
  full = TOKENS.copy()
  full[1] = np.concatenate([TOKENS[1, :4], TOKENS[1, 6:], [0, 0]])    # what it becomes without the padding
  expected = forward(full)
  features, state = jax.jit(lambda x: model.apply(variables, x, method='prefill'))(prompt)
  np.testing.assert_allclose(features.pooled, [expected.tokens[0, 5], expected.tokens[1, 3]], atol=1e-5)
  step = jax.jit(lambda token, state: model.apply(variables, token, state, method='decode'))
  for t in range(6, 9):
    features, state = step(TOKENS[:, t], state)
    np.testing.assert_allclose(features.tokens[0, 0], expected.tokens[0, t], atol=1e-5)
    np.testing.assert_allclose(features.tokens[1, 0], expected.tokens[1, t - 2], atol=1e-5)
    np.testing.assert_allclose(features.aux['logits'][0, 0], expected.aux['logits'][0, t], atol=1e-5)


def test_decoding_from_nothing(case):
  model, variables, forward = case
  state = model.init_state(2)
  shapes = jax.eval_shape(lambda s: model.apply(variables, TOKENS[:, 0], s, method='decode')[1], state)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), shapes) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
  features, _ = jax.jit(lambda x, s: model.apply(variables, x, s, method='decode'))(TOKENS, state)      # all at once
  np.testing.assert_allclose(features.tokens, forward(TOKENS).tokens, atol=1e-5)


def test_embeddings_serve_as_input(case):
  model, variables, forward = case
  embedded = variables['params']['embed']['embedding'][TOKENS]
  got = forward(embedded, np.ones((2, 9), np.int32))
  np.testing.assert_allclose(got.tokens, forward(TOKENS).tokens, atol=1e-6)


def test_mean_pools_over_tokens_that_are_not_padding(case):
  model, variables, _ = case
  padded = np.where(np.arange(9)[None] < np.array([[5], [0]]), TOKENS, 0)     # and a row of nothing but padding
  features = jax.device_get(jax.jit(model.clone(pool='mean').apply)(variables, padded))
  np.testing.assert_allclose(features.pooled[0], features.tokens[0, :5].mean(0), atol=1e-6)
  np.testing.assert_array_equal(features.pooled[1], 0)


def test_initial_steps_and_decays():
  # The initialisers of these leaves alone; all of them would be compiled one by one.
  steps = _state_space.inverse_softplus_of_steps()(jax.random.key(0), (128,))
  steps = np.logaddexp(0, np.asarray(steps, np.float64))
  assert 1e-3 * 0.99 <= steps.min() < 3e-3 and 0.03 < steps.max() <= 0.1 * 1.01      # log-uniform in 1e-3 … 0.1
  decays = mamba._log_of_counting(jax.random.key(0), (3, 5))
  np.testing.assert_allclose(np.exp(decays[1]), [1, 2, 3, 4, 5], rtol=1e-5)


def test_untied_logits_and_remat_keep_names():
  model = MODELS['mamba'].clone(tie=False, remat=True, depth=1)
  params = jax.eval_shape(model.init, jax.random.key(0), TOKENS)['params']
  assert params['lm_head']['kernel'].shape == (8, 19)
  assert set(params['block_0']['mixer']) == {'in_proj', 'conv', 'x_proj', 'dt_proj', 'A_log', 'D', 'out_proj'}


ERRORS = [
  (lambda: encoders.Mamba(pool='first'), ValueError, r"pool='first'; allowed are 'last', 'mean'"),
  (lambda: encoders.Mamba(rank=0), ValueError, r'Mamba has rank=0'),
  (lambda: encoders.Mamba2(width=8, head_size=5), ValueError, r'16 channels .* head_size=5 and groups=1'),
  (lambda: encoders.Mamba2(width=8, head_size=4, groups=3), ValueError, r'head_size=4 and groups=3'),
  (lambda: encoders.Mamba2(dt_limit=(1.0, 0.5)), ValueError, r'dt_limit=\(1.0, 0.5\)'),
  (lambda: init(MODELS['mamba'], np.zeros((2, 3, 5), np.float32)), ValueError, r'embeddings \[B, L, 8\].*\[2, 3, 5\]'),
  (lambda: init(MODELS['mamba'], np.zeros(3, np.int32)), ValueError, r'tokens \[B, L\].*\[3\]'),
  (lambda: init(MODELS['mamba'], TOKENS, ctx=Ctx(segment_ids=jnp.ones((2, 4), jnp.int32))), ValueError,
   r'ctx.segment_ids of shape \[2, 4\], but the input has \[2, 9\]'),
]


def init(model, inputs, **kwargs):
  return jax.eval_shape(lambda key: model.init(key, inputs, **kwargs), jax.random.key(0))


@pytest.mark.parametrize('act, error, text', ERRORS)
def test_errors_name_field_value_and_what_is_allowed(act, error, text):
  with pytest.raises(error, match=text):
    act()
