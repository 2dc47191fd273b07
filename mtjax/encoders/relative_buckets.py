"""T5's relative positions: a learned bias of the scores for each bucket of distances.

Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", JMLR 2020,
section 2.1, https://arxiv.org/abs/1910.10683.

    bias_hls = table[bucket(s - l), h]
    bucket(r) = offset + d                                                              for d < e
              = offset + min(n - 1, e + floor((n - e) log(d / e) / log(max_distance / e)))    else

one way (decoder): d = max(-r, 0), n = buckets, offset = 0; both ways (encoder): d = |r|, n = buckets / 2, offset = n
where r > 0; e = floor(n / 2) distances have a bucket of their own. H heads, L queries, S keys.
"""
import functools

import jax
import jax.numpy as jnp
import numpy as np


@functools.cache
def _of_distance(count: int, max_distance: int) -> np.ndarray:
  """The bucket of each distance 0 … max_distance, out of `count`; float32, as the checkpoints were trained."""
  exact = count // 2
  d = np.arange(max_distance + 1)
  ratio = np.log(np.maximum(d, 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(max_distance / exact))
  far = exact + (ratio * np.float32(count - exact)).astype(np.int32)
  return np.where(d < exact, d, np.minimum(far, count - 1)).astype(np.int32)


def bucket(relative: jax.Array, *, both_ways: bool, buckets: int = 32, max_distance: int = 128) -> jax.Array:
  """relative positions s - l, int of any shape -> their buckets, int32 of that shape.

  Example:
    >>> print(bucket(jnp.array([-200, -3, 0, 3, 200]), both_ways=True))
    [15  3  0 19 31]
  """
  count = buckets // 2 if both_ways else buckets
  distance = jnp.abs(relative) if both_ways else jnp.maximum(-relative, 0)
  index = jnp.asarray(_of_distance(count, max_distance))[jnp.minimum(distance, max_distance)]
  return jnp.where(relative > 0, index + count, index) if both_ways else index


def relative_bias(table: jax.Array, queries: jax.Array, keys: jax.Array, *, both_ways: bool,
                  max_distance: int = 128) -> jax.Array:
  """table [buckets, H], positions queries [B or 1, L] and keys [S] -> [B or 1, H, L, S]."""
  index = bucket(keys[None, None] - queries[:, :, None], both_ways=both_ways, buckets=len(table),
                 max_distance=max_distance)
  return jnp.moveaxis(jnp.take(table, index, axis=0), -1, 1)
