"""T5 and Whisper: names, relative buckets, a numpy reference, padding, cached decoding, options that change nothing; AST."""
import doctest
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders, tree
from mtjax.context import Ctx
from mtjax.encoders import _pairs, relative_buckets, whisper
from mtjax.encoders.relative_buckets import bucket

MODELS = {
  't5': encoders.T5(vocab_size=30, width=8, depth=2, decoder_depth=1, heads=4, head_dim=3, hidden=12, gated=True,
                    activation='gelu_tanh', head='untied', buckets=8, max_distance=6),
  'whisper': encoders.Whisper(vocab_size=30, width=8, depth=1, decoder_depth=2, heads=4, decoder_heads=2, hidden=12, mels=3,
                              frames=5, max_length=7, start_id=2, pad_id=0),
}
TARGETS = np.array([[3, 4, 5, 1], [7, 1, -100, -100]], np.int32)
TOKENS = np.array([[5, 6, 7, 8, 9], [9, 4, 0, 0, 0]], np.int32)
INPUTS = {'t5': TOKENS, 'whisper': np.random.default_rng(0).normal(size=(2, 9, 3)).astype(np.float32)}
# The same sums in another order, on numbers of order one.
close = functools.partial(np.testing.assert_allclose, atol=2e-5)


@functools.cache
def variables(name):
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(MODELS[name].init, jax.random.key(0), (INPUTS[name], TARGETS))
  return jax.tree.map(lambda x: rng.normal(scale=0.4, size=x.shape).astype(x.dtype), shapes)


@functools.cache
def compiled(module):
  return jax.jit(module.apply)


def run(name, inputs, **options):
  return jax.device_get(compiled(MODELS[name].clone(**options))(variables(name), inputs))


ATTENTION = [f'{part}/kernel' for part in ('query', 'key', 'value', 'out')]
T5_BLOCK = ['norm1/scale', *(f'attn/{x}' for x in ATTENTION), 'norm2/scale', *(f'mlp/{x}/kernel' for x in ('gate', 'fc1', 'fc2'))]
BIASED = [*ATTENTION, 'query/bias', 'value/bias', 'out/bias']
WHISPER_BLOCK = [f'{x}/{leaf}' for x in ('norm1', 'norm2') for leaf in ('scale', 'bias')] + [f'attn/{x}' for x in BIASED] + [
  f'mlp/{x}/{leaf}' for x in ('fc1', 'fc2') for leaf in ('kernel', 'bias')]
NAMES = {
  't5': {'embed/embedding', 'head/kernel', *(f'{x}/{leaf}' for x in ('encoder', 'decoder') for leaf in ('rel_bias', 'norm/scale')),
         *(f'{block}/{leaf}' for block in ('encoder/block_0', 'encoder/block_1', 'decoder/block_0') for leaf in T5_BLOCK),
         'decoder/block_0/cross_norm/scale', *(f'decoder/block_0/cross/{x}' for x in ATTENTION)},
  'whisper': {'decoder/embed/embedding', *(f'encoder/conv{i}/{x}' for i in (1, 2) for x in ('kernel', 'bias')),
              *(f'{x}/{leaf}' for x in ('encoder', 'decoder') for leaf in ('pos_embed', 'norm/scale', 'norm/bias')),
              *(f'{block}/{leaf}' for block in ('encoder/block_0', 'decoder/block_0', 'decoder/block_1') for leaf in WHISPER_BLOCK),
              *(f'decoder/block_{i}/cross{x}' for i in (0, 1) for x in ('_norm/scale', '_norm/bias', *(f'/{x}' for x in BIASED)))},
}


@pytest.mark.parametrize('name', MODELS)
def test_names_of_the_parameters_and_shapes_of_the_features(name):
  assert set(tree.flatten(variables(name)['params'])) == NAMES[name]
  features = run(name, (INPUTS[name], TARGETS))
  assert features.tokens.shape == (2, 4, 8) and features.pooled.shape == (2, 8) and features.aux['logits'].shape == (2, 4, 30)
  assert features.aux['memory'].shape == (2, 5, 8)
  np.testing.assert_array_equal(features.mask, TARGETS > 0)


