"""T5: an encoder-decoder that reads a text and writes one, with relative positions.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
https://arxiv.org/abs/1910.10683; v1.1 (gated=True, activation='gelu_tanh', head='untied'):
https://github.com/google-research/text-to-text-transfer-transformer/blob/main/released_checkpoints.md.

    encoder:  x <- x + attn(norm1(x));                                            x <- x + mlp(norm2(x))
    decoder:  x <- x + attn(norm1(x));   x <- x + cross(cross_norm(x), memory);   x <- x + mlp(norm2(x))
    norm(x) = scale * x / sqrt(mean(x^2) + eps);   memory = norm(x) of the encoder, tokens = norm(x) of the decoder
    mlp(y) = fc2(act(fc1(y))),   gated: fc2(act(gate(y)) * fc1(y))
    tied: logits = E tokens D^-0.5;   untied: logits = W tokens

No biases, and no 1 / sqrt(K) in the scores: the initial queries are smaller instead. The biases of the relative
positions (`mtjax.encoders.relative_buckets`) are one table for all layers of a stack; cross attention has none.
Differs from the paper: dropout is not on the attention's weights. B rows, S input tokens, L target tokens, D width.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders._pairs import read_pair, shift_right, target_mask
from mtjax.encoders._text import pool, read_text, vocabulary_logits
from mtjax.encoders.cache import init_cache, loud
from mtjax.encoders.embed import Embed
from mtjax.encoders.layers import ACTIVATIONS, drop_keys
from mtjax.encoders.memory_attention import MemoryAttention, MemoryCache
from mtjax.encoders.relative_buckets import relative_bias
from mtjax.encoders.stack import check_remat, run_blocks


class T5Mlp(nn.Module):
  """x [..., D] -> [..., D].  Parameters: gate (where gated), fc1: kernel [D, F]; fc2: kernel [F, D]."""
  hidden: int
  activation: str
  gated: bool
  dropout_rate: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, *, ctx: Ctx | None = None, train: bool = False, key: jax.Array | None = None):
    y, act = nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name='fc1')(x), ACTIVATIONS[self.activation]
    y = act(nn.Dense(self.hidden, use_bias=False, dtype=self.dtype, name='gate')(x)) * y if self.gated else act(y)
    y = nn.Dropout(self.dropout_rate)(y, deterministic=not train, rng=key)
    return nn.Dense(x.shape[-1], use_bias=False, dtype=self.dtype, name='fc2')(y)


class T5Block(nn.Module):
  """One layer.  x [B, L, D] -> [B, L, D] in `dtype`; with a cache, the pair of that and the cache.

  Parameters: norm1/scale, attn/{query,key,value,out}, in a decoder cross_norm/scale, cross/{query,key,value,out}, and
  norm2/scale, mlp/{gate,fc1,fc2}. Fields as `T5`'s.
  """
  width: int
  heads: int
  head_dim: int
  hidden: int
  decoder: bool
  activation: str = 'relu'
  gated: bool = False
  norm_eps: float = 1e-6
  dropout_rate: float = 0.0
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def setup(self):
    def attention(causal):
      small = nn.initializers.variance_scaling(1 / self.head_dim, 'fan_in', 'normal')
      return MemoryAttention(self.width, self.heads, self.head_dim, False, False, causal, 1.0, small,
                             self.implementation, self.dtype)

    self.norm1, self.attn = nn.RMSNorm(self.norm_eps, dtype=jnp.float32), attention(self.decoder)
    if self.decoder:
      self.cross_norm, self.cross = nn.RMSNorm(self.norm_eps, dtype=jnp.float32), attention(False)
    self.norm2 = nn.RMSNorm(self.norm_eps, dtype=jnp.float32)
    self.mlp = T5Mlp(self.hidden, self.activation, self.gated, self.dropout_rate, self.dtype)
    self.dropout = nn.Dropout(self.dropout_rate)

  def keys(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys and values of a memory, as a `MemoryCache` holds them."""
    return self.cross.keys(memory)

  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, bias: jax.Array | None = None,
               segments: jax.Array | None = None, memory: jax.Array | None = None,
               memory_mask: jax.Array | None = None, cache: MemoryCache | None = None, ctx: Ctx | None = None,
               train: bool = False, key: jax.Array | None = None):
    keys = drop_keys(key, 4)

    def branch(y, i):
      return self.dropout(y, deterministic=not train, rng=keys[i])

    own = None if cache is None else cache.own
    y = self.attn(_float(self.norm1, x), mask, bias=bias, segments=segments, cache=own, ctx=ctx, train=train)
    y, own = (y, None) if cache is None else y
    x = x + branch(y, 0)
    if self.decoder:
      known = self.cross.keys(memory) if cache is None else (cache.k, cache.v)
      seen = memory_mask if cache is None else cache.mask
      x = x + branch(self.cross(_float(self.cross_norm, x), seen, keys=known, ctx=ctx, train=train), 1)
    x = x + branch(self.mlp(_float(self.norm2, x), ctx=ctx, train=train, key=keys[3]), 2)
    return x if cache is None else (x, cache.replace(own=own))


