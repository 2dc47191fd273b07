"""Scaled dot-product attention: one function, whatever the mask and whoever computes it.

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, equation 1, https://arxiv.org/abs/1706.03762; grouped keys:
Ainslie et al., "GQA", EMNLP 2023, https://arxiv.org/abs/2305.13245.

    out_l = sum_s softmax_s(scale q_l . k_s + bias_ls) v_s      over the keys s that l sees (`mtjax.encoders.masks`)

q: [B, L, H, D]. k, v: [B, S, G, D], H = G R: key head g serves the query heads g R … g R + R - 1. The softmax is
float32 whatever the inputs are.
"""
import jax
import jax.numpy as jnp

from mtjax.config import did_you_mean
from mtjax.encoders.chunked_attention import UNSEEN, chunked_attention
from mtjax.encoders.masks import Seen, check_bias
from mtjax.encoders.masks import seen as seen_keys
from mtjax.encoders.stack import name_attention_out

IMPLEMENTATIONS = ('auto', 'xla', 'chunked', 'cudnn')
LONG = 1024  # queries and keys from which chunks are faster on a CPU, too


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None, *,
           bias: jax.Array | None = None, causal: bool = False, window: int | None = None,
           prefix: jax.Array | None = None, segments: jax.Array | tuple[jax.Array, jax.Array] | None = None,
           positions: jax.Array | None = None, scale: float | None = None, implementation: str = 'auto',
           chunk: int = 128, extra: tuple[jax.Array, jax.Array] | None = None) -> jax.Array:
  """Attention of `query` [B, L, H, D] over `key` and `value` [B, S, G, D].

  Args:
    mask: bool, which keys are seen: [B, S] (padding), or what broadcasts to [B, H, L, S].
    bias: added to the scaled scores; broadcasts to [B, H, L, S]. Differentiable.
    causal: a query sees the keys up to its own position.
    window: with `causal`, only the last so many of these.
    prefix: with `causal`, [B] int: the first so many keys are seen by all queries (prefix language models).
    segments: [B, L] int, or a pair ([B, L], [B, S]): only keys of the query's own segment are seen (packed rows).
    positions: [B, L] int, where the queries stand among the keys; by default query l at key l. Needed with `causal`
      where L differs from S, as with a cache.
    scale: of the products; None = D^-0.5.
    implementation: 'xla' holds all scores; 'chunked' those of `chunk` keys at a time, gradients included; 'cudnn' is
      the fused kernel of NVIDIA GPUs (float16 or bfloat16); 'auto' = cudnn where it can, chunked from 1024 queries and
      keys on, else xla. Of the three only xla has forward-mode derivatives.
    chunk: keys a chunk.
    extra: keys and values [B, P, G, D] besides, which every query sees, and which have no position and no bias.

  Returns:
    [B, L, H, D] in the dtype of `value`. Where a query sees no key, it sees all alike: finite, of no meaning.
  """
  shape = _check(query, key, value, implementation, chunk)
  seen = seen_keys(shape, mask=mask, segments=segments, positions=positions, prefix=prefix, causal=causal,
                   window=window)
  bias = None if bias is None else check_bias(bias, shape)
  if extra is not None:
    key, value, seen, bias = _in_front(extra, key, value, seen, bias)
    shape = (*shape[:3], key.shape[1])
  scale = query.shape[-1] ** -0.5 if scale is None else scale
  if implementation == 'auto':
    fused = jax.default_backend() == 'gpu' and not _unfit_for_cudnn(query)
    implementation = 'cudnn' if fused else 'chunked' if min(shape[2:]) >= LONG else 'xla'
  if implementation == 'cudnn':
    return name_attention_out(_cudnn(query, key, value, bias, seen, scale, positions is None))
  if implementation == 'chunked':
    return chunked_attention(query, key, value, bias, seen, float(scale), chunk)
  return name_attention_out(_xla(query, key, value, bias, seen, scale))


