"""Whisper: an encoder-decoder that reads the log-mel spectrogram of speech and writes its text.

Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023,
https://arxiv.org/abs/2212.04356.

    x = gelu(conv2(gelu(conv1(spectrogram)))) + sinusoids;                        conv2 has stride 2
    encoder:  x <- x + attn(norm1(x));                                            x <- x + mlp(norm2(x))
    decoder:  x = embed[token] + pos_embed[position]
              x <- x + attn(norm1(x));   x <- x + cross(cross_norm(x), memory);   x <- x + mlp(norm2(x))
    memory, tokens = norm(x);   logits = E tokens,   E the embedding itself
    sinusoids_p = [sin(p w_i); cos(p w_i)],   w_i = 10000^(-i / (D / 2 - 1)),   i = 0 … D / 2 - 1

Keys have no bias. The sinusoids are a parameter, as in the published files, that no gradient reaches: a weight decay
should leave out encoder/pos_embed. Differs from the published code: a spectrogram may be shorter than 30 seconds.
The spectrogram itself: `mtjax.data.log_mel`. B rows, T frames, M mels, S = ceil(T / 2), L target tokens, D width.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders._pairs import read_pair, shift_right, target_mask
from mtjax.encoders._text import pool, vocabulary_logits
from mtjax.encoders.cache import init_cache, loud
from mtjax.encoders.embed import Embed
from mtjax.encoders.layers import ACTIVATIONS, Mlp, drop_keys
from mtjax.encoders.memory_attention import MemoryAttention, MemoryCache
from mtjax.encoders.stack import check_remat, run_blocks

INIT = nn.initializers.normal(0.02)


def sinusoids(length: int, width: int) -> np.ndarray:
  """[length, width] float32, see above.

  Example:
    >>> print(sinusoids(2, 2).round(2))
    [[0.   1.  ]
     [0.84 0.54]]
  """
  w = 10000.0 ** (-np.arange(width // 2) / max(width // 2 - 1, 1))
  angles = np.arange(length)[:, None] * w
  return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


class WhisperBlock(nn.Module):
  """One layer.  x [B, L, D] -> [B, L, D] in `dtype`; with a cache, the pair of that and the cache.

  Parameters: norm1, attn/{query,key,value,out}, in a decoder cross_norm, cross/{query,key,value,out}, and norm2,
  mlp/{fc1,fc2}. Fields as `Whisper`'s.
  """
  width: int
  heads: int
  hidden: int
  decoder: bool
  activation: str = 'gelu'
  dropout_rate: float = 0.0
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def setup(self):
    def attention(causal):
      return MemoryAttention(self.width, self.heads, self.width // self.heads, True, False, causal,
                             implementation=self.implementation, dtype=self.dtype)

    self.norm1, self.attn = _norm(), attention(self.decoder)
    if self.decoder:
      self.cross_norm, self.cross = _norm(), attention(False)
    self.norm2 = _norm()
    self.mlp = Mlp(self.hidden, activation=self.activation, dtype=self.dtype)
    self.dropout = nn.Dropout(self.dropout_rate)

  def keys(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys and values of a memory, as a `MemoryCache` holds them."""
    return self.cross.keys(memory)

  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, memory: jax.Array | None = None,
               cache: MemoryCache | None = None, ctx: Ctx | None = None, train: bool = False,
               key: jax.Array | None = None):
    keys = drop_keys(key, 3)

    def branch(y, i):
      return self.dropout(y, deterministic=not train, rng=keys[i]).astype(x.dtype)

    own = None if cache is None else cache.own
    y = self.attn(_float(self.norm1, x), mask, cache=own, ctx=ctx, train=train)
    y, own = (y, None) if cache is None else y
    x = x + branch(y, 0)
    if self.decoder:
      known = self.cross.keys(memory) if cache is None else (cache.k, cache.v)
      x = x + branch(self.cross(_float(self.cross_norm, x), keys=known, ctx=ctx, train=train), 1)
    x = x + branch(self.mlp(_float(self.norm2, x), ctx=ctx, train=train), 2)
    return x if cache is None else (x, cache.replace(own=own))


