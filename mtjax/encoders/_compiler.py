"""What keeps the compiler for CPUs from undoing what was done on purpose; it sees through barriers, not through loops.

Elsewhere `kept` is the function itself.
"""
from collections.abc import Callable

import jax
import jax.numpy as jnp


def unknown_indices(num: int) -> tuple[jax.Array, ...]:
  """0 … num - 1 as int32, pushed one after the other into a register by a loop, so that none is a constant."""
  def push(i, register):
    return (num - 1 - i, *register[:-1])

  return jax.lax.fori_loop(0, num, push, (jnp.zeros((), jnp.int32),) * num)


def kept(fn: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
  """fn(x), elementwise, computed once and stored, rather than again wherever it is read.

  It is one branch of a condition that always holds, which the compiler does not know; branches are not taken apart.
  """
  if jax.default_backend() != 'cpu':
    return fn(x)
  turns = jax.lax.while_loop(lambda turns: turns < 2, lambda turns: turns + 1, jnp.zeros((), jnp.int32))
  return jax.lax.cond(turns == 2, fn, jax.lax.neg, x)
