"""Inner products and sums of gradient trees, computed in float32 or more whatever the dtype of the leaves."""
from typing import Any

import jax
import jax.numpy as jnp

# The cards' guard of a norm: far below any gradient that matters, it only keeps 0 / 0 from being NaN.
EPSILON = 1e-12


def dot(x: Any, y: Any) -> jax.Array:
  """<x, y>, a scalar.  Leaf by leaf and axis by axis, so that a sharded leaf stays where it is."""
  return sum(jax.tree.leaves(jax.tree.map(lambda a, b: jnp.sum(_wide(a) * _wide(b)), x, y)))


def norm(x: Any) -> jax.Array:
  """||x||, a scalar."""
  return jnp.sqrt(dot(x, x))


def scale(factor: jax.Array, x: Any) -> Any:
  """factor * x, in the dtypes of x."""
  return jax.tree.map(lambda a: _like(factor * _wide(a), a), x)


def add(x: Any, y: Any, factor: Any = 1.0) -> Any:
  """x + factor * y, in the dtypes of x."""
  return jax.tree.map(lambda a, b: _like(_wide(a) + factor * _wide(b), a), x, y)


def ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """numerator / denominator, and 0 where the denominator is 0."""
  return jnp.where(denominator > 0, numerator / jnp.where(denominator > 0, denominator, 1), 0)


def rounding(dtype: Any) -> float:
  """What is smaller than this part of the vectors it is a difference of, is their rounding error."""
  return 8 * float(jnp.finfo(dtype).eps)


def _wide(x: jax.Array) -> jax.Array:
  x = jnp.asarray(x)
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _like(x: jax.Array, example: Any) -> jax.Array:
  return x.astype(jnp.result_type(example))
