"""Projection onto the cone of directions that harm no task, as weights.

    the point nearest to J^T u with J d >= 0 is d = J^T v,   v = argmin_{v >= u} v^T G v

G = J J^T: [T, T]; u, v: [T]. G is scaled to trace 1 and gets `regularisation` I. With v = u + z this is the linear
complementarity problem of that matrix M and q = M u. It is solved with the diagonal of M scaled to 1, so that rounding
is relative to each row: float32 would otherwise lose the rows that are 1000 times shorter than others.
"""
import jax
import jax.numpy as jnp

from mtjax.optim.solvers.lcp import solve_semidefinite
from mtjax.optim.solvers.scaling import unit_trace

PROXIMAL_STEPS = 2


def project_weights(gram: jax.Array, u: jax.Array, regularisation: float) -> jax.Array:
  """u [T] -> v [T]. Several u of one G by `jax.vmap` over u."""
  matrix = unit_trace(gram)[0] + regularisation * jnp.eye(len(gram), dtype=gram.dtype)
  lengths = jnp.sqrt(jnp.diagonal(matrix))
  inverse = jnp.where(lengths > 0, 1 / jnp.where(lengths > 0, lengths, 1), 0)
  matrix = matrix * inverse[:, None] * inverse[None, :]
  return u + inverse * solve_semidefinite(matrix, matrix @ (lengths * u), num_steps=PROXIMAL_STEPS)
