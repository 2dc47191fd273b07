"""ViT: an image as a sequence of patches.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, https://arxiv.org/abs/2010.11929.

    x = [cls; W p_1 + b; …; W p_N + b] + pos_embed;   x <- block_i(x);   tokens = norm(x)
    with pool='pooler': pooled = tanh(W' tokens_0 + b')

p_n: the N = (H/patch)(W/patch) patches, in reading order. B rows, D width, L tokens: N, or N + 1 with cls (first).
Differs from the paper: with pool='mean' there is no cls token, and pooled is the mean of the tokens. Published
checkpoints have norm_eps=1e-12, and images scaled to [-1, 1].
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.layers import ACTIVATIONS, TransformerBlock, as_float_image, check_transformer, layer_norm
from mtjax.encoders.stack import run_blocks


class ViT(nn.Module):
  """images [B, H, W, C] -> tokens [B, L, D], pooled [B, D], maps [[B, H/patch, W/patch, D]], all float32.

  With classes, aux['logits'] [B, classes] is a linear map of the first token (of the mean with pool='mean').
  Parameters: embed (kernel [patch, patch, C, D], bias [D]), cls [D] (but with pool='mean'), pos_embed [L, D],
  block_i/{norm1, attn/{query,key,value,out}, norm2, mlp/{fc1,fc2}}, norm, pooler (with pool='pooler'), classifier
  (with classes).

  Attributes:
    patch: side of a patch; both sides of the image are multiples of it.
    width: D.
    depth: number of blocks.
    heads: attention heads; they divide the width.
    hidden: width inside a block's MLP; None means 4 * width.
    dropout_rate: after the embedding, and on every residual branch, in training.
    pool: 'cls', 'mean' or 'pooler'.
    classes: outputs of the classifier; None = there is none.
    activation: of the MLPs.
    norm_eps: added to the variances.
    remat: False, True or a name of `stack.POLICIES`: what is computed again in the backward pass.
    scan: whether the blocks are compiled once, as a scan (`mtjax.encoders.stack`).
    implementation: of the attention.
    dtype: of the matrix products and of the residual stream.
  """
  patch: int = 4
  width: int = 64
  depth: int = 4
  heads: int = 4
  hidden: int | None = None
  dropout_rate: float = 0.0
  pool: str = 'cls'
  classes: int | None = None
  activation: str = 'gelu'
  norm_eps: float = 1e-6
  remat: bool | str = False
  scan: bool = False
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'patch', *(() if self.classes is None else ('classes',)))
    check_transformer(self)
    _checks.choice(self, 'pool', ('cls', 'mean', 'pooler'))
    _checks.choice(self, 'activation', list(ACTIVATIONS))

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
    if self.pool != 'mean':
      cls = self.param('cls', nn.initializers.zeros, (width,))
      x = jnp.concatenate([jnp.broadcast_to(cls.astype(x.dtype), (rows, 1, width)), x], axis=1)
    pos_embed = self.param('pos_embed', nn.initializers.normal(width**-0.5), x.shape[1:])
    x = nn.Dropout(self.dropout_rate)(x + pos_embed[None].astype(x.dtype), deterministic=not train)
    blocks = [TransformerBlock(self.heads, self.hidden or 4 * width, self.dropout_rate, self.dtype, self.activation,
                               self.norm_eps, implementation=self.implementation, name=f'block_{i}')
              for i in range(self.depth)]
    x = layer_norm(run_blocks(self, blocks, x, ctx=ctx, train=train), 'norm', self.norm_eps)
    if self.pool == 'mean':
      summary, patch_tokens = x.mean(axis=1), x
    else:
      summary, patch_tokens = x[:, 0], x[:, 1:]
    pooled = summary
    if self.pool == 'pooler':
      pooled = nn.tanh(nn.Dense(width, dtype=self.dtype, name='pooler')(summary)).astype(jnp.float32)
    aux = {}
    if self.classes is not None:
      aux['logits'] = nn.Dense(self.classes, dtype=jnp.float32, name='classifier')(summary)
    return Features(tokens=x, pooled=pooled, maps=[patch_tokens.reshape(rows, *grid, width)], aux=aux)
