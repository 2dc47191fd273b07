"""Which keys a query sees, kept as facts rather than as an L x S table.

    seen(l, s) = mask(l, s) and segment(l) = segment(s) and [ (s <= p_l) and (s > p_l - window) or (s < prefix) ]

p_l: where query l stands among the keys; without a cache, l itself. A fact that is not given excludes nothing. The
table of a few keys is made when they are read, so that long inputs need no L x S memory.

Shapes: B rows, H heads, L queries, S keys.
"""
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Seen:
  """The facts about one call of `attend`.

  Attributes:
    num_keys: S.
    mask: bool, [B or 1, H or 1, L or 1, S].
    query_segments: [B, L]; a query sees the keys of its own segment.
    key_segments: [B, S].
    positions: [B or 1, L] int, where each query stands among the keys.
    prefix: [B] int, how many keys at the beginning every query sees.
    causal: whether a query sees no key behind its own position (but those of the prefix).
    window: how many keys up to its own a query sees, None = all.
  """
  num_keys: int = flax.struct.field(pytree_node=False)
  mask: jax.Array | None = None
  query_segments: jax.Array | None = None
  key_segments: jax.Array | None = None
  positions: jax.Array | None = None
  prefix: jax.Array | None = None
  causal: bool = flax.struct.field(pytree_node=False, default=False)
  window: int | None = flax.struct.field(pytree_node=False, default=None)

  def table(self, start: Any = 0, size: int | None = None) -> jax.Array | None:
    """bool, broadcastable to [B, H, L, size]: which of the keys start … start + size - 1 are seen; None = all."""
    size = self.num_keys if size is None else size
    parts = []
    if self.mask is not None:
      parts.append(_keys(self.mask, start, size))
    if self.query_segments is not None:
      own = self.query_segments[:, None, :, None]
      parts.append(own == _keys(self.key_segments, start, size)[:, None, None, :])
    if self.causal:
      slot = (start + jnp.arange(size))[None, None, None, :]
      here = self.positions[:, None, :, None]
      before = slot <= here
      if self.window is not None:
        before &= slot > here - self.window
      if self.prefix is not None:
        before |= slot < self.prefix[:, None, None, None]
      parts.append(before)
    if not parts:
      return None
    table = parts[0]
    for part in parts[1:]:
      table = table & part
    return table


def seen(shape: tuple[int, int, int, int], *, mask=None, segments=None, positions=None, prefix=None, causal=False,
         window=None) -> Seen:
  """Checks what `attend` was given, and brings it to the shapes of `Seen`.

  Args:
    shape: (B, H, L, S).
    mask, segments, positions, prefix, causal, window: as `attend` takes them.
  """
  rows, heads, queries, keys = shape
  if (window is not None or prefix is not None) and not causal:
    raise ValueError(f'attend has window={window!r} and prefix={"given" if prefix is not None else None}, which narrow '
                     f'or widen what causal=True shows; allowed with causal=False is neither.')
  if window is not None and (isinstance(window, bool) or window < 1):
    raise ValueError(f'attend has window={window!r}; allowed is an integer >= 1, or None for all keys.')
  if mask is not None:
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
      raise TypeError(f'attend has a mask of dtype {mask.dtype}; allowed is bool, True where a key is seen. '
                      f'What is added to the scores is called bias.')
    mask = mask[:, None, None, :] if mask.ndim == 2 else mask
    _check(mask, 'mask', (rows, heads, queries, keys))
    mask = jnp.broadcast_to(mask, (*mask.shape[:3], keys))
  own = others = None
  if segments is not None:
    own, others = segments if isinstance(segments, tuple) else (segments, segments)
    for name, ids, length in (('queries', own, queries), ('keys', others, keys)):
      if ids.shape != (rows, length):
        raise ValueError(f'attend has segments of shape {list(ids.shape)} for its {name}; '
                         f'allowed is {[rows, length]}.')
  if causal:
    if positions is None:
      if queries != keys:
        raise ValueError(f'attend is causal with {queries} queries and {keys} keys: give positions [B, L], where the '
                         f'queries stand among the keys.')
      positions = jnp.arange(queries)[None]
    if positions.shape not in ((rows, queries), (1, queries)):
      raise ValueError(f'attend has positions of shape {list(positions.shape)}; allowed is {[rows, queries]}.')
  if prefix is not None and jnp.shape(prefix) != (rows,):
    raise ValueError(f'attend has a prefix of shape {list(jnp.shape(prefix))}; allowed is {[rows]}, a length a row.')
  return Seen(keys, mask, own, others, positions if causal else None, prefix, causal, window)


def check_bias(bias: jax.Array, shape: tuple[int, int, int, int]) -> jax.Array:
  """A bias of the scores as float32 [B or 1, H or 1, L or 1, S]."""
  _check(bias, 'bias', shape)
  return jnp.broadcast_to(bias, (*bias.shape[:3], shape[3])).astype(jnp.float32)


def _check(x: jax.Array, name: str, shape: tuple[int, ...]) -> None:
  if x.ndim != 4 or any(size not in (1, full) for size, full in zip(x.shape, shape)):
    also = f', or [B, S] = {[shape[0], shape[3]]}' if name == 'mask' else ''
    raise ValueError(f'attend has a {name} of shape {list(x.shape)}; allowed is what broadcasts to [B, H, L, S] = '
                     f'{list(shape)}{also}.')


def _keys(x: jax.Array, start: Any, size: int) -> jax.Array:
  """The entries start … start + size - 1 of the last axis; behind its end, whatever."""
  if x.shape[-1] == size:
    return x
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % size)])
  return jax.lax.dynamic_slice_in_dim(x, start, size, axis=-1)
