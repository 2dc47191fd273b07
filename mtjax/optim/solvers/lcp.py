"""Linear complementarity problems by block principal pivoting.

Judice & Pires, "A block principal pivoting algorithm for large-scale strictly monotone linear complementarity
problems", Computers & Operations Research 21(5), 1994, https://doi.org/10.1016/0305-0548(94)90106-6.

    find z >= 0 with y = M z + q >= 0 and z^T y = 0;   for symmetric M: z = argmin_{z >= 0} 1/2 z^T M z + q^T z

M: [T, T], symmetric, positive definite. q, y, z: [T]. The free set F holds the indices where y is 0 and z is solved
for. All indices that violate a sign change sides at once; when that stops to help, only the last of them, which ends.
Differs from the paper: no permuted blocks but a masked Cholesky factor of full size, so that shapes are fixed, with one
step of iterative refinement. Several right-hand sides by `jax.vmap` over q.
"""
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

PATIENCE = 3  # block flips that may fail to lower the number of violations


def regularised(matrix: jax.Array, amount: float) -> jax.Array:
  """M + amount I, or the least multiple of I with which rounding leaves a Gramian of scale 1 positive definite."""
  size, dtype = matrix.shape[0], matrix.dtype
  return matrix + max(amount, 4 * size * float(jnp.finfo(dtype).eps)) * jnp.eye(size, dtype=dtype)


def solve_lcp(matrix: jax.Array, q: jax.Array, free: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
  """(z [T], F [T] bool).  `free`: the free set to start from; empty by default.

  At most 5 T + 20 factorisations. Rounding can keep the signs of a nearly singular M from settling, above all in
  float32; then the set whose violations were the smallest gives the answer.
  """
  size = q.shape[0]
  eps = jnp.finfo(q.dtype).eps
  indices, diagonal = jnp.arange(size), jnp.diagonal(matrix)

  def complementary(free):
    """z, 0 off the free set, with y = 0 on it; who violates a sign; by how much, relative to the terms of y."""
    masked = jnp.where(free[:, None] & free[None, :], matrix, jnp.diag(jnp.where(free, 0, 1).astype(q.dtype)))
    factor = (jnp.linalg.cholesky(masked, symmetrize_input=False), True)
    right = jnp.where(free, -q, 0)
    z = cho_solve(factor, right)
    z = jnp.where(free, z + cho_solve(factor, right - masked @ z), 0)
    y = jnp.where(free, 0, matrix @ z + q)
    violates = jnp.where(free, z < -10 * eps * jnp.abs(z).max(), y < -10 * eps * jnp.abs(q).max())
    terms = (jnp.abs(q) + diagonal * jnp.abs(z)).max()
    amount = jnp.where(violates, -(diagonal * z + y), 0).max() / jnp.where(terms > 0, terms, 1)
    return z, violates, jnp.where(violates.any(), amount, 0)

  def unsolved(carry):
    _, _, _, solved, _, step = carry
    return ~solved & (step < 5 * size + 20)

  def pivot(carry):
    free, patience, fewest, _, best, step = carry
    z, violates, amount = complementary(free)
    best = jax.tree.map(lambda new, old: jnp.where(amount <= best[0], new, old), (amount, z, free), best)
    count = violates.sum(dtype=jnp.int32)
    fewer = count < fewest
    last = jnp.where(violates, indices, -1).max()
    free = free ^ jnp.where(fewer | (patience > 0), violates, indices == last)
    patience = jnp.where(fewer, PATIENCE, jnp.maximum(patience - 1, 0))
    return free, patience, jnp.minimum(fewest, count), count == 0, best, step + 1

  free = jnp.zeros(size, bool) if free is None else free
  best = (jnp.full((), jnp.inf, q.dtype), jnp.zeros_like(q), free)
  start = (free, jnp.int32(PATIENCE), jnp.int32(size + 1), jnp.zeros((), bool), best, jnp.int32(0))
  _, z, free = jax.lax.while_loop(unsolved, pivot, start)[4]
  return jnp.maximum(z, 0), free