@pytest.mark.parametrize('both_ways', [True, False])
@pytest.mark.parametrize('buckets, max_distance', [(32, 128), (8, 20), (6, 7)])
def test_buckets_are_those_of_the_formula(both_ways, buckets, max_distance):
  def slow(r):
    count, offset, d = buckets, 0, max(-r, 0)
    if both_ways:
      count, offset, d = buckets // 2, buckets // 2 if r > 0 else 0, abs(r)
    exact = count // 2
    if d < exact:
      return offset + d
    share = math.log(d / exact) / math.log(max_distance / exact)
    return offset + min(count - 1, exact + math.floor((count - exact) * share + 1e-6))   # float32 rounds 2.0 up to itself

  r = np.arange(-200, 201)
  got = bucket(r, both_ways=both_ways, buckets=buckets, max_distance=max_distance)
  np.testing.assert_array_equal(got, [slow(x) for x in r])


def norm(x, p):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * p['scale']


def attention(p, x, memory, bias, seen):
  q, k, v = (np.einsum('bld,dhk->blhk', y, p[part]['kernel']) for part, y in (('query', x), ('key', memory), ('value', memory)))
  scores = np.where(seen, np.einsum('blhk,bshk->bhls', q, k) + bias, -np.inf)            # no division by sqrt(K)
  weights = np.exp(scores - scores.max(-1, keepdims=True))
  mixed = np.einsum('bhls,bshk->blhk', weights / weights.sum(-1, keepdims=True), v)
  return np.einsum('blhk,hkd->bld', mixed, p['out']['kernel'])


def test_t5_equals_numpy():
  p = variables('t5')['params']

  def mlp(p, x):
    gate = x @ p['gate']['kernel']
    gate = gate / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    return (gate * (x @ p['fc1']['kernel'])) @ p['fc2']['kernel']

  def bias(p, length, both_ways):
    r = np.arange(length)[None] - np.arange(length)[:, None]
    return p['rel_bias'][np.asarray(bucket(r, both_ways=both_ways, buckets=8, max_distance=6))].transpose(2, 0, 1)

  seen = (TOKENS > 0)[:, None, None]
  h, b = p['embed']['embedding'][TOKENS], bias(p['encoder'], 5, True)
  for i in range(2):
    own = p['encoder'][f'block_{i}']
    y = norm(h, own['norm1'])
    h = h + attention(own['attn'], y, y, b, seen)
    h = h + mlp(own['mlp'], norm(h, own['norm2']))
  memory = norm(h, p['encoder']['norm'])
  h, own = p['embed']['embedding'][[[0, 3, 4, 5], [0, 7, 1, 0]]], p['decoder']['block_0']   # behind the start, 0
  y = norm(h, own['norm1'])
  h = h + attention(own['attn'], y, y, bias(p['decoder'], 4, False), np.tri(4, dtype=bool))
  h = h + attention(own['cross'], norm(h, own['cross_norm']), memory, 0, seen)
  h = norm(h + mlp(own['mlp'], norm(h, own['norm2'])), p['decoder']['norm'])
  features = run('t5', (TOKENS, TARGETS))
  close(features.aux['memory'][TOKENS > 0], memory[TOKENS > 0])
  close(features.tokens, h)
  close(features.aux['logits'], h @ p['head']['kernel'], rtol=1e-4)
  close(features.pooled[1], memory[1, :2].mean(0))


def test_the_tied_head_is_scaled_and_the_encoder_stands_alone():
  features = run('t5', (TOKENS, TARGETS), head='tied')
  close(features.aux['logits'], features.tokens @ variables('t5')['params']['embed']['embedding'].T * 8**-0.5)
  alone = MODELS['t5'].clone(decoder_depth=0)
  got = compiled(alone)(variables('t5'), TOKENS)
  close(got.tokens, features.aux['memory'])
  names = tree.flatten(jax.eval_shape(alone.init, jax.random.key(0), TOKENS)['params'])
  assert set(names) == {name for name in NAMES['t5'] if name.startswith(('encoder/', 'embed/'))}


@pytest.mark.parametrize('name', MODELS)
def test_ways_to_give_a_pair_agree(name):
  expected = run(name, (INPUTS[name], TARGETS))
  other = compiled(MODELS[name])(variables(name), {'inputs': INPUTS[name], 'targets': TARGETS})
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(other), expected)
  assert jax.eval_shape(MODELS[name].apply, variables(name), INPUTS[name], TARGETS) == jax.eval_shape(lambda: expected)


