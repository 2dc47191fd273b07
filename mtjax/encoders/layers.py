"""What the encoders are made of: attention, the transformer block, and pixels as floats.

Shapes: B rows, L tokens, D width, H heads, G key heads, K numbers a head, F hidden.
Products of matrices run in the module's `dtype`; parameters, norms and softmax are float32. Tables are looked up in
float32 and their rows cast, so that what the occurrences of a token add to the gradient is summed in float32, too.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx
from mtjax.encoders import _checks
from mtjax.encoders.activations import ACTIVATIONS
from mtjax.encoders.attention import attend
from mtjax.encoders.cache import Cache
from mtjax.encoders.rope import Rope, rotate
from mtjax.encoders.stack import check_remat


def as_float_image(x: jax.Array) -> jax.Array:
  """uint8 pixels -> float32 in [0, 1]; floats pass unchanged. Raises TypeError for any other dtype."""
  x = jnp.asarray(x)
  if x.dtype == jnp.uint8:
    return x.astype(jnp.float32) / 255
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise TypeError(f'The input has dtype {x.dtype}; allowed are uint8 (scaled by 1/255) and floats (taken as they '
                    f'are). Convert it, so that its scale is stated.')
  return x


class Attention(nn.Module):
  """Multi-head self-attention.  x [B, L, D], mask as `attend` takes it -> [B, L, D].

  Parameters: query: kernel [D, H, K], bias [H, K]; key, value: kernel [D, G, K], bias [G, K]; out: kernel [H, K, D],
  bias [D]. Heads are an axis of their own, so that a sharding rule may split it.

  Attributes:
    heads: H.
    kv_heads: G, which divides H; None = H.
    head_dim: K; None = D / H.
    use_bias: whether there are biases.
    causal, window, implementation: as `attend` takes them.
    rope: rotary positions; None = none.
    dtype: of the matrix products.
  """
  heads: int
  kv_heads: int | None = None
  head_dim: int | None = None
  use_bias: bool = True
  causal: bool = False
  window: int | None = None
  rope: Rope | None = None
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, segments: jax.Array | None = None,
               positions: jax.Array | None = None, cache: Cache | None = None, ctx: Ctx | None = None,
               train: bool = False):
    """Attends.

    Args:
      x: [B, L, D].
      mask: which keys are seen, as `attend` takes it; with a cache, [B, L], the new tokens that are kept.
      segments: [B, L], of packed rows.
      positions: [B or 1, L] of the rotation; None = 0 … L - 1. With a cache they are its slots.
      cache: the tokens before these.

    Returns:
      [B, L, D]; with a cache the pair ([B, L, D], the cache with these tokens).
    """
    width = x.shape[-1]
    if self.head_dim is None and width % self.heads:
      raise ValueError(f'Attention has heads={self.heads}, which does not divide the width {width} of its input.')
    size = self.head_dim or width // self.heads
    query, key, value = (
      nn.DenseGeneral((heads, size), use_bias=self.use_bias, dtype=self.dtype, name=name)(x)
      for name, heads in (('query', self.heads), ('key', self.kv_heads or self.heads),
                          ('value', self.kv_heads or self.heads)))
    slots = None if cache is None else cache.positions(x.shape[:2], mask)
    if self.rope is not None:
      positions = slots if slots is not None else jnp.arange(x.shape[1])[None] if positions is None else positions
      query, key = rotate(query, positions, self.rope), rotate(key, positions, self.rope)
    if cache is None:
      y = self.attend(query, key, value, mask, causal=self.causal, window=self.window, segments=segments)
    else:
      cache = cache.update(key, value, mask)
      y = self.attend(query, cache.k, cache.v, causal=True, window=self.window, positions=slots)
    y = nn.DenseGeneral(width, axis=(-2, -1), use_bias=self.use_bias, dtype=self.dtype, name='out')(y)
    return y if cache is None else (y, cache)

  def attend(self, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None, **how):
    """What the layer does between its projections: a method, so that it can be intercepted (prefixes)."""
    return attend(query, key, value, mask, implementation=self.implementation, **how)


class Mlp(nn.Module):
  """Two layers, an activation between.  x [..., D] -> [..., D].  Parameters: fc1 [D, F], fc2 [F, D], with biases."""
  hidden: int
  dropout_rate: float = 0.0
  activation: str = 'gelu'
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, ctx: Ctx | None = None, train: bool = False, key: jax.Array | None = None):
    y = nn.Dense(self.hidden, dtype=self.dtype, name='fc1')(x)
    y = nn.Dropout(self.dropout_rate)(ACTIVATIONS[self.activation](y), deterministic=not train, rng=key)
    return nn.Dense(x.shape[-1], dtype=self.dtype, name='fc2')(y)


class GatedMlp(nn.Module):
  """An MLP one of whose inner products gates the other.  x [..., D] -> [..., D].

      fc2(activation(gate(x)) * fc1(x))

  Shazeer, "GLU Variants Improve Transformer", 2020, https://arxiv.org/abs/2002.05202.
  Parameters: gate, fc1: kernel [D, F]; fc2: kernel [F, D]; biases with use_bias.
  """
  hidden: int
  activation: str = 'silu'
  use_bias: bool = False
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, *, ctx: Ctx | None = None, train: bool = False):
    gate, value = (nn.Dense(self.hidden, use_bias=self.use_bias, dtype=self.dtype, name=name)(x)
                   for name in ('gate', 'fc1'))
    y = ACTIVATIONS[self.activation](gate) * value
    return nn.Dense(x.shape[-1], use_bias=self.use_bias, dtype=self.dtype, name='fc2')(y)


class TransformerBlock(nn.Module):
  """One pre-norm layer.  x [B, L, D] -> [B, L, D] in `dtype`.

      x <- x + dropout(attn(norm1(x)));   x <- x + dropout(mlp(norm2(x)))

  Xiong et al., "On Layer Normalization in the Transformer Architecture", ICML 2020, https://arxiv.org/abs/2002.04745.
  Parameters: norm1, attn/{query,key,value,out}, norm2, mlp/{fc1,fc2}. `ctx` goes on to attn and mlp, unread.

  Attributes:
    heads: H.
    hidden: F.
    dropout_rate: on both branches and inside the MLP, in training.
    dtype: of the matrix products and of the residual stream.
    activation: of the MLP.
    norm_eps: added to the variances.
    causal, implementation: as `attend` takes them.
  """
  heads: int
  hidden: int
  dropout_rate: float = 0.0
  dtype: DTypeLike = jnp.float32
  activation: str = 'gelu'
  norm_eps: float = 1e-6
  causal: bool = False
  implementation: str = 'auto'

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, segments: jax.Array | None = None,
               cache: Cache | None = None, ctx: Ctx | None = None, train: bool = False, key: jax.Array | None = None):
    """One layer; `mask`, `segments` and `cache` as `Attention` takes them, `key` as `drop_keys` does.

    Returns:
      [B, L, D]; with a cache the pair of that and the cache with these tokens.
    """
    x = x.astype(self.dtype)
    keys = drop_keys(key, 3)
    attention = Attention(self.heads, causal=self.causal, implementation=self.implementation, dtype=self.dtype,
                          name='attn')
    y = attention(layer_norm(x, 'norm1', self.norm_eps), mask, segments=segments, cache=cache, ctx=ctx, train=train)
    y, cache = (y, None) if cache is None else y
    x = x + nn.Dropout(self.dropout_rate)(y, deterministic=not train, rng=keys[0])
    y = layer_norm(x, 'norm2', self.norm_eps)
    y = Mlp(self.hidden, self.dropout_rate, self.activation, dtype=self.dtype, name='mlp')(
      y, ctx=ctx, train=train, key=keys[1])
    x = x + nn.Dropout(self.dropout_rate)(y, deterministic=not train, rng=keys[2])
    return x if cache is None else (x, cache)


def layer_norm(x: jax.Array, name: str, eps: float = 1e-6) -> jax.Array:
  """LayerNorm over the last axis, in and to float32. To be called inside a compact method.  Parameters: scale, bias."""
  return nn.LayerNorm(eps, dtype=jnp.float32, name=name)(x.astype(jnp.float32))


def rms_norm(x: jax.Array, name: str, eps: float = 1e-6) -> jax.Array:
  """RMSNorm over the last axis, in and to float32: scale x / sqrt(mean(x^2) + eps). Inside a compact method, too.

  Zhang & Sennrich, "Root Mean Square Layer Normalization", NeurIPS 2019, https://arxiv.org/abs/1910.07467.
  """
  return nn.RMSNorm(eps, dtype=jnp.float32, name=name)(x.astype(jnp.float32))


def drop_keys(key: jax.Array | None, num: int) -> list[jax.Array | None]:
  """`num` keys of one layer's dropout from the layer's own; all None where that is None: Linen then draws them."""
  return [None if key is None else jax.random.fold_in(key, i) for i in range(num)]


def check_transformer(module: nn.Module) -> None:
  """The checks that transformers share: sizes, heads dividing width, hidden (None or a size), dropout, remat."""
  _checks.sizes(module, 'width', 'depth', 'heads', *(() if module.hidden is None else ('hidden',)))
  _checks.divides(module, 'heads', of='width')
  _checks.rate(module)
  check_remat(module)
