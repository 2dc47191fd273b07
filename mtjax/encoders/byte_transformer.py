"""A transformer encoder of text as bytes: no vocabulary to learn or ship, and any language.

Xue et al., "ByT5: Towards a Token-Free Future with Pre-trained Byte-to-Byte Models", TACL 2022,
https://arxiv.org/abs/2105.13626.

Token ids: 0 padding, 1 beginning, 2 end, byte b is b + 3.
Differs from the paper: an encoder alone, with learned absolute positions, trained on labels rather than masked spans.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.embed import Embed
from mtjax.encoders.layers import TransformerBlock, check_transformer, layer_norm
from mtjax.encoders.stack import run_block


class ByteTransformer(nn.Module):
  """tokens [B, L] int -> tokens [B, L, D] float32, pooled [B, D] float32, mask [B, L] = (input > 0).

  Padding is seen by no token and enters no mean; a row of nothing but padding has pooled = 0 with pool='mean'.
  An id outside the vocabulary gives NaN (compiled code cannot raise), which stops a training run.
  Parameters: embed/embedding [V, D], pos_embed [max_length, D],
  block_i/{norm1, attn/{query,key,value,out}, norm2, mlp/{fc1,fc2}}, norm.

  Attributes:
    width: D.
    depth: number of blocks.
    heads: attention heads; they divide the width.
    max_length: the largest L; shorter inputs cost what they are.
    hidden: width inside a block's MLP; None means 4 * width.
    dropout_rate: after the embedding, and on every residual branch, in training.
    pool: 'mean' over the tokens that are not padding, or 'first', the token at position 0.
    vocab_size: V, the number of token ids.
    remat: compute a block's activations again in the backward pass, to save memory; or a name of `stack.POLICIES`.
    dtype: of the matrix products and of the residual stream.
  """
  width: int = 128
  depth: int = 4
  heads: int = 4
  max_length: int = 256
  hidden: int | None = None
  dropout_rate: float = 0.0
  pool: str = 'mean'
  vocab_size: int = 259
  remat: bool | str = False
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    check_transformer(self)
    _checks.sizes(self, 'max_length', 'vocab_size')
    _checks.choice(self, 'pool', ('mean', 'first'))

  @nn.compact
  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    inputs = jnp.asarray(inputs)
    _checks.tokens(self, inputs, self.max_length)
    mask = inputs > 0
    x = Embed(self.vocab_size, self.width, dtype=self.dtype, name='embed')(inputs)
    pos_embed = self.param('pos_embed', nn.initializers.normal(self.width**-0.5), (self.max_length, self.width))
    x = x + pos_embed[None, : x.shape[1]].astype(x.dtype)
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    for i in range(self.depth):
      hidden = self.hidden or 4 * self.width
      block = TransformerBlock(self.heads, hidden, self.dropout_rate, self.dtype, name=f'block_{i}')
      x = run_block(block, x, mask[:, None, None, :], ctx=ctx, train=train, remat=self.remat)
    x = layer_norm(x, 'norm')
    if self.pool == 'mean':
      weight = mask[:, :, None].astype(x.dtype)
      pooled = (x * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1.0)
    else:
      pooled = x[:, 0]
    return Features(tokens=x, pooled=pooled, mask=mask)
