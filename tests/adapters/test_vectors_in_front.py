"""Prefixes and prompts: against attention worked out by hand, against real tokens, in causal and image encoders."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table
from optim.calls import quick_jit

from mtjax import adapters
from mtjax.adapters import Bank
from mtjax.context import Ctx
from mtjax.encoders import BERT, GPT2, Llama, ViT
from mtjax.encoders.layers import Attention

RNG, SHARED = np.random.default_rng(0), Bank()


def started(encoder, rule, x, bank=SHARED):
  """(base, spec, busy state)."""
  base = table.base_params(encoder, x)
  spec = adapters.Spec([{**rule, 'bank': bank}])
  return base, spec, table.busy(adapters.init_adapters(jax.random.key(0), encoder, base, spec, x))


def test_prefix_is_a_gated_sum():
  attention, x = Attention(2), RNG.standard_normal((2, 3, 4)).astype(np.float32)
  mask = np.array([[True, True, False], [True, True, True]])
  base = table.base_params(attention, x)
  spec = adapters.Spec([dict(site='kv', match='^$', method=dict(name='prefix', length=2))])
  state = table.busy(adapters.init_adapters(jax.random.key(0), attention, base, spec, x))
  own = state['adapters']['@prefix']
  found = adapters.bind(attention, spec)(base, state, x, mask)[0]
  project = lambda name: np.einsum('bld,dhk->bhlk', x, base[name]['kernel']) + base[name]['bias'][None, :, None]
  with jax.numpy_rank_promotion('allow'):
    q, k, v = map(project, ('query', 'key', 'value'))
    kp, vp = (np.moveaxis(np.asarray(own[name]), 1, 0)[None] for name in ('keys', 'values'))  # [1, H, P, K]
    real = np.where(mask[:, None, None], np.exp(q @ np.swapaxes(k, -1, -2) / 2**0.5), 0)
    extra = np.exp(q @ np.swapaxes(kp, -1, -2) / 2**0.5)
    share = extra.sum(-1, keepdims=True) / (extra.sum(-1, keepdims=True) + real.sum(-1, keepdims=True))
    mixed = ((1 - share) * (real @ v) / real.sum(-1, keepdims=True)
             + share * (extra @ vp) / extra.sum(-1, keepdims=True))
    wanted = np.einsum('bhlk,hkd->bld', mixed, base['out']['kernel']) + base['out']['bias']
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)  # float32


@pytest.mark.parametrize('encoder', [GPT2(vocab_size=16, width=8, depth=1, heads=2, max_length=8, hidden=8, head=None),
                                     Llama(vocab_size=16, width=8, depth=1, heads=2, kv_heads=1, hidden=8, window=2, head=None)],
                         ids=['gpt2', 'llama'])
def test_causal_encoders_stay_causal_behind_a_prefix(encoder):
  x = np.array([[1, 2, 3, 4]], np.int32)
  base, spec, state = started(encoder, dict(site='kv', match=r'attn$', method=dict(name='prefix', length=2)), x)
  run = quick_jit(lambda state, x: adapters.bind(encoder, spec)(base, state, x)[0].tokens)
  tokens = run(state, x)
  assert not np.allclose(tokens[0, 0], encoder.apply({'params': base}, x).tokens[0, 0], atol=1e-3)
  changed = run(state, np.array([[1, 2, 3, 9]], np.int32))
  np.testing.assert_array_equal(tokens[0, :3], changed[0, :3])


def test_prompts_copied_from_tokens_are_those_tokens():
  encoder = BERT(vocab_size=20, width=8, depth=2, heads=2, hidden=16, max_length=8, pad_id=None)
  whole = np.array([[5, 6, 7, 8, 9]], np.int32)
  rest = dict(tokens=whole[:, 2:], positions=np.array([[2, 3, 4]]))
  base, spec, state = started(encoder, dict(site='tokens', match=r'block_\d+$', method=dict(name='prompt', length=2)), rest)
  embedded = encoder.apply({'params': base}, whole, capture_intermediates=lambda module, _: module.name == 'embed_norm',
                           mutable=['intermediates'])[1]['intermediates']['embed_norm']['__call__'][0]
  assert jax.tree.map(jnp.shape, state['adapters']) == {'block_0': {'@prompt': {'tokens': (2, 8)}}}
  state = {**state, 'adapters': {'block_0': {'@prompt': {'tokens': embedded[0, :2]}}}}
  found = adapters.bind(encoder, spec)(base, state, rest)[0].tokens
  np.testing.assert_allclose(found, encoder.apply({'params': base}, whole).tokens[:, 2:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('deep', [False, True])
def test_prompts_behind_the_class_token_of_an_image(deep):
  encoder, x = ViT(patch=4, width=8, depth=2, heads=2, hidden=8), RNG.random((2, 8, 8, 1)).astype(np.float32)
  rule = dict(site='tokens', match=r'block_\d+$', method=dict(name='prompt', length=3, at=1, deep=deep))
  base, spec, state = started(encoder, rule, x, Bank(tasks=2))
  lengths = []

  def note(next_fn, args, kwargs, context):
    if context.module.name == 'attn' and context.method_name == '__call__':
      lengths.append(args[0].shape[1])
    return next_fn(*args, **kwargs)

  with nn.intercept_methods(note):
    features = adapters.bind(encoder, spec)(base, state, x, ctx=Ctx(task_id=jnp.array([0, 1])))[0]
  assert lengths == [1 + 3 + 4] * 2 and features.tokens.shape == (2, 5, 8) and features.maps[0].shape == (2, 2, 2, 8)
  blocks = ('block_0', 'block_1') if deep else ('block_0',)
  assert set(state['adapters']) == set(blocks)


def test_what_prompts_cannot_do_is_said():
  x = np.array([[1, 2, 3]], np.int32)
  encoder = GPT2(vocab_size=16, width=8, depth=2, heads=2, max_length=8, hidden=8, head=None)
  base, spec, state = started(encoder, dict(site='tokens', match=r'block_\d+$', method=dict(name='prompt', length=2)), x)
  with pytest.raises(ValueError, match='packed rows'):
    adapters.bind(encoder, spec)(base, state, x, ctx=Ctx(segment_ids=jnp.array([[1, 1, 2]])))


def test_decoding_by_a_cache_goes_through_the_adapters():
  encoder = GPT2(vocab_size=16, width=8, depth=1, heads=2, max_length=8, hidden=8)
  x = np.array([[1, 2, 3]], np.int32)
  base, spec, state = started(encoder, dict(site='kv', match=r'attn$', method=dict(name='prefix', length=2)), x, Bank(tasks=2))
  forward, ctx = adapters.bind(encoder, spec), Ctx(task_id=jnp.array([1]))
  whole = forward(base, state, x, ctx=ctx)[0].aux['logits']
  cache, steps = encoder.init_cache(1, 4), []
  for token in x.T:
    (features, cache), _ = forward(base, state, token[None], cache, ctx=ctx, method='decode')
    steps.append(features.aux['logits'][:, 0])
  np.testing.assert_allclose(jnp.stack(steps, 1), whole, rtol=1e-5, atol=1e-5)  # float32
