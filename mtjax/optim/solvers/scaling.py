"""Scales taken out of a Gramian, so that thresholds can be relative and float32 does not overflow.

G = N C N with N = diag(n), n_t = ||g_t||, C the cosines. Rows of length zero (so also those of absent tasks, set to 0)
have cosine 0 with everything, themselves included, and inverse length 0.
"""
import jax
import jax.numpy as jnp


def unit_trace(gram: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(G / tr(G), tr(G)); G as it is where the trace is 0.  [T, T], scalar."""
  trace = jnp.trace(gram)
  trace = jnp.where(trace > 0, trace, 1)
  return gram / trace, trace


def cosines(gram: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(C [T, T], n [T], 1/n [T]) of a Gramian."""
  squares = jnp.diagonal(gram)
  nonzero = squares > jnp.finfo(gram.dtype).tiny
  norms = jnp.sqrt(jnp.where(nonzero, squares, 0))
  inverse = jnp.where(nonzero, 1 / jnp.where(nonzero, norms, 1), 0)
  cosine = jnp.clip(gram * inverse[:, None] * inverse[None, :], -1, 1)
  return jnp.where(jnp.eye(len(gram), dtype=bool), nonzero.astype(gram.dtype), cosine), norms, inverse
