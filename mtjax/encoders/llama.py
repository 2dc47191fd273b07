"""Llama and its kin (Mistral, SmolLM): a causal transformer with rotary positions, grouped keys and gated MLPs.

Touvron et al., "LLaMA: Open and Efficient Foundation Language Models", 2023, https://arxiv.org/abs/2302.13971;
Jiang et al., "Mistral 7B", 2023, https://arxiv.org/abs/2310.06825 (the window); grouped keys:
https://arxiv.org/abs/2305.13245; the gate: Shazeer, "GLU Variants Improve Transformer", https://arxiv.org/abs/2002.05202.

    x <- x + attn(norm1(x));   x <- x + fc2(silu(gate(y)) * fc1(y)), y = norm2(x);   tokens = norm(x)
    norm(x) = scale * x / sqrt(mean(x^2) + eps)

Queries and keys are turned by their positions (`mtjax.encoders.rope`). No biases. No dropout in the papers;
`dropout_rate` is on the embedding and on the residual branches.
"""
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders._text import count_positions, pool, read_text, vocabulary_logits
from mtjax.encoders.cache import Cache, init_cache, loud
from mtjax.encoders.embed import Embed
from mtjax.encoders.layers import ACTIVATIONS, Attention, GatedMlp, drop_keys, rms_norm
from mtjax.encoders.rope import Rope
from mtjax.encoders.stack import check_remat, run_blocks

INIT = nn.initializers.normal(0.02)


class LlamaBlock(nn.Module):
  """One layer.  x [B, L, D] -> [B, L, D] in `dtype`; with a cache, the pair of that and the cache.

  Parameters: norm1/scale, attn/{query,key,value,out}, norm2/scale, mlp/{gate,fc1,fc2}. Fields as `Llama`'s.
  """
  heads: int
  kv_heads: int
  head_dim: int
  hidden: int
  rope: Rope
  window: int | None = None
  use_bias: bool = False
  mlp_bias: bool = False
  activation: str = 'silu'
  norm_eps: float = 1e-5
  dropout_rate: float = 0.0
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, segments: jax.Array | None = None,
               positions: jax.Array | None = None, cache: Cache | None = None, ctx: Ctx | None = None,
               train: bool = False, key: jax.Array | None = None):
    keys = drop_keys(key, 2)
    attention = Attention(self.heads, self.kv_heads, self.head_dim, self.use_bias, True, self.window, self.rope,
                          self.implementation, self.dtype, name='attn')
    y = attention(rms_norm(x, 'norm1', self.norm_eps), mask, segments=segments, positions=positions, cache=cache,
                  ctx=ctx, train=train)
    y, cache = (y, None) if cache is None else y
    x = x + nn.Dropout(self.dropout_rate)(y, deterministic=not train, rng=keys[0])
    mlp = GatedMlp(self.hidden, self.activation, self.mlp_bias, self.dtype, name='mlp')
    y = mlp(rms_norm(x, 'norm2', self.norm_eps), ctx=ctx, train=train)
    x = x + nn.Dropout(self.dropout_rate)(y, deterministic=not train, rng=keys[1])
    return x if cache is None else (x, cache)


