"""ViT: an image as a sequence of patches.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929.

    x = [cls; W p_1 + b; …; W p_N + b] + pos_embed;   x <- block_i(x);   tokens = norm(x)

p_n: the N = (H/patch)(W/patch) patches, in reading order. B rows, D width, L tokens: N, or N + 1 with cls (first).
Differs from the paper: with pool='mean' there is no cls token, and pooled is the mean of the tokens.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.layers import TransformerBlock, as_float_image, check_transformer, layer_norm, run_block


class ViT(nn.Module):
  """images [B, H, W, C] -> tokens [B, L, D], pooled [B, D], maps [[B, H/patch, W/patch, D]], all float32.

  Parameters: embed (kernel [patch, patch, C, D], bias [D]), cls [D] (with pool='cls'), pos_embed [L, D],
  block_i/{norm1, attn/{query,key,value,out}, norm2, mlp/{fc1,fc2}}, norm.

  Attributes:
    patch: side of a patch; both sides of the image are multiples of it.
    width: D.
    depth: number of blocks.
    heads: attention heads; they divide the width.
    hidden: width inside a block's MLP; None means 4 * width.
    dropout_rate: after the embedding, and on every residual branch, in training.
    pool: 'cls' or 'mean'.
    remat: compute a block's activations again in the backward pass, to save memory.
    dtype: of the matrix products and of the residual stream.
  """
  patch: int = 4
  width: int = 64
  depth: int = 4
  heads: int = 4
  hidden: int | None = None
  dropout_rate: float = 0.0
  pool: str = 'cls'
  remat: bool = False
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'patch')
    check_transformer(self)
    _checks.choice(self, 'pool', ('cls', 'mean'))

  @nn.compact
  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    x = as_float_image(inputs)
    _checks.images(self, x)
    if x.shape[1] % self.patch or x.shape[2] % self.patch:
      raise ValueError(f'ViT has patch={self.patch}, which does not divide the image, {x.shape[1]} x {x.shape[2]}; '
                       f'choose a divisor of both sides, or resize the images.')
    patches = (self.patch, self.patch)
    x = nn.Conv(self.width, patches, strides=patches, padding='VALID', dtype=self.dtype, name='embed')(x)
    rows, *grid, width = x.shape
    x = x.reshape(rows, -1, width)
    if self.pool == 'cls':
      cls = self.param('cls', nn.initializers.zeros, (width,))
      x = jnp.concatenate([jnp.broadcast_to(cls.astype(x.dtype), (rows, 1, width)), x], axis=1)
    pos_embed = self.param('pos_embed', nn.initializers.normal(width**-0.5), x.shape[1:])
    x = nn.Dropout(self.dropout_rate)(x + pos_embed[None].astype(x.dtype), deterministic=not train)
    for i in range(self.depth):
      block = TransformerBlock(self.heads, self.hidden or 4 * width, self.dropout_rate, self.dtype, name=f'block_{i}')
      x = run_block(block, x, ctx=ctx, train=train, remat=self.remat)
    x = layer_norm(x, 'norm')
    if self.pool == 'cls':
      pooled, patch_tokens = x[:, 0], x[:, 1:]
    else:
      pooled, patch_tokens = x.mean(axis=1), x
    return Features(tokens=x, pooled=pooled, maps=[patch_tokens.reshape(rows, *grid, width)])
