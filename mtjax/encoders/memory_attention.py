"""Attention of a decoder: over its own tokens, or over a memory, the tokens of an encoder (cross attention).

Vaswani et al., "Attention Is All You Need", NeurIPS 2017, section 3.2.3, https://arxiv.org/abs/1706.03762.

    own tokens:  q = W_q x, k = W_k x, v = W_v x          memory m:  q = W_q x, k = W_k m, v = W_v m
    y = W_o attend(q, k, v)

In decoding the keys and values of the memory are computed once (`keys`), those of the tokens one by one
(`MemoryCache`). Shapes: B rows, L tokens, S tokens of the memory, D width, H heads, K numbers a head.
"""
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx
from mtjax.encoders.attention import attend
from mtjax.encoders.cache import Cache

LECUN = nn.initializers.lecun_normal()


@flax.struct.dataclass
class MemoryCache:
  """What one layer of a decoder keeps.

  Attributes:
    own: the tokens read so far.
    k: [B, S, H, K] keys of the memory.
    v: [B, S, H, K] values of the memory.
    mask: [B, S] bool, the tokens of the memory that are not padding; None = all.
  """
  own: Cache
  k: jax.Array
  v: jax.Array
  mask: jax.Array | None = None

  def gather(self, rows: jax.Array) -> 'MemoryCache':
    """The cache whose row i has read what row rows[i] had; both rows have the same memory, which stays."""
    return self.replace(own=jax.tree.map(lambda x: x[rows], self.own))


class MemoryAttention(nn.Module):
  """x [B, L, D] -> [B, L, D]; with a cache of its own tokens, the pair of that and the cache with these tokens.

  Parameters: query, key, value: kernel [D, H, K], bias [H, K]; out: kernel [H, K, D], bias [D].

  Attributes:
    width: D.
    heads: H.
    head_dim: K.
    use_bias: whether query, value and out have biases.
    key_bias: whether the key has one.
    causal: whether a token sees only those up to itself.
    scale: of the scores; None = K^-0.5.
    query_init: initialiser of the query's kernel.
    implementation: as `attend` takes it.
    dtype: of the matrix products.
  """
  width: int
  heads: int
  head_dim: int
  use_bias: bool = True
  key_bias: bool = True
  causal: bool = False
  scale: float | None = None
  query_init: Callable[..., jax.Array] = LECUN
  implementation: str = 'auto'
  dtype: DTypeLike = jnp.float32

  def setup(self):
    split = (self.heads, self.head_dim)
    self.query = nn.DenseGeneral(split, use_bias=self.use_bias, dtype=self.dtype, kernel_init=self.query_init)
    self.key = nn.DenseGeneral(split, use_bias=self.key_bias, dtype=self.dtype)
    self.value = nn.DenseGeneral(split, use_bias=self.use_bias, dtype=self.dtype)
    self.out = nn.DenseGeneral(self.width, axis=(-2, -1), use_bias=self.use_bias, dtype=self.dtype)

  def keys(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys and values [B, S, H, K] of a memory [B, S, D]."""
    return self.key(memory), self.value(memory)

  def __call__(self, x: jax.Array, mask: jax.Array | None = None, *, keys: tuple[jax.Array, jax.Array] | None = None,
               bias: jax.Array | None = None, segments: jax.Array | None = None, cache: Cache | None = None,
               ctx: Ctx | None = None, train: bool = False):
    """Attends.

    Args:
      x: [B, L, D].
      mask: which keys are seen, as `attend` takes it; with a cache, [B, L], the new tokens that are kept.
      keys: of a memory, as the method `keys` gives them; None = those of x.
      bias: added to the scores, as `attend` takes it.
      segments: [B, L], of packed rows.
      cache: the tokens before these; not with `keys`.
    """
    query = self.query(x)
    if cache is not None:
      slots = cache.positions(x.shape[:2], mask)
      cache = cache.update(*self.keys(x), mask)
      return self.out(self.attend(query, cache.k, cache.v, bias=bias, causal=True, positions=slots)), cache
    k, v = self.keys(x) if keys is None else keys
    return self.out(self.attend(query, k, v, mask, bias=bias, causal=self.causal, segments=segments))

  def attend(self, query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array | None = None, **how):
    """What the layer does between its projections: a method, so that it can be intercepted (prefixes)."""
    return attend(query, key, value, mask, scale=self.scale, implementation=self.implementation, **how)