class T5Stack(nn.Module):
  """All layers of an encoder or a decoder.  Embedded x [B, L, D] -> [B, L, D] float32; with a cache, the pair.

  Parameters: rel_bias [buckets, H], block_i, norm/scale. Fields as `T5`'s.
  """
  depth: int
  like: T5Block  # what the layers are like
  buckets: int
  max_distance: int
  dropout_rate: float
  remat: bool | str
  scan: bool

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, segments: jax.Array | None = None,
               memory: jax.Array | None = None, memory_mask: jax.Array | None = None,
               cache: tuple[MemoryCache, ...] | None = None, start: bool = False, ctx: Ctx | None = None,
               train: bool = False):
    """Runs the layers; with `start` it gives the keys and values of `memory`, a pair a layer, instead."""
    like = self.like
    blocks = [like.clone(parent=self, name=f'block_{i}') for i in range(self.depth)]
    if start:
      return [block.keys(memory) for block in blocks]
    table = self.param('rel_bias', nn.initializers.normal(like.width**-0.5), (self.buckets, like.heads))
    if cache is None:
      queries, keys = jnp.arange(x.shape[1])[None], jnp.arange(x.shape[1])
    else:
      queries, keys = cache[0].own.positions(x.shape[:2], mask), jnp.arange(cache[0].own.k.shape[1])
    bias = relative_bias(table, queries, keys, both_ways=not like.decoder, max_distance=self.max_distance)
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    if cache is None:
      x = run_blocks(self, blocks, x, mask, train=train, bias=bias, segments=segments, memory=memory,
                     memory_mask=memory_mask, ctx=ctx)
    else:
      new = []
      for block, own in zip(blocks, cache):
        x, own = block(x, mask, bias=bias, cache=own, ctx=ctx)
        new.append(own)
      cache, x = tuple(new), loud(x, new[0].own)
    x = _float(nn.RMSNorm(like.norm_eps, dtype=jnp.float32, name='norm'), x)
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    return x if cache is None else (x, cache)


