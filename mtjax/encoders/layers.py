"""What the encoders are made of: attention, the transformer block, and pixels as floats.

Shapes: B rows, L tokens, D width, H heads, K numbers a head (D = H K), F hidden.
Products of matrices run in the module's `dtype`; parameters, norms and softmax are float32.
"""
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx
from mtjax.encoders import _checks

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'relu': nn.relu,
  'gelu': lambda x: nn.gelu(x, approximate=False),
  'silu': nn.silu,
  'tanh': nn.tanh,
}


def as_float_image(x: jax.Array) -> jax.Array:
  """uint8 pixels -> float32 in [0, 1]; floats pass unchanged. Raises TypeError for any other dtype."""
  x = jnp.asarray(x)
  if x.dtype == jnp.uint8:
    return x.astype(jnp.float32) / 255
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f'The input has dtype {x.dtype}; allowed are uint8 (scaled by 1/255) and floats (taken as they '
                    f'are). Convert it, so that its scale is stated.')
  return x


def attend(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """Scaled dot-product attention, with the softmax in float32.

      out_l = sum_m softmax_m(q_l . k_m / sqrt(K)) v_m

  Vaswani et al., "Attention Is All You Need", NeurIPS 2017, equation 1, https://arxiv.org/abs/1706.03762.

  Args:
    query: [B, L, H, K].
    key: [B, M, H, K].
    value: [B, M, H, K].
    mask: bool, broadcastable to [B, H, L, M]: which keys m a query l may see. Where it may see none, it sees all
      alike: finite, of no meaning.

  Returns:
    [B, L, H, K] in the dtype of `value`.
  """
  query = query * (query.shape[-1] ** -0.5)
  scores = jnp.einsum('blhk,bmhk->bhlm', query, key, preferred_element_type=jnp.float32)
  if mask is not None:
    scores = jnp.where(mask, scores, -1e9)
  return jnp.einsum('bhlm,bmhk->blhk', nn.softmax(scores).astype(value.dtype), value)


class Attention(nn.Module):
  """Multi-head self-attention.  x [B, L, D], mask as `attend` takes it -> [B, L, D].

  Parameters: query, key, value: kernel [D, H, K], bias [H, K]; out: kernel [H, K, D], bias [D]. Heads are an axis of
  their own, so that a sharding rule may split it.
  """
  heads: int
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, ctx: Ctx | None = None, train: bool = False):
    width = x.shape[-1]
    if width % self.heads:
      raise ValueError(f'Attention has heads={self.heads}, which does not divide the width {width} of its input.')
    split = {name: nn.DenseGeneral((self.heads, width // self.heads), dtype=self.dtype, name=name)(x)
             for name in ('query', 'key', 'value')}
    y = attend(**split, mask=mask)
    return nn.DenseGeneral(width, axis=(-2, -1), dtype=self.dtype, name='out')(y)


class Mlp(nn.Module):
  """Two layers with GELU between.  x [..., D] -> [..., D].  Parameters: fc1 [D, F], fc2 [F, D], with biases."""
  hidden: int
  dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, ctx: Ctx | None = None, train: bool = False):
    y = nn.Dense(self.hidden, dtype=self.dtype, name='fc1')(x)
    y = nn.Dropout(self.dropout_rate)(ACTIVATIONS['gelu'](y), deterministic=not train)
    return nn.Dense(x.shape[-1], dtype=self.dtype, name='fc2')(y)


class TransformerBlock(nn.Module):
  """One pre-norm layer.  x [B, L, D] -> [B, L, D] in `dtype`.

      x <- x + dropout(attn(norm1(x)));   x <- x + dropout(mlp(norm2(x)))

  Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020, https://arxiv.org/abs/2002.04745.
  Parameters: norm1, attn/{query,key,value,out}, norm2, mlp/{fc1,fc2}. `ctx` goes on to attn and mlp, unread.
  """
  heads: int
  hidden: int
  dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, ctx: Ctx | None = None, train: bool = False):
    x = x.astype(self.dtype)
    y = layer_norm(x, 'norm1')
    y = Attention(self.heads, dtype=self.dtype, name='attn')(y, mask, ctx=ctx, train=train)
    x = x + nn.Dropout(self.dropout_rate)(y, deterministic=not train)
    y = layer_norm(x, 'norm2')
    y = Mlp(self.hidden, self.dropout_rate, dtype=self.dtype, name='mlp')(y, ctx=ctx, train=train)
    return x + nn.Dropout(self.dropout_rate)(y, deterministic=not train)


def layer_norm(x: jax.Array, name: str) -> jax.Array:
  """LayerNorm over the last axis, in and to float32. To be called inside a compact method.  Parameters: scale, bias."""
  return nn.LayerNorm(dtype=jnp.float32, name=name)(x.astype(jnp.float32))


def run_block(block: nn.Module, x: jax.Array, mask: jax.Array | None = None, *, ctx: Ctx | None = None,
              train: bool = False, remat: bool = False) -> jax.Array:
  """block(x, mask, ctx=…, train=…); with `remat`, its activations are computed again in the backward pass."""
  def call(block, x, mask, ctx):
    return block(x, mask, ctx=ctx, train=train)

  return (nn.remat(call) if remat else call)(block, x, mask, ctx)


def check_transformer(module: nn.Module) -> None:
  """The checks that transformers share: sizes, heads dividing width, hidden (None or a size), dropout."""
  _checks.sizes(module, 'width', 'depth', 'heads', *(() if module.hidden is None else ('hidden',)))
  _checks.divides(module, 'heads', of='width')
  _checks.rate(module)
