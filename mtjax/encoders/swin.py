"""Swin: attention in windows that shift from block to block, in stages of ever coarser maps.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021,
https://arxiv.org/abs/2103.14030.

    x <- x + attn(norm1(x));   x <- x + mlp(norm2(x))       attn: within windows of M x M positions
    attention = softmax(q k^T / sqrt(K) + b) v,   b_ij = bias_table[(r_i - r_j + M - 1) (2M - 1) + c_i - c_j + M - 1]

Every second block moves the windows by floor(M / 2), cyclically; positions that the roll has made neighbours do not see
each other. Where a side of the map is <= M, windows have the smaller side and nothing moves. Between stages, merging
puts 2 x 2 positions side by side (in the order (0,0), (1,0), (0,1), (1,1) of row and column), norms, and halves the 4 C
channels. Maps that M or 2 do not divide are padded with zeros at the bottom and on the right, in blocks after the norm.

Shapes: B rows, H x W positions of a map, C channels, N = M^2 positions of a window.
Differs from the paper: without stochastic depth; dropout is on the residual branches. The table of biases has the size
of M whatever the map, so that parameters fit images of any size.
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.layers import Mlp, as_float_image
from mtjax.encoders.stack import check_remat, name_attention_out, run_block


class WindowAttention(nn.Module):
  """Attention within windows.  x [B, windows, N, C], mask bool [windows, N, N] or None -> [B, windows, N, C].

  Parameters: query, key, value: kernel [C, heads, K], bias [heads, K]; out: kernel [heads, K, C], bias [C];
  bias_table [(2M - 1)^2, heads].

  Attributes:
    heads: attention heads.
    window: M, which the bias table is made for.
    use_bias: of query, key and value.
    dtype: of the products of matrices.
  """
  heads: int
  window: int
  use_bias: bool = True
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, ctx: Ctx | None = None, train: bool = False):
    width, positions = x.shape[-1], x.shape[-2]
    split = {name: nn.DenseGeneral((self.heads, width // self.heads), use_bias=self.use_bias, dtype=self.dtype,
                                   name=name)(x) for name in ('query', 'key', 'value')}
    table = self.param('bias_table', nn.initializers.normal(0.02), ((2 * self.window - 1)**2, self.heads))
    index = relative_positions(round(positions**0.5), self.window)
    bias = jnp.take(table, index.ravel(), axis=0).reshape(positions, positions, self.heads).transpose(2, 0, 1)
    query = split['query'] * (width // self.heads)**-0.5
    scores = jnp.einsum('bwnhk,bwmhk->bwhnm', query, split['key'], preferred_element_type=jnp.float32)
    scores = scores + bias[None, None]
    if mask is not None:
      scores = jnp.where(mask[None, :, None], scores, -1e9)
    y = jnp.einsum('bwhnm,bwmhk->bwnhk', nn.softmax(scores).astype(self.dtype), split['value'])
    return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name='out')(name_attention_out(y))


class Block(nn.Module):
  """x [B, H, W, C] -> [B, H, W, C].  Parameters: norm1, attn, norm2, mlp/{fc1, fc2}."""
  heads: int
  window: int
  shifted: bool
  hidden: int
  use_bias: bool
  eps: float
  dropout_rate: float
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, mask: None = None, *, ctx: Ctx | None = None, train: bool = False) -> jax.Array:
    _, height, width, _ = x.shape
    fits = min(height, width) <= self.window
    size = min(height, width) if fits else self.window
    shift = 0 if fits or not self.shifted else self.window // 2
    dropout = nn.Dropout(self.dropout_rate, deterministic=not train)

    y = _norm(self.eps, 'norm1')(x)
    y = jnp.pad(y, [(0, 0), (0, -height % size), (0, -width % size), (0, 0)])
    padded = y.shape[1:3]
    y = to_windows(jnp.roll(y, (-shift, -shift), (1, 2)), size)
    mask = jnp.asarray(neighbours(*padded, size, shift)) if shift else None
    y = WindowAttention(self.heads, self.window, self.use_bias, self.dtype, name='attn')(y, mask, ctx=ctx, train=train)
    y = jnp.roll(from_windows(y, *padded), (shift, shift), (1, 2))[:, :height, :width]
    x = x + dropout(y).astype(x.dtype)
    y = Mlp(self.hidden, dtype=self.dtype, name='mlp')(_norm(self.eps, 'norm2')(x), ctx=ctx, train=train)
    return x + dropout(y).astype(x.dtype)


class Merge(nn.Module):
  """2 x 2 positions into one.  x [B, H, W, C] -> [B, ceil(H / 2), ceil(W / 2), 2 C].

  Parameters: norm (scale, bias [4 C]), reduction/kernel [4 C, 2 C].
  """
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = jnp.pad(x, [(0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)])
    x = jnp.concatenate([x[:, row::2, column::2] for column in range(2) for row in range(2)], axis=-1)
    x = _norm(1e-5, 'norm')(x)
    return nn.Dense(x.shape[-1] // 2, use_bias=False, dtype=self.dtype, name='reduction')(x).astype(jnp.float32)


class Stage(nn.Module):
  """x [B, H, W, C] -> (x for the next stage, x before merging).  Parameters: block_j, merge (where `merges`)."""
  depth: int
  merges: bool
  heads: int
  window: int
  hidden: int
  use_bias: bool
  eps: float
  dropout_rate: float
  remat: bool | str
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> tuple[jax.Array, jax.Array]:
    for j in range(self.depth):
      block = Block(self.heads, self.window, j % 2 == 1, self.hidden, self.use_bias, self.eps, self.dropout_rate,
                    self.dtype, name=f'block_{j}')
      x = run_block(block, x, ctx=ctx, train=train, remat=self.remat)
    return (Merge(self.dtype, name='merge')(x) if self.merges else x), x


class Swin(nn.Module):
  """images [B, H, W, C] -> maps [[B, H_i, W_i, width 2^i]], tokens [B, L, D], pooled [B, D], all float32.

  maps[i] is what stage i hands on, before merging: H_i = H / (patch 2^i), rounded up; the last one is normed. tokens
  are the positions of the last map in reading order, pooled is their mean; D = width 2^(stages - 1).
  With classes, aux['logits'] [B, classes] is a linear map of pooled.
  Images whose sides `patch` does not divide are padded with zeros at the bottom and on the right.
  Parameters: embed (kernel [patch, patch, C, width], bias), embed_norm, stage_i/block_j/{norm1, attn/{query, key,
  value, out, bias_table}, norm2, mlp/{fc1, fc2}}, stage_i/merge/{norm, reduction} (not in the last stage), norm,
  classifier (with classes).

  Attributes:
    patch: side of a patch.
    width: channels of the first stage.
    depths: blocks of each stage; every second one is shifted.
    heads: attention heads of each stage.
    window: M.
    mlp_ratio: hidden units of a block's MLP, as a multiple of its channels.
    qkv_bias: whether query, key and value have biases.
    eps: of the norms, but for those of merging and of the patches, which have 1e-5.
    dropout_rate: after the embedding, and on every residual branch, in training.
    classes: outputs of the classifier; None = there is none.
    remat: compute a block's activations again in the backward pass, to save memory; or a name of `stack.POLICIES`.
    dtype: of the products of matrices.
  """
  patch: int = 4
  width: int = 96
  depths: Sequence[int] = (2, 2, 6, 2)
  heads: Sequence[int] = (3, 6, 12, 24)
  window: int = 7
  mlp_ratio: float = 4.0
  qkv_bias: bool = True
  eps: float = 1e-5
  dropout_rate: float = 0.0
  classes: int | None = None
  remat: bool | str = False
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'patch', 'width', 'depths', 'heads', 'window',
                  *(() if self.classes is None else ('classes',)))
    _checks.rate(self)
    check_remat(self)
    if len(self.depths) != len(self.heads):
      raise ValueError(f'Swin has depths={self.depths} and heads={self.heads}; allowed is one of each a stage.')
    for i, heads in enumerate(self.heads):
      if self.width * 2**i % heads:
        raise ValueError(f'Swin has heads={self.heads}: {heads} heads do not divide the {self.width * 2**i} channels '
                         f'of stage {i} (width={self.width}).')
    if self.mlp_ratio * self.width < 1:
      raise ValueError(f'Swin has mlp_ratio={self.mlp_ratio}; allowed is at least one hidden unit.')

  @nn.compact
  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    x = as_float_image(inputs)
    _checks.images(self, x)
    x = jnp.pad(x, [(0, 0), (0, -x.shape[1] % self.patch), (0, -x.shape[2] % self.patch), (0, 0)])
    patches = (self.patch, self.patch)
    # Biases that are not zero: a black patch would be a zero vector, at which a chain of norms has gradients of 1e19.
    bound = (self.patch**2 * x.shape[-1])**-0.5
    x = nn.Conv(self.width, patches, strides=patches, padding='VALID', dtype=self.dtype, name='embed',
                bias_init=lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound))(x)
    x = _norm(1e-5, 'embed_norm')(x.astype(jnp.float32))
    x = nn.Dropout(self.dropout_rate)(x, deterministic=not train)
    maps = []
    for i, (depth, heads) in enumerate(zip(self.depths, self.heads)):
      stage = Stage(depth, i + 1 < len(self.depths), heads, self.window, int(self.mlp_ratio * x.shape[-1]),
                    self.qkv_bias, self.eps, self.dropout_rate, self.remat, self.dtype, name=f'stage_{i}')
      x, before = stage(x, ctx=ctx, train=train)
      maps.append(before)
    maps[-1] = x = _norm(self.eps, 'norm')(x)
    tokens = x.reshape(x.shape[0], -1, x.shape[-1])
    pooled, aux = tokens.mean(axis=1), {}
    if self.classes is not None:
      aux['logits'] = nn.Dense(self.classes, dtype=jnp.float32, name='classifier')(pooled)
    return Features(tokens=tokens, pooled=pooled, maps=maps, aux=aux)


def relative_positions(size: int, window: int) -> np.ndarray:
  """Entries of a table made for `window`, for all pairs of positions in a window of size <= window: int [N, N].

  Example:
    >>> print(relative_positions(2, 2)[0])       # from the first position, rows and columns differ by 0 or -1
    [4 3 1 0]
  """
  row, column = np.divmod(np.arange(size**2), size)
  rows, columns = row[:, None] - row + window - 1, column[:, None] - column + window - 1
  return rows * (2 * window - 1) + columns


def neighbours(height: int, width: int, size: int, shift: int) -> np.ndarray:
  """Which positions of a window may see each other after the roll: bool [windows, N, N].

  Those that were neighbours before: rows and columns are in regions 0 … side - size, … side - shift, … side.
  """
  def regions(side):
    at = np.arange(side)
    return (at >= side - size).astype(int) + (at >= side - shift)

  region = 3 * regions(height)[:, None] + regions(width)
  region = region.reshape(height // size, size, width // size, size).transpose(0, 2, 1, 3).reshape(-1, size**2)
  return region[:, :, None] == region[:, None, :]


def to_windows(x: jax.Array, size: int) -> jax.Array:
  """[B, H, W, C] -> [B, windows, size^2, C], in reading order."""
  rows, height, width, channels = x.shape
  x = x.reshape(rows, height // size, size, width // size, size, channels).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(rows, -1, size**2, channels)


def from_windows(x: jax.Array, height: int, width: int) -> jax.Array:
  """The inverse of `to_windows`."""
  rows, _, positions, channels = x.shape
  size = round(positions**0.5)
  x = x.reshape(rows, height // size, width // size, size, size, channels).transpose(0, 1, 3, 2, 4, 5)
  return x.reshape(rows, height, width, channels)


def _norm(eps: float, name: str) -> nn.LayerNorm:
  """LayerNorm in and to float32."""
  return nn.LayerNorm(eps, dtype=jnp.float32, name=name)