class T5(nn.Module):
  """(inputs [B, S], targets [B, L]) int -> tokens [B, L, D], mask [B, L], aux['logits'] [B, L, V] with a head; float32.

  How inputs and targets may be given: `mtjax.encoders._pairs`; what is padding among the inputs: `_text`. aux['memory']
  [B, S, D] and aux['memory_mask'] are what the encoder made of the inputs, and pooled [B, D] is their mean. Without a
  decoder (decoder_depth=0) the inputs are given alone, and tokens and mask are the encoder's.
  Parameters: embed/embedding [V, D], encoder and decoder: rel_bias [buckets, H], block_i/{norm1, attn, cross_norm,
  cross, norm2, mlp}, norm; head/kernel [D, V] (with head='untied'). Norms have a scale, the rest kernels alone.

  Attributes:
    vocab_size: V.
    width: D.
    depth: number of blocks of the encoder.
    decoder_depth: of the decoder; None = as many, 0 = there is none.
    heads: H.
    head_dim: K; None = width / heads.
    hidden: width inside a block's MLP; None means 4 * width.
    head: None, 'tied' or 'untied'.
    scale_head: whether the head reads tokens D^-0.5; None = where it is tied.
    activation: of the MLPs.
    gated: whether the MLPs have a gate.
    buckets: of the relative positions.
    max_distance: from which on distances share the last bucket.
    norm_eps: added to the mean square.
    pad_id: the token that is padding, where nothing else says what is; None = none is.
    start_id: the token with which the decoder starts.
    dropout_rate: after the embedding, on the residual branches, inside the MLPs and after the stacks, in training.
    remat: False, True or a name of `stack.POLICIES`: what is computed again in the backward pass.
    scan: whether the blocks are compiled once, as a scan (`mtjax.encoders.stack`); decoding is always a loop.
    implementation: of the attention.
    dtype: of the matrix products and of the residual stream.
  """
  vocab_size: int = 32128
  width: int = 512
  depth: int = 6
  decoder_depth: int | None = None
  heads: int = 8
  head_dim: int | None = None
  hidden: int | None = None
  head: str | None = 'tied'
  scale_head: bool | None = None
  activation: str = 'relu'
  gated: bool = False
  buckets: int = 32
  max_distance: int = 128
  norm_eps: float = 1e-6
  pad_id: int | None = 0
  start_id: int = 0
  dropout_rate: float = 0.0
  remat: bool | str = False
  scan: bool = False
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    optional = [name for name in ('head_dim', 'hidden') if getattr(self, name) is not None]
    optional += ['decoder_depth'] if self.decoder_depth else []
    _checks.sizes(self, 'vocab_size', 'width', 'depth', 'heads', 'buckets', 'max_distance', *optional)
    if self.head_dim is None:
      _checks.divides(self, 'heads', of='width')
    if self.buckets < 4 or self.buckets % 2 or self.max_distance <= self.buckets // 2:
      raise ValueError(f'T5 has buckets={self.buckets} and max_distance={self.max_distance}; allowed is an even number '
                       f'of buckets >= 4, and more than half as many for max_distance.')
    _checks.choice(self, 'head', (None, 'tied', 'untied'))
    _checks.choice(self, 'activation', list(ACTIVATIONS))
    _checks.rate(self)
    check_remat(self)

  def setup(self):
    self.embed = Embed(self.vocab_size, self.width, dtype=self.dtype, embedding_init=nn.initializers.normal(1.0))
    self.encoder = self._stack(self.depth, False)
    if self.decoder_depth != 0:
      self.decoder = self._stack(self.decoder_depth or self.depth, True)
      if self.head == 'untied':
        self.head_layer = nn.Dense(self.vocab_size, use_bias=False, dtype=self.dtype, name='head')

  def __call__(self, inputs: Any, targets: jax.Array | None = None, *, ctx: Ctx | None = None,
               train: bool = False) -> Features:
    if self.decoder_depth == 0:
      return self.encode(inputs, ctx=ctx, train=train)
    inputs, targets = read_pair(self, inputs, targets, ctx)
    memory = self.encode(inputs, ctx=ctx, train=train)
    x = self.embed(shift_right(targets, self.start_id, self.pad_id))
    x = self.decoder(x, memory=memory.tokens.astype(self.dtype), memory_mask=memory.mask, ctx=ctx, train=train)
    return self._features(x, memory.pooled, target_mask(targets, self.pad_id),
                          {'memory': memory.tokens, 'memory_mask': memory.mask})

  def encode(self, inputs: Any, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    """The encoder alone: tokens [B, S, D], pooled [B, D], mask [B, S]."""
    text = read_text(self, inputs, ctx, ('tokens', 'mask'))
    x = self.encoder(self.embed(text.tokens), text.mask, segments=text.segments, ctx=ctx, train=train)
    mask = jnp.ones(x.shape[:2], bool) if text.mask is None else text.mask
    return Features(x, pool(x, text.mask, 'mean'), mask=mask)

  def start(self, inputs: Any, length: int, *, ctx: Ctx | None = None,
            dtype: DTypeLike | None = None) -> tuple[MemoryCache, ...]:
    """Reads the inputs, for `decode` to go on from.

    Args:
      inputs: as `encode` takes them.
      length: how many tokens a row there is room for.
      dtype: of the cache; None = that of the module.
    """
    memory = self.encode(inputs, ctx=ctx)
    keys = self.decoder(None, memory=memory.tokens.astype(self.dtype), start=True)
    shape = (memory.tokens.shape[0], length, self.heads, self.head_dim or self.width // self.heads)
    own = init_cache(len(keys), shape, dtype or self.dtype)
    return tuple(MemoryCache(cache, k, v, memory.mask) for cache, (k, v) in zip(own, keys))

  def decode(self, tokens: jax.Array, cache: tuple[MemoryCache, ...], *, mask: jax.Array | None = None,
             ctx: Ctx | None = None) -> tuple[Features, tuple[MemoryCache, ...]]:
    """Goes on from `cache` with tokens [B, L] that the decoder reads; the first of all is `start_id`.

    Args:
      tokens: [B, L] int.
      cache: of `start`, or of the call before.
      mask: [B, L] bool, the tokens that are not padding, on either side; None = all.

    Returns:
      (the features of these tokens, equal to those of one call with all of them; the cache with these tokens). A row
      with more tokens than the cache holds is NaN.
    """
    tokens = jnp.asarray(tokens)
    _checks.tokens(self, tokens, None)
    x, cache = self.decoder(self.embed(tokens), mask, cache=cache, ctx=ctx)
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    return self._features(x, pool(x, mask, 'last'), mask, {}), cache

  def _features(self, x, pooled, mask, aux):
    scaled = x * self.width**-0.5 if self.scale_head or (self.scale_head is None and self.head == 'tied') else x
    if self.head == 'tied':
      aux['logits'] = vocabulary_logits(scaled.astype(self.dtype), self.embed.embedding)
    elif self.head == 'untied':
      aux['logits'] = self.head_layer(scaled).astype(jnp.float32)
    return Features(x, pooled, mask=mask, aux=aux)

  def _stack(self, depth, decoder):
    block = T5Block(self.width, self.heads, self.head_dim or self.width // self.heads, self.hidden or 4 * self.width,
                    decoder, self.activation, self.gated, self.norm_eps, self.dropout_rate, self.implementation,
                    self.dtype, parent=None)
    return T5Stack(depth, block, self.buckets, self.max_distance, self.dropout_rate, self.remat, self.scan)


def _float(norm: nn.Module, x: jax.Array) -> jax.Array:
  """norm(x), in and to float32."""
  return norm(x.astype(jnp.float32))