def test_padding_of_the_inputs_and_later_targets_change_nothing():
  short = run('t5', (TOKENS[1:, :2], TARGETS[1:, :2]))
  close(run('t5', (TOKENS, TARGETS)).tokens[1:, :2], short.tokens)
  masked = compiled(MODELS['t5'])(variables('t5'), ({'tokens': np.where(TOKENS, TOKENS, 9), 'mask': TOKENS > 0}, TARGETS))
  close(masked.tokens, run('t5', (TOKENS, TARGETS)).tokens)
  by_ctx = jax.jit(lambda ctx: MODELS['t5'].apply(variables('t5'), np.where(TOKENS, TOKENS, 9), ctx=ctx, method='encode'))
  close(by_ctx(Ctx(mask=TOKENS > 0)).pooled, masked.pooled)
  whole = run('whisper', (INPUTS['whisper'], TARGETS))
  close(run('whisper', (INPUTS['whisper'], TARGETS * [1, 1, 1, 2])).tokens, whole.tokens)   # the last is not read


@pytest.mark.parametrize('name', MODELS)
def test_cached_decoding_is_one_call_with_all_tokens(name):
  module, params = MODELS[name], variables(name)
  reads = np.asarray(_pairs.shift_right(jnp.asarray(TARGETS), module.start_id, 0))
  whole = run(name, (INPUTS[name], TARGETS))
  decode = jax.jit(lambda tokens, cache, mask: module.apply(params, tokens, cache, mask=mask, method='decode'))
  start = jax.jit(lambda inputs: module.apply(params, inputs, 5, method='start'))
  # A prompt of two tokens, of which row 1 has one, padded on the left; then one token at a time.
  prompt = np.array([reads[0, :2], [29, reads[1, 0]]])
  features, cache = decode(prompt, start(INPUTS[name]), np.array([[True, True], [False, True]]))
  close(features.tokens[0], whole.tokens[0, :2])
  close(features.tokens[1, 1], whole.tokens[1, 0])
  for i in range(2):
    features, cache = decode(np.array([[reads[0, 2 + i]], [reads[1, 1 + i]]]), cache, np.ones((2, 1), bool))
    for row in range(2):
      close(features.aux['logits'][row, 0], whole.aux['logits'][row, 2 - row + i], rtol=1e-4)
  one = np.ones((2, 1), bool)
  full, cache = decode(np.ones((2, 1), np.int32), cache, one)
  over, _ = decode(np.ones((2, 1), np.int32), cache, one)
  assert np.isfinite(full.tokens).all() and np.isnan(over.tokens[0]).all() and np.isfinite(over.tokens[1]).all()


def test_scan_and_remat_change_neither_values_nor_gradients():
  params = variables('t5')['params']
  params = {'params': {**params, 'decoder': {**params['decoder'], 'block_1': params['decoder']['block_0']}}}

  def trained(**options):
    module = MODELS['t5'].clone(dropout_rate=0.3, decoder_depth=2, **options)

    def loss(params):
      features = module.apply(params, (TOKENS, TARGETS), train=True, rngs={'dropout': jax.random.key(3)})
      return jnp.sum(jnp.sin(features.aux['logits']))

    return jax.device_get(jax.jit(jax.value_and_grad(loss))(params))

  plain = trained()
  jax.tree.map(lambda a, b: close(a, b, rtol=1e-3), trained(scan=True, remat=True), plain)   # sums of hundreds of sines
  assert all(np.abs(grad).max() > 0 for grad in jax.tree.leaves(plain[1]))


def test_whisper_as_a_scan_and_its_sinusoids_stay():
  close(run('whisper', (INPUTS['whisper'], TARGETS), scan=True, remat=True).tokens,
        run('whisper', (INPUTS['whisper'], TARGETS)).tokens)
  params = variables('whisper')['params']

  def loss(table):
    own = {'params': {**params, 'encoder': {**params['encoder'], 'pos_embed': table}}}
    return MODELS['whisper'].apply(own, (INPUTS['whisper'], TARGETS)).tokens.sum()

  assert not jax.jit(jax.grad(loss))(params['encoder']['pos_embed']).any()


@pytest.mark.parametrize('name', MODELS)
def test_results_are_float32_in_bfloat16_too(name):
  module = MODELS[name].clone(dtype=jnp.bfloat16, scan=True, depth=1)
  with jax.numpy_dtype_promotion('strict'):
    features = jax.eval_shape(module.apply, variables(name), (INPUTS[name], TARGETS))
    cache = jax.eval_shape(lambda v, x: module.apply(v, x, 4, method='start'), variables(name), INPUTS[name])
    step, after = jax.eval_shape(lambda v, x, cache: module.apply(v, x, cache, method='decode'), variables(name), TARGETS, cache)
  floats = [features.tokens, features.pooled, step.tokens, *features.aux.values(), *step.aux.values()]
  assert {x.dtype for x in floats} <= {jnp.dtype('float32'), jnp.dtype(bool)}
  assert cache[0].own.k.dtype == cache[0].v.dtype == jnp.bfloat16
  assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == jax.tree.map(lambda x: (x.shape, x.dtype), cache)


