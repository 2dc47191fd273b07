"""Greedy decoding with a cache and without: tokens a second of `mtjax.decoding.generate` over those of its absence.

Without a cache, each token costs a call with all tokens so far (padded to the final length, so that one program serves
all of them); an encoder-decoder reads its inputs once in both. Both are one compiled loop over the new tokens.
"""
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks._encoders import clocks
from experiments.benchmarks._encoders.families import text
from mtjax import decoding, encoders

SIZES = dict(vocab_size=4096, width=384, heads=6)
ROWS, PROMPT = 4, 32


def models(new: int, **how: Any) -> dict[str, nn.Module]:
  """{name: a small model that has room for PROMPT + new tokens}."""
  return {'gpt2': encoders.GPT2(depth=4, max_length=PROMPT + new, **SIZES, **how),
          'llama': encoders.Llama(depth=4, kv_heads=2, hidden=1024, **SIZES, **how),
          't5': encoders.T5(depth=2, **SIZES, **how)}


def uncached(model: nn.Module, params: Any, prompts: jax.Array, new: int) -> jax.Array:
  """[B, new] int32: greedy tokens, each from a call with all before it."""
  rows, variables = len(prompts), {'params': params}
  if isinstance(model, encoders.T5):
    start, memory = 1, model.apply(variables, prompts, method='encode')
    known = jnp.full((rows, 1), model.start_id)
  else:
    start, memory, known = prompts.shape[1], None, prompts
  tokens = jnp.zeros((rows, start + new), jnp.int32).at[:, :start].set(known)

  def logits(tokens):
    if memory is None:
      return model.apply(variables, tokens).aux['logits']
    return model.apply(variables, tokens, memory, method=_decoder_logits)

  def step(i, tokens):
    now = jax.lax.dynamic_index_in_dim(logits(tokens), start + i - 1, 1, keepdims=False)
    return tokens.at[:, start + i].set(jnp.argmax(now, axis=-1).astype(jnp.int32))

  return jax.lax.fori_loop(0, new, step, tokens)[:, start:]


def _decoder_logits(t5, tokens, memory):
  x = t5.decoder(t5.embed(tokens), memory=memory.tokens.astype(t5.dtype), memory_mask=memory.mask)
  return t5._features(x, None, None, {}).aux['logits']


def measure(name: str, rounds: int, repeats: int, new: int = 96, **how: Any) -> dict[str, Any]:
  """Tokens a second with and without a cache, how many times as many, and the share of equal tokens."""
  model, prompts = models(new, **how)[name], jnp.asarray(text(ROWS, PROMPT))
  example = (prompts, prompts) if name == 't5' else prompts
  params = jax.jit(lambda: model.init(jax.random.key(0), example)['params'])()
  without = jax.jit(functools.partial(uncached, model, new=new)).lower(params, prompts).compile()
  runs = {'cache': lambda: decoding.generate(model, params, prompts, max_new_tokens=new).tokens,
          'no cache': lambda: without(params, prompts)}
  found = {key: np.asarray(run()) for key, run in runs.items()}
  calls = {key: lambda run=run: jax.block_until_ready(run()) for key, run in runs.items()}
  times = clocks.alternate(calls, rounds, repeats)
  result = clocks.ratio(times, 'no cache', 'cache')
  return {'tokens_per_second': 1e3 * ROWS * new / result['base_ms'],
          'tokens_per_second_without': 1e3 * ROWS * new / result['ms'],
          'times_faster': result['ratio'], 'range': result['range'],
          **{key: result[key] for key in ('ratio_cpu_clock', 'range_cpu_clock') if key in result},
          'equal_tokens': float(np.mean(found['cache'] == found['no cache'])), 'new_tokens': new, 'rows': ROWS,
          'prompt': PROMPT}
