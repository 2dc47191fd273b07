"""P positions more: what a block is told besides its input has to grow with it."""
import inspect
from typing import Any

import jax
import jax.numpy as jnp


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
