"""GPT-2: a causal transformer with learned positions, as encoder and as language model.

Radford et al., "Language Models are Unsupervised Multitask Learners", 2019,
https://cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf.

    x = embed[token] + pos_embed[position];   x <- x + attn(norm1(x));   x <- x + mlp(norm2(x));   tokens = norm(x)
    logits = E tokens,   E the embedding itself, unless the head is untied

The GELU is its tanh approximation. Differs from the published code: dropout is on the embedding, the residual branches
and inside the MLP, not on the attention's weights.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders._text import count_positions, pool, read_text, vocabulary_logits
from mtjax.encoders.cache import Cache, init_cache, loud
from mtjax.encoders.embed import Embed
from mtjax.encoders.layers import ACTIVATIONS, TransformerBlock, check_transformer, layer_norm
from mtjax.encoders.stack import run_blocks

INIT = nn.initializers.normal(0.02)


class GPT2(nn.Module):
  """tokens [B, L] int -> tokens [B, L, D], pooled [B, D], mask [B, L], aux['logits'] [B, L, V] with a head; float32.

  What is padding, and how to give positions: `mtjax.encoders._text`. Where padding is known, positions count the other
  tokens alone, so that a row gives the same padded on the left, on the right, or not at all. An id outside the
  vocabulary and a position beyond max_length give NaN.
  Parameters: embed/embedding [V, D], pos_embed [max_length, D], block_i/{norm1, attn/{query,key,value,out}, norm2,
  mlp/{fc1,fc2}}, norm, head/kernel [D, V] (with head='untied').

  Attributes:
    vocab_size: V.
    width: D.
    depth: number of blocks.
    heads: attention heads; they divide the width.
    hidden: width inside a block's MLP; None means 4 * width.
    max_length: the largest L, and the number of positions.
    head: None, 'tied' or 'untied'.
    pool: 'last' or 'mean' over the tokens that are not padding.
    activation: of the MLPs.
    norm_eps: added to the variances.
    pad_id: the token that is padding, where nothing else says what is; None = none is.
    dropout_rate: in training.
    remat: False, True or a name of `stack.POLICIES`: what is computed again in the backward pass.
    scan: whether the blocks are compiled once, as a scan (`mtjax.encoders.stack`); decoding is always a loop.
    implementation: of the attention.
    dtype: of the matrix products and of the residual stream.
  """
  vocab_size: int = 50257
  width: int = 768
  depth: int = 12
  heads: int = 12
  hidden: int | None = None
  max_length: int = 1024
  head: str | None = 'tied'
  pool: str = 'last'
  activation: str = 'gelu_tanh'
  norm_eps: float = 1e-5
  pad_id: int | None = None
  dropout_rate: float = 0.0
  remat: bool | str = False
  scan: bool = False
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    check_transformer(self)
    _checks.sizes(self, 'vocab_size', 'max_length')
    _checks.choice(self, 'head', (None, 'tied', 'untied'))
    _checks.choice(self, 'pool', ('last', 'mean'))
    _checks.choice(self, 'activation', list(ACTIVATIONS))

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
    return init_cache(self.depth, (batch_size, length, self.heads, self.width // self.heads), dtype or self.dtype)

  @nn.compact
  def _run(self, inputs, ctx, train, cache=None):
    text = read_text(self, inputs, ctx, ('tokens', 'mask', 'positions'))
    mask, length = text.mask, text.tokens.shape[1]
    if cache is not None:
      positions = cache[0].positions(text.tokens.shape, mask)
    elif text.positions is not None:
      positions = text.positions
    else:
      positions = jnp.arange(length)[None] if mask is None else count_positions(mask)
    embed = Embed(self.vocab_size, self.width, dtype=self.dtype, embedding_init=INIT, name='embed')
    pos_embed = self.param('pos_embed', INIT, (self.max_length, self.width))
    # Padding at the beginning of a cache would have the position -1.
    x = embed(text.tokens) + jnp.take(pos_embed, jnp.maximum(positions, 0), axis=0).astype(self.dtype)
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    blocks = [TransformerBlock(self.heads, self.hidden or 4 * self.width, self.dropout_rate, self.dtype,
                               self.activation, self.norm_eps, True, self.implementation, name=f'block_{i}')
              for i in range(self.depth)]
    if cache is None:
      x = run_blocks(self, blocks, x, mask, segments=text.segments, ctx=ctx, train=train)
    else:
      new = []
      for block, own in zip(blocks, cache):
        x, own = block(x, mask, cache=own, ctx=ctx)
        new.append(own)
      cache, x = tuple(new), loud(x, new[0])
    x = layer_norm(x, 'norm', self.norm_eps)
    aux = {}
    if self.head == 'tied':
      aux['logits'] = vocabulary_logits(x.astype(self.dtype), embed.embedding)
    elif self.head == 'untied':
      dense = nn.Dense(self.vocab_size, use_bias=False, dtype=self.dtype, kernel_init=INIT, name='head')
      aux['logits'] = dense(x).astype(jnp.float32)
    pooled = pool(x, mask, self.pool)
    mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
    return Features(x, pooled, mask=mask, aux=aux), cache
