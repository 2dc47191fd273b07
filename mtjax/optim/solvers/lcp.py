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


def shift_of(matrix: jax.Array, amount: float) -> float:
  """`amount`, but no less than what keeps a Gramian of scale 1 positive definite under rounding."""
  return max(amount, 4 * matrix.shape[0] * float(jnp.finfo(matrix.dtype).eps))


def regularised(matrix: jax.Array, amount: float) -> jax.Array:
  """M + shift I."""
  return matrix + shift_of(matrix, amount) * jnp.eye(len(matrix), dtype=matrix.dtype)


def solve_semidefinite(matrix: jax.Array, q: jax.Array, amount: float = 0.0, num_steps: int = 4) -> jax.Array:
  """z [T] for an M that may be singular, if there is one: M + shift I is solved for, and proximal steps undo the shift.

  The k-th step solves for q - shift z_{k-1}, so that its solution is one of M once z no longer changes.
  """
  shift, shifted = shift_of(matrix, amount), regularised(matrix, amount)
  step = lambda _, carry: solve_lcp(shifted, q - shift * carry[0], carry[1])
  return jax.lax.fori_loop(0, num_steps, step, (jnp.zeros_like(q), jnp.zeros(q.shape, bool)))[0]


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