def test_sinusoids():
  w = [10000**(-i / 3) for i in range(4)]
  expected = [[math.sin(p * x) for x in w] + [math.cos(p * x) for x in w] for p in range(5)]
  np.testing.assert_allclose(whisper.sinusoids(5, 8), expected, atol=1e-6)


def test_ast_reads_patches_in_rows_of_time():
  module = encoders.AST(mels=4, frames=7, patch=2, stride=(1, 2), width=6, depth=1, heads=2, classes=3)
  x = np.random.default_rng(0).normal(size=(2, 7, 4)).astype(np.float32)
  shapes = jax.eval_shape(module.init, jax.random.key(0), x)
  params = jax.tree.map(lambda s: np.random.default_rng(1).normal(size=s.shape).astype(s.dtype), shapes)
  own = params['params']
  own['block_0'] = jax.tree.map(np.zeros_like, own['block_0'])                               # what remains is the embedding
  features = jax.jit(module.apply)(params, x)
  patches = [np.einsum('btf,ftd->bd', x[:, t: t + 2, f: f + 2], own['embed']['kernel'][:, :, 0]) + own['embed']['bias']
             for f in (0, 1, 2) for t in (0, 2, 4)]
  tokens = np.stack([np.broadcast_to(own[k], (2, 6)) for k in ('cls', 'dist')] + patches, 1) + own['pos_embed']
  layer_norm = lambda x, p: (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * p['scale'] + p['bias']  # noqa: E731
  tokens = layer_norm(tokens, own['norm'])
  close(features.tokens, tokens)
  close(features.maps[0], tokens[:, 2:].reshape(2, 3, 3, 6))
  pooled = tokens[:, :2].mean(1)
  close(features.pooled, pooled)
  head = own['classifier']
  close(features.aux['logits'], layer_norm(pooled, head['norm']) @ head['dense']['kernel'] + head['dense']['bias'], rtol=1e-4)


@pytest.mark.parametrize('module', [_pairs, relative_buckets, whisper])
def test_examples(module):
  failed, tried = doctest.testmod(module)
  assert tried and not failed


ERRORS = [
  (lambda: encoders.T5(buckets=5), 'T5 has buckets=5 and max_distance=128; allowed is an even number'),
  (lambda: encoders.T5(head='lm'), "T5 has head='lm'; allowed are None, 'tied', 'untied'"),
  (lambda: encoders.Whisper(decoder_heads=3), 'width=512, which is not a multiple of decoder_heads=3'),
  (lambda: encoders.AST(stride=(1, 2, 3)), r'AST has stride=\(1, 2, 3\)'),
  (lambda: run('t5', TOKENS), r"reads a pair \(inputs, targets\).*got a .* of shape \[2, 5\].*the method encode"),
  (lambda: run('t5', {'inputs': TOKENS, 'target': TARGETS}), "reads a pair .* but got a dict with 'inputs', 'target'"),
  (lambda: run('t5', (TOKENS, TARGETS[0])), r'targets \[B, L\], but they have shape \[4\]'),
  (lambda: MODELS['t5'].apply(variables('t5'), (TOKENS, TARGETS), ctx=Ctx(segment_ids=TOKENS)), 'packed differently'),
  (lambda: run('whisper', (INPUTS['whisper'].repeat(2, 1), TARGETS)), r'\[B, T, 3\] with T <= 10, but .* \[2, 18, 3\]'),
  (lambda: run('whisper', (INPUTS['whisper'], TARGETS.repeat(2, 1))), 'max_length=7, but the input has 8'),
  (lambda: encoders.AST(mels=3, frames=9, patch=2, width=6, heads=2).init(jax.random.key(0), INPUTS['whisper'][:, :8]),
   r'\[B, 9, 3\], but the input has shape \[2, 8, 3\]'),
]


@pytest.mark.parametrize('act, text', ERRORS)
def test_errors_name_field_value_and_what_is_allowed(act, text):
  with pytest.raises(ValueError, match=text):
    act()
