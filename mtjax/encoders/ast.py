"""AST: the spectrogram of a sound as a sequence of overlapping patches.

Gong, Chung & Glass, "AST: Audio Spectrogram Transformer", Interspeech 2021, https://arxiv.org/abs/2104.01778.

    x = [cls; dist; W p_1 + b; …; W p_N + b] + pos_embed;   x <- block_i(x);   tokens = norm(x)
    pooled = (tokens_0 + tokens_1) / 2;   logits = W' norm'(pooled) + b'

p_n: the patches of patch x patch, every stride bins and frames, in rows of time: N = F' T' with
F' = (F - patch) // stride + 1 of F mels and T' likewise of T frames. The spectrogram, in the units of the published
checkpoints: `mtjax.data.filter_bank`. B rows, D width, L = N + 2 tokens.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.layers import ACTIVATIONS, TransformerBlock, check_transformer, layer_norm
from mtjax.encoders.stack import run_blocks

INIT = nn.initializers.normal(0.02)


class AST(nn.Module):
  """spectrogram [B, T, F] -> tokens [B, L, D], pooled [B, D], maps [[B, F', T', D]], all float32.

  With classes, aux['logits'] [B, classes].
  Parameters: embed (kernel [patch, patch, 1, D], of frequency and time, bias [D]), cls [D], dist [D], pos_embed [L, D],
  block_i/{norm1, attn/{query,key,value,out}, norm2, mlp/{fc1,fc2}}, norm, classifier/{norm,dense} (with classes).

  Attributes:
    mels: F.
    frames: T.
    patch: side of a patch.
    stride: from patch to patch, in bins and in frames; a pair for different ones.
    width: D.
    depth: number of blocks.
    heads: attention heads; they divide the width.
    hidden: width inside a block's MLP; None means 4 * width.
    dropout_rate: after the embedding, and on every residual branch, in training.
    classes: outputs of the classifier; None = there is none.
    activation: of the MLPs.
    norm_eps: added to the variances.
    remat: False, True or a name of `stack.POLICIES`: what is computed again in the backward pass.
    scan: whether the blocks are compiled once, as a scan (`mtjax.encoders.stack`).
    implementation: of the attention.
    dtype: of the matrix products and of the residual stream.
  """
  mels: int = 128
  frames: int = 1024
  patch: int = 16
  stride: int | tuple[int, int] = 10
  width: int = 768
  depth: int = 12
  heads: int = 12
  hidden: int | None = None
  dropout_rate: float = 0.0
  classes: int | None = None
  activation: str = 'gelu'
  norm_eps: float = 1e-12
  remat: bool | str = False
  scan: bool = False
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'mels', 'frames', 'patch', 'stride', *(() if self.classes is None else ('classes',)))
    if isinstance(self.stride, tuple) and len(self.stride) != 2:
      raise ValueError(f'AST has stride={self.stride!r}; allowed is an integer, or one of bins and one of frames.')
    if min(self.mels, self.frames) < self.patch:
      raise ValueError(f'AST has mels={self.mels} and frames={self.frames}; allowed are at least patch={self.patch}.')
    check_transformer(self)
    _checks.choice(self, 'activation', list(ACTIVATIONS))

  @nn.compact
  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    x = jnp.asarray(inputs)
    if not jnp.issubdtype(x.dtype, jnp.floating):
      raise TypeError(f'AST reads a spectrogram of floats, but the input has dtype {x.dtype}.')
    if x.ndim != 3 or x.shape[1:] != (self.frames, self.mels):
      raise ValueError(f'AST reads a spectrogram [B, frames, mels] = [B, {self.frames}, {self.mels}], but the input '
                       f'has shape {list(x.shape)}; cut or pad it, or change the fields.')
    strides = self.stride if isinstance(self.stride, tuple) else (self.stride, self.stride)
    x = x.transpose(0, 2, 1)[..., None]
    x = nn.Conv(self.width, (self.patch, self.patch), strides=strides, padding='VALID', dtype=self.dtype,
                name='embed')(x)
    rows, *grid, width = x.shape
    first = [jnp.broadcast_to(self.param(name, INIT, (width,)).astype(x.dtype), (rows, 1, width))
             for name in ('cls', 'dist')]
    x = jnp.concatenate([*first, x.reshape(rows, -1, width)], axis=1)
    pos_embed = self.param('pos_embed', INIT, x.shape[1:])
    x = nn.Dropout(self.dropout_rate)(x + pos_embed[None].astype(x.dtype), deterministic=not train)
    blocks = [TransformerBlock(self.heads, self.hidden or 4 * width, self.dropout_rate, self.dtype, self.activation,
                               self.norm_eps, implementation=self.implementation, name=f'block_{i}')
              for i in range(self.depth)]
    x = layer_norm(run_blocks(self, blocks, x, ctx=ctx, train=train), 'norm', self.norm_eps)
    pooled, aux = (x[:, 0] + x[:, 1]) / 2, {}
    if self.classes is not None:
      aux['logits'] = _Classifier(self.classes, self.norm_eps, name='classifier')(pooled)
    return Features(tokens=x, pooled=pooled, maps=[x[:, 2:].reshape(rows, *grid, width)], aux=aux)


class _Classifier(nn.Module):
  """x [B, D] -> logits [B, classes] float32."""
  classes: int
  norm_eps: float

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return nn.Dense(self.classes, dtype=jnp.float32, name='dense')(layer_norm(x, 'norm', self.norm_eps))
