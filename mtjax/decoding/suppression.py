"""Tokens that are not to be written: their logits are lowered to -inf before a token is chosen.

    y_i = argmax_v (logits_i[v] + bias_i[v])
    bias_i[v] = -inf where v is suppressed, or i = 0 and v is not to begin; 0 elsewhere

Published checkpoints list such tokens: marks of sounds and speakers that a transcript has not, and, of the first token
alone, the blank and the end (Radford et al., "Robust Speech Recognition via Large-Scale Weak Supervision", ICML 2023,
https://arxiv.org/abs/2212.04356). What a text scores is its probability under the model itself, unchanged.
"""
import numbers
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


class Suppressed:
  """Adds the bias: `suppressed(i, logits [..., V]) -> [..., V]`.

  Args:
    always: tokens that are never written.
    first: tokens that are not written first.

  Example:
    >>> suppressed = Suppressed(always=(0,), first=(2,))
    >>> print(suppressed(0, jnp.zeros(3)), suppressed(1, jnp.zeros(3)))
    [-inf   0. -inf] [-inf   0.   0.]
  """

  def __init__(self, always: Sequence[int], first: Sequence[int]):
    self._always, self._first = tuple(always), tuple(first)

  def __call__(self, i: jax.Array | int, logits: jax.Array) -> jax.Array:
    """Logits, or scores, of token i with -inf where it may not be."""
    if not self._always and not self._first:
      return logits
    shape = (*[1] * (logits.ndim - 1), -1)
    never, at_first = (np.isin(np.arange(logits.shape[-1]), tokens).reshape(shape)
                       for tokens in (self._always, self._first))
    return jnp.where(jnp.where(i == 0, never | at_first, never), -jnp.inf, logits)


def read_suppressed(tokens: Any, field: str, vocab_size: int | None) -> tuple[int, ...]:
  """Tokens as a tuple; raises ValueError, naming the field, unless they are integers in 0 … V - 1."""
  tokens = (tokens,) if isinstance(tokens, numbers.Integral) else tuple(tokens or ())
  bad = [t for t in tokens if isinstance(t, bool) or not isinstance(t, numbers.Integral) or t < 0
         or (vocab_size is not None and t >= vocab_size)]
  if bad:
    raise ValueError(f'generate has {field} with {bad[0]!r}; allowed are tokens, '
                     + ('integers >= 0.' if vocab_size is None else f'0 … {vocab_size - 1}.'))
  return tuple(int(t) for t in tokens)