class Llama(nn.Module):
  """tokens [B, L] int -> tokens [B, L, D], pooled [B, D], mask [B, L], aux['logits'] [B, L, V] with a head; float32.

  What is padding, and how to give positions: `mtjax.encoders._text`. Where padding is known, positions count the other
  tokens alone. An id outside the vocabulary gives NaN.
  Parameters: embed/embedding [V, D], block_i/{norm1, attn/{query,key,value,out}, norm2, mlp/{gate,fc1,fc2}}, norm,
  head/kernel [D, V] (with head='untied'); norms have a scale alone.

  Attributes:
    vocab_size: V.
    width: D.
    depth: number of blocks.
    heads: query heads.
    kv_heads: key heads, which divide the query heads; None = as many.
    head_dim: numbers a head; None = width / heads.
    hidden: width inside a block's MLP; None means 4 * width.
    head: None, 'tied' or 'untied'.
    pool: 'last' or 'mean' over the tokens that are not padding.
    rope_theta: base of the rotation's wave lengths.
    rope_scaling: dict(rope_type=…, …), see `mtjax.encoders.rope`; None = unscaled.
    window: how many tokens up to its own a token sees; None = all.
    use_bias: whether the attention has biases.
    mlp_bias: whether the MLPs have.
    activation: of the gate.
    norm_eps: added to the mean square.
    pad_id: the token that is padding, where nothing else says what is; None = none is.
    dropout_rate: in training.
    remat: False, True or a name of `stack.POLICIES`: what is computed again in the backward pass.
    scan: whether the blocks are compiled once, as a scan (`mtjax.encoders.stack`); decoding is always a loop.
    implementation: of the attention.
    dtype: of the matrix products and of the residual stream.
  """
  vocab_size: int = 49152
  width: int = 576
  depth: int = 30
  heads: int = 9
  kv_heads: int | None = None
  head_dim: int | None = None
  hidden: int | None = None
  head: str | None = 'tied'
  pool: str = 'last'
  rope_theta: float = 10000.0
  rope_scaling: Mapping[str, Any] | None = None
  window: int | None = None
  use_bias: bool = False
  mlp_bias: bool = False
  activation: str = 'silu'
  norm_eps: float = 1e-5
  pad_id: int | None = None
  dropout_rate: float = 0.0
  remat: bool | str = False
  scan: bool = False
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    optional = [name for name in ('kv_heads', 'head_dim', 'hidden', 'window') if getattr(self, name) is not None]
    _checks.sizes(self, 'vocab_size', 'width', 'depth', 'heads', *optional)
    if self.kv_heads is not None:
      _checks.divides(self, 'kv_heads', of='heads')
    if self.head_dim is None:
      _checks.divides(self, 'heads', of='width')
    _checks.choice(self, 'head', (None, 'tied', 'untied'))
    _checks.choice(self, 'pool', ('last', 'mean'))
    _checks.choice(self, 'activation', list(ACTIVATIONS))
    _checks.rate(self)
    check_remat(self)
    Rope.make(self.rope_theta, self.rope_scaling)
    if self.rope_scaling is not None:
      object.__setattr__(self, 'rope_scaling', FrozenDict(self.rope_scaling))  # a module is hashable

  def __call__(self, inputs: Any, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    return self._run(inputs, ctx, train)[0]

  def decode(self, tokens: jax.Array, cache: tuple[Cache, ...], *, mask: jax.Array | None = None,
             ctx: Ctx | None = None) -> tuple[Features, tuple[Cache, ...]]:
    """Goes on from `cache` with tokens [B, L]: a prompt, or one token a row.

    Args:
      tokens: [B, L] int.
      cache: of `init_cache`, or of the call before.
      mask: [B, L] bool, the tokens that are not padding, on either side; None = all. What stands at padding in the
        result has no meaning.

    Returns:
      (the features of these tokens, equal to those of one call with all of them; the cache with these tokens). A row
      with more tokens than the cache holds is NaN.
    """
    return self._run({'tokens': tokens} if mask is None else {'tokens': tokens, 'mask': mask}, ctx, False, cache)

  def init_cache(self, batch_size: int, length: int, dtype: DTypeLike | None = None) -> tuple[Cache, ...]:
    """An empty cache for `length` tokens a row; dtype None = that of the module."""
    size = self.head_dim or self.width // self.heads
    return init_cache(self.depth, (batch_size, length, self.kv_heads or self.heads, size), dtype or self.dtype)

  @nn.compact
  def _run(self, inputs, ctx, train, cache=None):
    text = read_text(self, inputs, ctx, ('tokens', 'mask', 'positions'))
    mask, positions = text.mask, text.positions
    if positions is None and mask is not None:
      positions = count_positions(mask)
    embed = Embed(self.vocab_size, self.width, dtype=self.dtype, embedding_init=INIT, name='embed')
    x = nn.Dropout(self.dropout_rate)(embed(text.tokens), deterministic=not train)
    rope = Rope.make(self.rope_theta, self.rope_scaling)
    blocks = [LlamaBlock(self.heads, self.kv_heads or self.heads, self.head_dim or self.width // self.heads,
                         self.hidden or 4 * self.width, rope, self.window, self.use_bias, self.mlp_bias,
                         self.activation, self.norm_eps, self.dropout_rate, self.implementation, self.dtype,
                         name=f'block_{i}') for i in range(self.depth)]
    if cache is None:
      x = run_blocks(self, blocks, x, mask, segments=text.segments, positions=positions, ctx=ctx, train=train)
    else:
      new = []
      for block, own in zip(blocks, cache):
        x, own = block(x, mask, cache=own, ctx=ctx)
        new.append(own)
      cache, x = tuple(new), loud(x, new[0])
    x = rms_norm(x, 'norm', self.norm_eps)
    aux = {}
    if self.head == 'tied':
      aux['logits'] = vocabulary_logits(x.astype(self.dtype), embed.embedding)
    elif self.head == 'untied':
      dense = nn.Dense(self.vocab_size, use_bias=False, dtype=self.dtype, kernel_init=INIT, name='head')
      aux['logits'] = dense(x).astype(jnp.float32)
    pooled = pool(x, mask, self.pool)
    mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
    return Features(x, pooled, mask=mask, aux=aux), cache
