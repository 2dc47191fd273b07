"""BERT: a bidirectional transformer of word pieces, with norms behind the residual sums.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers", NAACL 2019, https://arxiv.org/abs/1810.04805.

    x = embed_norm(embed[token] + pos_embed[position] + type_embed[token type])
    x <- norm1(x + attn(x));   x <- norm2(x + mlp(x))          for each block
    pooled = tanh(W x_0 + b)
    masked language model: logits = E norm(gelu(W' x + b')) + b_v,   E the embedding itself

Differs from the paper: dropout is on the embedding and the residual branches, not on the attention's weights.
"""
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders._text import pool, read_text, vocabulary_logits
from mtjax.encoders.embed import Embed
from mtjax.encoders.layers import ACTIVATIONS, Attention, Mlp, check_transformer, drop_keys, layer_norm
from mtjax.encoders.stack import run_blocks

INIT = nn.initializers.normal(0.02)


class BertBlock(nn.Module):
  """One post-norm layer.  x [B, L, D] -> [B, L, D] in `dtype`.  Fields and parameters as `TransformerBlock`'s."""
  heads: int
  hidden: int
  dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  activation: str = 'gelu'
  norm_eps: float = 1e-12
  implementation: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, segments: jax.Array | None = None,
               ctx: Ctx | None = None, train: bool = False, key: jax.Array | None = None):
    keys = drop_keys(key, 2)
    attention = Attention(self.heads, implementation=self.implementation, dtype=self.dtype, name='attn')
    y = attention(x, mask, segments=segments, ctx=ctx, train=train)
    y = nn.Dropout(self.dropout_rate)(y, deterministic=not train, rng=keys[0])
    x = layer_norm(x + y, 'norm1', self.norm_eps).astype(self.dtype)
    y = Mlp(self.hidden, activation=self.activation, dtype=self.dtype, name='mlp')(x, ctx=ctx, train=train)
    y = nn.Dropout(self.dropout_rate)(y, deterministic=not train, rng=keys[1])
    return layer_norm(x + y, 'norm2', self.norm_eps).astype(self.dtype)


class BERT(nn.Module):
  """tokens [B, L] int -> tokens [B, L, D], pooled [B, D], mask [B, L], aux['logits'] with a head; float32.

  What is padding, and how to give token types or positions: `mtjax.encoders._text`.
  Parameters: embed/embedding [V, D], pos_embed [max_length, D], type_embed [types, D], embed_norm,
  block_i/{attn/{query,key,value,out}, norm1, mlp/{fc1,fc2}, norm2}, pooler (with pool='pooler'),
  mlm/{dense,norm,bias} (with head='mlm'), classifier (with head='classifier').

  Attributes:
    vocab_size: V.
    width: D.
    depth: number of blocks.
    heads: attention heads; they divide the width.
    hidden: width inside a block's MLP; None means 4 * width.
    max_length: the largest L, and the number of positions.
    types: number of token types.
    pool: 'pooler' (above), 'cls' (the first token itself) or 'mean' over the tokens that are not padding.
    head: None, 'mlm' (logits [B, L, V]) or 'classifier' (logits [B, classes] of `pooled`).
    classes: outputs of the classifier.
    activation: of the MLPs and the mlm head.
    norm_eps: added to the variances.
    pad_id: the token that is padding, where nothing else says what is; None = none is.
    dropout_rate: after the embedding, on the residual branches and before the classifier, in training.
    remat: False, True or a name of `stack.POLICIES`: what is computed again in the backward pass.
    scan: whether the blocks are compiled once, as a scan (`mtjax.encoders.stack`).
    implementation: of the attention.
    dtype: of the matrix products and of the residual stream.
  """
  vocab_size: int = 30522
  width: int = 768
  depth: int = 12
  heads: int = 12
  hidden: int | None = None
  max_length: int = 512
  types: int = 2
  pool: str = 'pooler'
  head: str | None = None
  classes: int = 2
  activation: str = 'gelu'
  norm_eps: float = 1e-12
  pad_id: int | None = 0
  dropout_rate: float = 0.0
  remat: bool | str = False
  scan: bool = False
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    check_transformer(self)
    _checks.sizes(self, 'vocab_size', 'max_length', 'types', 'classes')
    _checks.choice(self, 'pool', ('pooler', 'cls', 'mean'))
    _checks.choice(self, 'head', (None, 'mlm', 'classifier'))
    _checks.choice(self, 'activation', list(ACTIVATIONS))

  @nn.compact
  def __call__(self, inputs: Any, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    text = read_text(self, inputs, ctx)
    embed = Embed(self.vocab_size, self.width, dtype=self.dtype, embedding_init=INIT, name='embed')
    pos_embed = self.param('pos_embed', INIT, (self.max_length, self.width))
    type_embed = self.param('type_embed', INIT, (self.types, self.width))
    length = text.tokens.shape[1]
    positions = jnp.arange(length)[None] if text.positions is None else text.positions
    types = jnp.zeros((1, 1), jnp.int32) if text.token_types is None else text.token_types
    x = (embed(text.tokens) + jnp.take(pos_embed, positions, axis=0).astype(self.dtype)
         + jnp.take(type_embed, types, axis=0).astype(self.dtype))
    x = layer_norm(x, 'embed_norm', self.norm_eps).astype(self.dtype)
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    blocks = [BertBlock(self.heads, self.hidden or 4 * self.width, self.dropout_rate, self.dtype, self.activation,
                        self.norm_eps, self.implementation, name=f'block_{i}') for i in range(self.depth)]
    x = run_blocks(self, blocks, x, text.mask, segments=text.segments, ctx=ctx, train=train)
    mask = jnp.ones(x.shape[:2], bool) if text.mask is None else text.mask
    if self.pool == 'mean':
      pooled = pool(x.astype(jnp.float32), text.mask, 'mean')
    else:
      pooled = x[:, 0]
    if self.pool == 'pooler':
      pooled = nn.tanh(nn.Dense(self.width, dtype=self.dtype, kernel_init=INIT, name='pooler')(pooled))
    aux = {}
    if self.head == 'mlm':
      aux['logits'] = _MaskedLM(self.activation, self.norm_eps, self.dtype, name='mlm')(x, embed.embedding)
    elif self.head == 'classifier':
      y = nn.Dropout(self.dropout_rate)(pooled, deterministic=not train)
      aux['logits'] = nn.Dense(self.classes, dtype=jnp.float32, kernel_init=INIT, name='classifier')(y)
    return Features(x.astype(jnp.float32), pooled.astype(jnp.float32), mask=mask, aux=aux)


class _MaskedLM(nn.Module):
  """x [B, L, D], embedding [V, D] -> logits [B, L, V] float32."""
  activation: str
  norm_eps: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, embedding: jax.Array) -> jax.Array:
    y = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=INIT, name='dense')(x)
    y = layer_norm(ACTIVATIONS[self.activation](y), 'norm', self.norm_eps).astype(self.dtype)
    bias = self.param('bias', nn.initializers.zeros, (embedding.shape[0],))
    return vocabulary_logits(y, embedding, bias)