def _in_front(extra, key, value, seen, bias):
  """Keys, values, what is seen of them, and biases, with `extra` in front."""
  k, v = extra
  if k.shape != v.shape or k.ndim != 4 or (k.shape[0], *k.shape[2:]) != (key.shape[0], *key.shape[2:]):
    raise ValueError(f'attend has extra keys and values of shapes {list(k.shape)} and {list(v.shape)}; allowed is '
                     f'[B, P, G, D] with [B, G, D] = {[key.shape[0], *key.shape[2:]]}, twice.')
  length, table = k.shape[1], seen.table()
  before = [(0, 0)] * 3 + [(length, 0)]
  mask = None if table is None else jnp.pad(table, before, constant_values=True)
  bias = None if bias is None else jnp.pad(bias, before)
  key, value = (jnp.concatenate([x.astype(y.dtype), y], axis=1) for x, y in ((k, key), (v, value)))
  return key, value, Seen(key.shape[1], mask), bias


def _xla(query, key, value, bias, seen, scale):
  rows, queries, heads, size = query.shape
  num_keys, groups = key.shape[1:3]
  query = (query * scale).reshape(rows, queries, groups, heads // groups, size)
  scores = jnp.einsum('blgrd,bsgd->bgrls', query, key, preferred_element_type=jnp.float32)
  scores = scores.reshape(rows, heads, queries, num_keys)
  if bias is not None:
    scores = scores + bias
  table = seen.table()
  if table is not None:
    scores = jnp.where(table, scores, UNSEEN)
  weights = jax.nn.softmax(scores).astype(value.dtype).reshape(rows, groups, heads // groups, queries, num_keys)
  return jnp.einsum('bgrls,bsgd->blgrd', weights, value).reshape(rows, queries, heads, size)


def _cudnn(query, key, value, bias, seen, scale, aligned):
  if jax.default_backend() != 'gpu':
    raise ValueError(f"attend has implementation='cudnn', which needs an NVIDIA GPU, but this process runs on "
                     f"{jax.default_backend()}; allowed here are 'auto', 'xla', 'chunked'.")
  unfit = _unfit_for_cudnn(query)
  if unfit:
    raise ValueError(f"attend has implementation='cudnn', but {unfit}; use 'auto', 'xla' or 'chunked'.")
  how = {}
  if seen.causal and aligned and seen.prefix is None:  # what the kernel knows by itself needs no table
    how['is_causal'] = True
    if seen.window is not None:
      how['local_window_size'] = (seen.window - 1, 0)
    seen = seen.replace(causal=False, window=None)
  bias = None if bias is None else bias.astype(query.dtype)
  return jax.nn.dot_product_attention(query, key, value, bias=bias, mask=seen.table(), scale=scale,
                                      implementation='cudnn', **how)


def _unfit_for_cudnn(query) -> str:
  """Why the kernel can't take these inputs; '' if it can."""
  if query.dtype not in (jnp.float16, jnp.bfloat16):
    return f'the inputs are {query.dtype}, not float16 or bfloat16'
  if query.shape[-1] % 8 or query.shape[-1] > 128:
    return f'heads have {query.shape[-1]} numbers, not a multiple of 8 up to 128'
  return ''


def _check(query, key, value, implementation, chunk) -> tuple[int, int, int, int]:
  if implementation not in IMPLEMENTATIONS:
    raise ValueError(f'attend has implementation={implementation!r}. {did_you_mean(implementation, IMPLEMENTATIONS)}')
  if isinstance(chunk, bool) or chunk < 1:
    raise ValueError(f'attend has chunk={chunk!r}; allowed is an integer >= 1.')
  shapes = [list(x.shape) for x in (query, key, value)]
  rows, queries, heads, size = query.shape if query.ndim == 4 else (None,) * 4
  fits = query.ndim == key.ndim == value.ndim == 4 and key.shape == value.shape
  if not fits or (key.shape[0], key.shape[3]) != (rows, size) or heads % key.shape[2]:
    raise ValueError(f'attend has query, key, value of shapes {shapes[0]}, {shapes[1]}, {shapes[2]}; allowed are '
                     f'[B, L, H, D], [B, S, G, D] and [B, S, G, D], with H a multiple of G.')
  return rows, heads, queries, key.shape[1]
