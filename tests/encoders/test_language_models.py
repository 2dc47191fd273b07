"""BERT, GPT-2 and Llama: names, numpy references, padding, packing, cached decoding, and options that change nothing."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders, tree
from mtjax.context import Ctx

SMALL = dict(vocab_size=30, width=8, depth=2, heads=4, hidden=12)
MODELS = {
  'bert': encoders.BERT(max_length=16, head='mlm', **SMALL),
  'gpt2': encoders.GPT2(max_length=16, **SMALL),
  'llama': encoders.Llama(kv_heads=2, window=4, head='untied', **SMALL),
}
DECODERS = ('gpt2', 'llama')
TOKENS = np.random.default_rng(0).integers(1, 30, (2, 6)).astype(np.int32)
MASK = np.array([[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0]], bool)
# The same sums in another order, on numbers of order one.
close = functools.partial(np.testing.assert_allclose, atol=2e-5)


@functools.cache
def variables(name):
  rng = np.random.default_rng(1)
  shapes = jax.eval_shape(MODELS[name].init, jax.random.key(0), TOKENS)
  return jax.tree.map(lambda x: rng.normal(scale=0.4, size=x.shape).astype(x.dtype), shapes)


@functools.cache
def compiled(module):
  return jax.jit(lambda variables, inputs, ctx: module.apply(variables, inputs, ctx=ctx))


def run(name, inputs, ctx=None):
  return jax.device_get(compiled(MODELS[name])(variables(name), inputs, ctx))


BIASED = {f'{part}/{leaf}' for part in ('norm1', 'norm2') for leaf in ('scale', 'bias')} | {
  f'{part}/{leaf}' for part in ('attn/query', 'attn/key', 'attn/value', 'attn/out', 'mlp/fc1', 'mlp/fc2')
  for leaf in ('kernel', 'bias')}
BLOCK = {
  'bert': BIASED, 'gpt2': BIASED,
  'llama': {'norm1/scale', 'norm2/scale', *(f'attn/{part}/kernel' for part in ('query', 'key', 'value', 'out')),
            *(f'mlp/{part}/kernel' for part in ('gate', 'fc1', 'fc2'))},
}
REST = {
  'bert': {'embed/embedding', 'pos_embed', 'type_embed', 'embed_norm/scale', 'embed_norm/bias', 'pooler/kernel',
           'pooler/bias', 'mlm/dense/kernel', 'mlm/dense/bias', 'mlm/norm/scale', 'mlm/norm/bias', 'mlm/bias'},
  'gpt2': {'embed/embedding', 'pos_embed', 'norm/scale', 'norm/bias'},
  'llama': {'embed/embedding', 'norm/scale', 'head/kernel'},
}


@pytest.mark.parametrize('scan', [False, True])
@pytest.mark.parametrize('name', MODELS)
def test_names_of_the_parameters(name, scan):
  shapes = jax.eval_shape(MODELS[name].clone(scan=scan).init, jax.random.key(0), TOKENS)
  names = {f'block_{i}/{leaf}' for i in range(2) for leaf in BLOCK[name]} | REST[name]
  assert set(tree.flatten(shapes['params'])) == names
  assert shapes['params']['block_0']['attn']['key']['kernel'].shape == (8, 2 if name == 'llama' else 4, 2)


def norm(x, p, eps):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps) * p['scale'] + p['bias']


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def linear(x, p, spec='...d,df->...f'):
  return np.einsum(spec, x, p['kernel']) + p.get('bias', 0)


def test_bert_equals_numpy():
  from scipy.special import erf
  p, (x, mask) = variables('bert')['params'], (TOKENS, MASK)
  types = np.array([[0, 0, 1, 1, 1, 1]] * 2)
  gelu = lambda x: x * (1 + erf(x / np.sqrt(2))) / 2  # noqa: E731
  h = norm(p['embed']['embedding'][x] + p['pos_embed'][:6] + p['type_embed'][types], p['embed_norm'], 1e-12)
  for i in range(2):
    b = p[f'block_{i}']
    q, k, v = (linear(h, b['attn'][part], 'bld,dhk->blhk') for part in ('query', 'key', 'value'))
    scores = np.where(mask[:, None, None], np.einsum('blhk,bmhk->bhlm', q, k) / np.sqrt(2), -np.inf)
    mixed = np.einsum('bhlm,bmhk->blhk', softmax(scores), v)
    h = norm(h + linear(mixed, b['attn']['out'], 'blhk,hkd->bld'), b['norm1'], 1e-12)
    h = norm(h + linear(gelu(linear(h, b['mlp']['fc1'])), b['mlp']['fc2']), b['norm2'], 1e-12)
  y = norm(gelu(linear(h, p['mlm']['dense'])), p['mlm']['norm'], 1e-12)
  features = run('bert', {'tokens': x, 'mask': mask, 'token_types': types})
  close(features.tokens, h)
  close(features.pooled, np.tanh(linear(h[:, 0], p['pooler'])))
  close(features.aux['logits'], y @ p['embed']['embedding'].T + p['mlm']['bias'])


def test_llama_equals_numpy():
  p = variables('llama')['params']
  norm = lambda x, p: x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * p['scale']  # noqa: E731
  turn = np.exp(1j * np.arange(6))[None, :, None]  # heads of two numbers: one frequency, 1

  def rotate(x):
    z = (x[..., 0] + 1j * x[..., 1]) * turn
    return np.stack([z.real, z.imag], -1)

  index = np.arange(6)
  seen = (index[:, None] >= index) & (index[:, None] - index < 4)
  h = p['embed']['embedding'][TOKENS]
  for i in range(2):
    b = p[f'block_{i}']
    y = norm(h, b['norm1'])
    q, k, v = (linear(y, b['attn'][part], 'bld,dhk->blhk') for part in ('query', 'key', 'value'))
    k, v = (np.repeat(x, 2, axis=2) for x in (rotate(k), v))
    scores = np.where(seen, np.einsum('blhk,bmhk->bhlm', rotate(q), k) / np.sqrt(2), -np.inf)
    mixed = np.einsum('bhlm,bmhk->blhk', softmax(scores), v)
    h = h + linear(mixed, b['attn']['out'], 'blhk,hkd->bld')
    y = norm(h, b['norm2'])
    gate = linear(y, b['mlp']['gate'])
    h = h + linear(gate / (1 + np.exp(-gate)) * linear(y, b['mlp']['fc1']), b['mlp']['fc2'])
  features = run('llama', TOKENS)
  close(features.tokens, norm(h, p['norm']), rtol=1e-4)
  close(features.aux['logits'], linear(norm(h, p['norm']), p['head']), rtol=1e-4)
  close(features.pooled, features.tokens[:, -1])


@pytest.mark.parametrize('name', MODELS)
def test_ways_to_say_what_is_padding_agree_and_padding_changes_nothing(name):
  short = run(name, {'tokens': TOKENS[1:, :3], 'mask': MASK[1:, :3]})
  by_input = run(name, {'tokens': TOKENS, 'mask': MASK})
  by_mask = run(name, TOKENS, Ctx(mask=MASK))
  by_segments = run(name, TOKENS, Ctx(segment_ids=MASK.astype(np.int32)))
  for features in (by_input, by_mask, by_segments):
    close(features.tokens[1:, :3], short.tokens)
    close(features.pooled[1:], short.pooled)
    np.testing.assert_array_equal(features.mask, MASK)
  assert run(name, TOKENS).mask.all()


def test_bert_takes_its_pad_id_as_padding_and_a_mask_overrules_it():
  padded = np.where(MASK, TOKENS, 0)
  close(run('bert', padded).pooled, run('bert', {'tokens': padded, 'mask': MASK}).pooled)
  everything = run('bert', {'tokens': padded, 'mask': np.ones_like(MASK)})
  assert np.abs(everything.pooled - run('bert', padded).pooled)[1].max() > 1e-3


@pytest.mark.parametrize('name', MODELS)
def test_packed_rows_give_what_the_rows_give_alone(name):
  packed = np.concatenate([TOKENS[:1, :4], TOKENS[1:, :2]], axis=1)
  features = run(name, packed, Ctx(segment_ids=np.array([[1, 1, 1, 1, 2, 2]])))
  alone = run(name, {'tokens': np.pad(TOKENS[1:, :2], [(0, 0), (0, 4)]), 'mask': np.arange(6)[None] < 2})
  close(features.tokens[:, 4:], alone.tokens[:, :2])
  first = run(name, {'tokens': packed, 'mask': np.arange(6)[None] < 4})
  close(features.tokens[:, :4], first.tokens[:, :4])


@pytest.mark.parametrize('name', DECODERS)
def test_future_tokens_and_left_padding_change_nothing(name):
  changed = TOKENS.copy()
  changed[:, 4:] = 1
  close(run(name, changed).tokens[:, :4], run(name, TOKENS).tokens[:, :4])
  left = np.roll(TOKENS, 3, axis=1)  # row 1 padded on the left: 0 0 0 a b c
  features = run(name, {'tokens': left, 'mask': MASK[:, ::-1]})
  close(features.tokens[1, 3:], run(name, {'tokens': TOKENS, 'mask': MASK}).tokens[1, :3])
  close(features.pooled[1], features.tokens[1, 5])


@pytest.mark.parametrize('side', ['left', 'right'])
@pytest.mark.parametrize('name', DECODERS)
def test_cached_decoding_is_one_call_with_all_tokens(name, side):
  module, params = MODELS[name], variables(name)
  decode = jax.jit(lambda tokens, cache, mask: module.apply(params, tokens, cache, mask=mask, method='decode'))
  texts = [TOKENS[0], TOKENS[1, :5]]  # prompts of 3 and 2 tokens, then 3 more each
  prompts = np.zeros((2, 3), np.int32)
  mask = np.array([[1, 1, 1], [0, 1, 1] if side == 'left' else [1, 1, 0]], bool)
  prompts[mask] = [*texts[0][:3], *texts[1][:2]]
  features, cache = decode(prompts, module.init_cache(2, 7), mask)
  whole = [run(name, {'tokens': np.pad(t[None], [(0, 0), (0, 6 - len(t))]), 'mask': np.arange(6)[None] < len(t)})
           for t in texts]
  close(features.tokens[0], whole[0].tokens[0, :3])
  close(np.asarray(features.tokens)[1][mask[1]], whole[1].tokens[0, :2])
  for step in range(3):
    tokens = np.array([[texts[0][3 + step]], [texts[1][2 + step]]])
    features, cache = decode(tokens, cache, None)
    for row, start in enumerate((3, 2)):
      close(features.aux['logits'][row, 0], whole[row].aux['logits'][0, start + step], rtol=1e-4)
  np.testing.assert_array_equal(cache[0].length, [6, 5])
  # Row 0 has room for one token more, row 1 for two.
  full, cache = decode(np.ones((2, 1), np.int32), cache, None)
  over, _ = decode(np.ones((2, 1), np.int32), cache, None)
  assert np.isfinite(full.tokens).all() and np.isnan(over.tokens[0]).all() and np.isfinite(over.tokens[1]).all()


@pytest.mark.parametrize('name, variants', [
  ('bert', [dict(scan=True, remat=True)]), ('gpt2', [dict(scan=True, remat='dots')]),
  ('llama', [dict(scan=True), dict(remat=True)]),
])
def test_scan_and_remat_change_neither_values_nor_gradients(name, variants):
  params = variables(name)

  def trained(**options):
    module = MODELS[name].clone(dropout_rate=0.3, **options)

    def loss(params):
      features = module.apply(params, {'tokens': TOKENS, 'mask': MASK}, train=True, rngs={'dropout': jax.random.key(3)})
      return jnp.sum(jnp.sin(features.aux['logits'])), features.pooled

    step = jax.value_and_grad(loss, has_aux=True)
    return jax.jit(step)(params), str(jax.make_jaxpr(step)(params))

  plain, text = trained()
  assert 'remat' not in text
  for options in variants:
    other, text = trained(**options)
    jax.tree.map(lambda a, b: close(a, b, rtol=1e-3), other, plain)  # sums of hundreds of sines
    assert ('remat' in text) == ('remat' in options) and ('scan[' in text) == ('scan' in options)


@pytest.mark.parametrize('name', MODELS)
def test_bfloat16_is_close_to_float32(name):
  module = MODELS[name].clone(dtype=jnp.bfloat16, scan=True)
  rough = jax.jit(module.apply)(variables(name), TOKENS)
  exact = run(name, TOKENS)
  assert {x.dtype for x in (rough.tokens, rough.pooled, rough.aux['logits'])} == {jnp.dtype('float32')}
  scale = np.abs(exact.tokens).max()
  assert 1e-5 * scale < np.abs(rough.tokens - exact.tokens).max() < 0.1 * scale  # bfloat16 keeps 8 bits


def test_an_id_outside_the_vocabulary_is_loud():
  assert all(np.isnan(run(name, np.full((2, 6), 30, np.int32)).tokens).all() for name in MODELS)


ERRORS = [
  (lambda: encoders.BERT(head='lm'), "BERT has head='lm'; allowed are None, 'mlm', 'classifier'"),
  (lambda: encoders.Llama(**{**SMALL, 'kv_heads': 3}), 'heads=4, which is not a multiple of kv_heads=3'),
  (lambda: encoders.GPT2(remat='all'), "remat='all'; allowed are False, True .full., 'none', 'full', 'dots'"),
  (lambda: encoders.Llama(rope_scaling=dict(rope_type='yarn')), "rope_type='yarn'"),
  (lambda: run('bert', {'token': TOKENS}), "'BERT inputs.token'. Did you mean 'tokens'"),
  (lambda: run('gpt2', {'tokens': TOKENS, 'mask': MASK[:, :2]}), r'GPT2 reads mask \[B, L\] = \[2, 6\].*got \[2, 2\]'),
  (lambda: run('gpt2', np.ones((1, 17), np.int32)), 'GPT2 has max_length=16, but the input has 17'),
]


@pytest.mark.parametrize('act, text', ERRORS)
def test_errors_name_field_value_and_what_is_allowed(act, text):
  with pytest.raises(ValueError, match=text):
    act()
