"""Checks of hyper-parameters and inputs, whose errors name the field, what came, and what is allowed."""
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def sizes(module: Any, *fields: str) -> None:
  """Raises ValueError unless each of `fields` is an integer >= 1, or a non-empty sequence of such.

  A list, as configs hold it, becomes a tuple: a module is hashable.
  """
  for field in fields:
    value = getattr(module, field)
    several = isinstance(value, Sequence) and not isinstance(value, str)
    entries = value if several else [value]
    if not entries or any(isinstance(n, bool) or not isinstance(n, numbers.Integral) or n < 1 for n in entries):
      allowed = 'one or more integers >= 1' if several else 'an integer >= 1'
      raise ValueError(f'{type(module).__name__} has {field}={value!r}; allowed is {allowed}.')
    if several:
      object.__setattr__(module, field, tuple(value))


def rate(module: Any, field: str = 'dropout_rate') -> None:
  """Raises ValueError unless the field is a probability below 1."""
  value = getattr(module, field)
  if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < 1:
    raise ValueError(f'{type(module).__name__} has {field}={value!r}; allowed is 0 <= {field} < 1.')


def choice(module: Any, field: str, allowed: Sequence[str]) -> None:
  """Raises ValueError unless the field is one of the names `allowed`."""
  value = getattr(module, field)
  if value not in allowed:
    raise ValueError(f'{type(module).__name__} has {field}={value!r}; allowed are {", ".join(map(repr, allowed))}.')


def divides(module: Any, field: str, of: str) -> None:
  """Raises ValueError unless the size `field` divides the size `of`."""
  part, whole = getattr(module, field), getattr(module, of)
  if whole % part:
    near = [n for n in range(1, whole + 1) if whole % n == 0]
    raise ValueError(f'{type(module).__name__} has {of}={whole}, which is not a multiple of {field}={part}; '
                     f'allowed for {field} are {", ".join(map(str, near))}.')


def images(module: Any, x: jax.Array) -> None:
  """Raises unless x is [B, H, W, C]; its dtype is the matter of `as_float_image`."""
  if x.ndim != 4:
    hint = ' A grey image needs its channel axis: x[..., None].' if x.ndim == 3 else ''
    raise ValueError(f'{type(module).__name__} reads images [B, H, W, C], but the input has shape '
                     f'{list(x.shape)}.{hint}')


def tokens(module: Any, x: jax.Array, max_length: int | None) -> None:
  """Raises unless x is integers [B, L] with L <= max_length (None: any L)."""
  name = type(module).__name__
  if not jnp.issubdtype(x.dtype, jnp.integer):
    raise TypeError(f'{name} reads token ids, but the input has dtype {x.dtype}; allowed are integers, such as int32.')
  if x.ndim != 2:
    raise ValueError(f'{name} reads tokens [B, L], but the input has shape {list(x.shape)}.')
  if max_length is not None and x.shape[1] > max_length:
    raise ValueError(f'{name} has max_length={max_length}, but the input has {x.shape[1]} tokens a row; '
                     f'truncate the rows, or raise max_length.')