class WhisperEncoder(nn.Module):
  """spectrogram [B, T, M] -> [B, S, D] float32.  Parameters: conv1, conv2, pos_embed [frames, D], block_i, norm."""
  depth: int
  like: WhisperBlock  # what the layers are like
  mels: int
  frames: int
  dropout_rate: float
  remat: bool | str
  scan: bool

  @nn.compact
  def __call__(self, x: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> jax.Array:
    like = self.like
    for i, stride in ((1, 1), (2, 2)):
      conv = nn.Conv(like.width, (3,), strides=(stride,), padding=((1, 1),), dtype=like.dtype, name=f'conv{i}')
      x = ACTIVATIONS['gelu'](conv(x))
    table = self.param('pos_embed', lambda _: jnp.asarray(sinusoids(self.frames, like.width)))
    x = x + jax.lax.stop_gradient(table)[None, : x.shape[1]].astype(x.dtype)
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    blocks = [like.clone(parent=self, name=f'block_{i}') for i in range(self.depth)]
    x = run_blocks(self, blocks, x, train=train, ctx=ctx)
    return _float(nn.LayerNorm(1e-5, dtype=jnp.float32, name='norm'), x)


class WhisperDecoder(nn.Module):
  """tokens [B, L] int -> [B, L, D] float32; with a cache, the pair of that and the cache.

  Parameters: embed/embedding [V, D], pos_embed [max_length, D], block_i, norm.
  """
  depth: int
  like: WhisperBlock  # what the layers are like
  vocab_size: int
  max_length: int
  dropout_rate: float
  remat: bool | str
  scan: bool

  def setup(self):
    like = self.like
    self.embed = Embed(self.vocab_size, like.width, dtype=like.dtype, embedding_init=INIT)
    self.pos_embed = self.param('pos_embed', INIT, (self.max_length, like.width))
    self.block = [like.clone() for _ in range(self.depth)]
    self.norm = _norm()
    self.dropout = nn.Dropout(self.dropout_rate)

  def __call__(self, tokens: jax.Array, mask: jax.Array | None = None, *, memory: jax.Array | None = None,
               cache: tuple[MemoryCache, ...] | None = None, ctx: Ctx | None = None, train: bool = False):
    positions = jnp.arange(tokens.shape[1])[None] if cache is None else cache[0].own.positions(tokens.shape, mask)
    x = self.embed(tokens)
    # Padding at the beginning of a cache would have the position -1; beyond max_length take gives NaN.
    x = x + jnp.take(self.pos_embed, jnp.maximum(positions, 0), axis=0).astype(x.dtype)
    x = self.dropout(x, deterministic=not train)
    if cache is None:
      return _float(self.norm, run_blocks(self, self.block, x, mask, train=train, memory=memory, ctx=ctx))
    new = []
    for block, own in zip(self.block, cache):
      x, own = block(x, mask, cache=own, ctx=ctx)
      new.append(own)
    return _float(self.norm, loud(x, new[0].own)), tuple(new)

  def keys(self, memory: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """The keys and values of a memory, a pair a layer."""
    return [block.keys(memory) for block in self.block]

  def logits(self, x: jax.Array) -> jax.Array:
    """x [B, L, D] -> [B, L, V] float32."""
    return vocabulary_logits(x.astype(self.like.dtype), self.embed.embedding)


class Whisper(nn.Module):
  """(spectrogram [B, T, M], targets [B, L] int) -> tokens [B, L, D], mask [B, L], aux['logits'] [B, L, V]; float32.

  How both may be given: `mtjax.encoders._pairs`. aux['memory'] [B, S, D] is what the encoder made of the spectrogram,
  and pooled [B, D] is its mean. The targets are all that is written, the tokens of language and task included, but not
  the first, `start_id`.
  Parameters: encoder/{conv1 (kernel [3, M, D], bias), conv2 (kernel [3, D, D], bias), pos_embed [frames, D], block_i,
  norm}, decoder/{embed/embedding [V, D], pos_embed [max_length, D], block_i, norm}.

  Attributes:
    vocab_size: V.
    width: D, even.
    depth: number of blocks of the encoder.
    decoder_depth: of the decoder; None = as many.
    heads: of the encoder; they divide the width.
    decoder_heads: of the decoder; None = as many.
    hidden: width inside a block's MLP in the encoder; None means 4 * width.
    decoder_hidden: in the decoder; None = as in the encoder.
    mels: M.
    frames: the largest S.
    max_length: the largest L, and the number of positions of the decoder.
    activation: of the MLPs.
    pad_id: the target that is padding, besides negative ones; None = none is.
    start_id: the token with which the decoder starts.
    dropout_rate: after the embeddings and on the residual branches, in training.
    remat: False, True or a name of `stack.POLICIES`: what is computed again in the backward pass.
    scan: whether the blocks are compiled once, as a scan (`mtjax.encoders.stack`); decoding is always a loop.
    implementation: of the attention.
    dtype: of the matrix products and of the residual stream.
  """
  vocab_size: int = 51865
  width: int = 512
  depth: int = 6
  decoder_depth: int | None = None
  heads: int = 8
  decoder_heads: int | None = None
  hidden: int | None = None
  decoder_hidden: int | None = None
  mels: int = 80
  frames: int = 1500
  max_length: int = 448
  activation: str = 'gelu'
  pad_id: int | None = None
  start_id: int = 50258
  dropout_rate: float = 0.0
  remat: bool | str = False
  scan: bool = False
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    optional = [name for name in ('decoder_depth', 'decoder_heads', 'hidden', 'decoder_hidden')
                if getattr(self, name) is not None]
    _checks.sizes(self, 'vocab_size', 'width', 'depth', 'heads', 'mels', 'frames', 'max_length', *optional)
    for field in ('heads', *(('decoder_heads',) if self.decoder_heads is not None else ())):
      _checks.divides(self, field, of='width')
    if self.width % 2:
      raise ValueError(f'Whisper has width={self.width}; allowed is an even number, half sines and half cosines.')
    _checks.choice(self, 'activation', list(ACTIVATIONS))
    _checks.rate(self)
    check_remat(self)

  def setup(self):
    hidden = self.hidden or 4 * self.width
    shared = (self.activation, self.dropout_rate, self.implementation, self.dtype)
    block = WhisperBlock(self.width, self.heads, hidden, False, *shared, parent=None)
    self.encoder = WhisperEncoder(self.depth, block, self.mels, self.frames, self.dropout_rate, self.remat, self.scan)
    block = WhisperBlock(self.width, self.decoder_heads or self.heads, self.decoder_hidden or hidden, True, *shared,
                         parent=None)
    self.decoder = WhisperDecoder(self.decoder_depth or self.depth, block, self.vocab_size, self.max_length,
                                  self.dropout_rate, self.remat, self.scan)

  def __call__(self, inputs: Any, targets: jax.Array | None = None, *, ctx: Ctx | None = None,
               train: bool = False) -> Features:
    inputs, targets = read_pair(self, inputs, targets, ctx)
    _checks.tokens(self, targets, self.max_length)
    memory = self.encode(inputs, ctx=ctx, train=train)
    x = self.decoder(shift_right(targets, self.start_id, self.pad_id), memory=memory.tokens.astype(self.dtype),
                     ctx=ctx, train=train)
    return Features(x, memory.pooled, mask=target_mask(targets, self.pad_id),
                    aux={'logits': self.decoder.logits(x), 'memory': memory.tokens})

  def encode(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    """The encoder alone: tokens [B, S, D], pooled [B, D], mask [B, S]."""
    x = jnp.asarray(inputs)
    if x.ndim != 3 or x.shape[2] != self.mels or not 1 <= x.shape[1] <= 2 * self.frames:
      raise ValueError(f'Whisper reads a spectrogram [B, T, {self.mels}] with T <= {2 * self.frames}, but the input '
                       f'has shape {list(x.shape)}.')
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise TypeError(f'Whisper reads a spectrogram of floats, but the input has dtype {x.dtype}.')
    x = self.encoder(x, ctx=ctx, train=train)
    return Features(x, x.mean(axis=1), mask=jnp.ones(x.shape[:2], bool))

  def start(self, inputs: jax.Array, length: int, *, ctx: Ctx | None = None,
            dtype: DTypeLike | None = None) -> tuple[MemoryCache, ...]:
    """Reads the spectrogram, for `decode` to go on from.

    Args:
      inputs: as `encode` takes them.
      length: how many tokens a row there is room for.
      dtype: of the cache; None = that of the module.
    """
    memory = self.encode(inputs, ctx=ctx).tokens
    keys, heads = self.decoder.keys(memory.astype(self.dtype)), self.decoder_heads or self.heads
    own = init_cache(len(keys), (len(memory), length, heads, self.width // heads), dtype or self.dtype)
    return tuple(MemoryCache(cache, k, v) for cache, (k, v) in zip(own, keys))

  def decode(self, tokens: jax.Array, cache: tuple[MemoryCache, ...], *, mask: jax.Array | None = None,
             ctx: Ctx | None = None) -> tuple[Features, tuple[MemoryCache, ...]]:
    """Goes on from `cache` with tokens [B, L] that the decoder reads; the first of all is `start_id`.

    Args:
      tokens: [B, L] int.
      cache: of `start`, or of the call before.
      mask: [B, L] bool, the tokens that are not padding, on either side; None = all.

    Returns:
      (the features of these tokens, equal to those of one call with all of them; the cache with these tokens). A row
      with more tokens than the cache holds, or beyond max_length, is NaN.
    """
    tokens = jnp.asarray(tokens)
    _checks.tokens(self, tokens, self.max_length)
    x, cache = self.decoder(tokens, mask, cache=cache, ctx=ctx)
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    return Features(x, pool(x, mask, 'last'), mask=mask, aux={'logits': self.decoder.logits(x)}), cache


def _norm() -> nn.LayerNorm:
  return nn.LayerNorm(1e-5, dtype=jnp.float32)


def _float(norm: nn.Module, x: jax.Array) -> jax.Array:
  """norm(x), in and to float32."""
  return norm(x.astype(jnp.float32))
