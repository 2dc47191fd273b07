"""Pseudo-inverse of a symmetric matrix, with a relative cut of its spectrum.

    A^+ b = sum over lambda_i > cut of v_i (v_i^T b) / lambda_i,   cut = 8 eps T max(lambda)

A: [T, T], positive semi-definite; b: [T]. In float32 the cut is about 1e-6 T max(lambda): what is below it in a Gramian
is rounding.
"""
import jax
import jax.numpy as jnp


def hermitian_cut(eigenvalues: jax.Array, size: jax.Array | int | None = None) -> jax.Array:
  """Which eigenvalues [T] are not rounding, [T] bool. `size`: T, where rows and columns of zeros are not to count."""
  size = eigenvalues.shape[0] if size is None else size
  eps = jnp.finfo(eigenvalues.dtype).eps
  return eigenvalues > 8 * eps * size * jnp.maximum(eigenvalues.max(), 0)


def pinv_apply(matrix: jax.Array, vector: jax.Array, size: jax.Array | int | None = None) -> jax.Array:
  """A^+ b, [T]. `size` as in `hermitian_cut`."""
  eigenvalues, vectors = jnp.linalg.eigh(matrix)
  kept = hermitian_cut(eigenvalues, size)
  inverse = jnp.where(kept, 1 / jnp.where(kept, eigenvalues, 1), 0)
  return vectors @ (inverse * (vectors.T @ vector))
