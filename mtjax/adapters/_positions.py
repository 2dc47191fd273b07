"""P positions more: what a block, or an attention, is told besides its input has to grow with it."""
import inspect
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax.encoders.masks import check_bias, seen


def lengthen(module: Any, args: tuple, kwargs: dict, at: int, length: int) -> tuple[tuple, dict]:
  """The arguments of a block whose input [B, L, D] has `length` positions more, from position `at` on.

  A mask shows them, positions move on, biases of the scores are 0 there.
  """
  bound = inspect.signature(type(module).__call__).bind(module, *args, **kwargs)
  given = bound.arguments
  for name in ('segments', 'cache'):
    if given.get(name) is not None:
      raise ValueError(f'Prompts in front of packed rows, or in decoding with a cache, are not supported: '
                       f"{'/'.join(module.path)!r} was given {name}.")
  num = args[0].shape[1] - length
  if given.get('mask') is not None:
    given['mask'] = _insert(given['mask'], at, length, num, True)
  if given.get('bias') is not None:
    given['bias'] = _insert(given['bias'], at, length, num, 0)
  if given.get('positions') is not None:
    old = given['positions']
    new = jnp.broadcast_to(at + jnp.arange(length)[None], (old.shape[0], length)).astype(old.dtype)
    given['positions'] = jnp.concatenate([old[:, :at], new, old[:, at:] + length], axis=1)
  return bound.args[1:], bound.kwargs


def _insert(x: jax.Array, at: int, length: int, num: int, value: Any) -> jax.Array:
  """[B, L] or [B, H, L or 1, S] with `length` entries of `value` more on the axes that are positions."""
  for axis in range(1, x.ndim) if x.ndim == 2 else (x.ndim - 2, x.ndim - 1):
    if x.shape[axis] == num and num > 1:
      shape = [length if i == axis else n for i, n in enumerate(x.shape)]
      before, after = jnp.split(x, [at], axis=axis)
      x = jnp.concatenate([before, jnp.full(shape, value, x.dtype), after], axis=axis)
  return x


def prefix_attend(query: jax.Array, key: jax.Array, value: jax.Array, rest: Sequence[Any], kwargs: dict[str, Any],
                  k: jax.Array, v: jax.Array) -> tuple[tuple, dict]:
  """The arguments of `attend` with keys and values k, v [B, P, G, D] in front, which every query sees."""
  length, (rows, queries, heads) = k.shape[1], query.shape[:3]
  mask = rest[0] if rest else kwargs.get('mask')
  facts = {name: kwargs.pop(name, None) for name in ('segments', 'positions', 'prefix', 'window')}
  causal, bias = kwargs.pop('causal', False), kwargs.get('bias')
  if mask is not None and mask.ndim == 2 and not causal and facts['segments'] is None:
    table = mask
  else:
    table = seen((rows, heads, queries, key.shape[1]), mask=mask, causal=causal, **facts).table()
  if table is not None:
    table = jnp.pad(table, [(0, 0)] * (table.ndim - 1) + [(length, 0)], constant_values=True)
  if bias is not None:
    bias = check_bias(bias, (rows, heads, queries, key.shape[1]))
    kwargs = {**kwargs, 'bias': jnp.pad(bias, [(0, 0), (0, 0), (0, 0), (length, 0)])}
  key = jnp.concatenate([k.astype(key.dtype), key], axis=1)
  value = jnp.concatenate([v.astype(value.dtype), value], axis=1)
  return (query, key, value, table), {name: x for name, x in kwargs.items() if name != 'mask'}
