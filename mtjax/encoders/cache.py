"""The keys and values of the tokens read so far, so that decoding reads each token once.

    slot(b, l) = length_b + (tokens of row b up to l) - 1;   k[b, slot] <- k_new[b, l],   v likewise

Padding takes no slot: rows whose prompts differ in length, padded on either side, lie compactly from slot 0 on, and a
token's slot is its position. Writing one token costs the same however long the cache is (donate it to `jax.jit`).

Shapes: B rows, S slots, G key heads, D numbers a head, L new tokens.
"""
import flax.struct
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


@flax.struct.dataclass
class Cache:
  """The cache of one layer.

  Attributes:
    k: [B, S, G, D] keys, as the layer compares them (rotated, where it rotates).
    v: [B, S, G, D] values.
    length: [B] int32, slots in use. Beyond S nothing is written; a model says so by NaN, see `loud`.
  """
  k: jax.Array
  v: jax.Array
  length: jax.Array

  def positions(self, shape: tuple[int, int], mask: jax.Array | None = None) -> jax.Array:
    """[B, L] int32: the slots of new tokens [B, L]; where `mask` is False, that of the token before."""
    steps = jnp.ones(shape, jnp.int32) if mask is None else mask.astype(jnp.int32)
    return self.length[:, None] + jnp.cumsum(steps, axis=1) - 1

  def update(self, k: jax.Array, v: jax.Array, mask: jax.Array | None = None) -> 'Cache':
    """The cache with k, v [B, L, G, D] appended where `mask` [B, L] is True (None: everywhere)."""
    slots = self.positions(k.shape[:2], mask)
    added = jnp.full(slots.shape[0], slots.shape[1], jnp.int32) if mask is None else mask.sum(axis=1, dtype=jnp.int32)
    if mask is not None:
      slots = jnp.where(mask, slots, self.k.shape[1])  # out of range: dropped
    at = (jnp.arange(len(slots))[:, None], slots)
    return Cache(self.k.at[at].set(k.astype(self.k.dtype), mode='drop'),
                 self.v.at[at].set(v.astype(self.v.dtype), mode='drop'), self.length + added)


def init_cache(depth: int, shape: tuple[int, int, int, int], dtype: DTypeLike = jnp.float32) -> tuple[Cache, ...]:
  """Empty caches of `depth` layers, each of `shape` = [B, S, G, D].

  Example:
    >>> init_cache(2, (3, 16, 4, 8))[0].k.shape
    (3, 16, 4, 8)
  """
  if min(shape) < 1 or depth < 1:
    raise ValueError(f'A cache has depth={depth} and shape [B, S, G, D] = {list(shape)}; allowed are integers >= 1.')
  return tuple(Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), jnp.zeros(shape[0], jnp.int32))
               for _ in range(depth))


def loud(x: jax.Array, cache: Cache) -> jax.Array:
  """x [B, …], with NaN in the rows that have outgrown the cache: compiled code cannot raise."""
  over = cache.length > cache.k.shape[1]
  return jnp.where(over.reshape(-1, *(1,) * (x.ndim - 1)), jnp.nan, x)
