"""The shortest vector in the convex hull of T vectors, from their Gramian.

    w* = argmin_{w >= 0, sum(w) = 1} w^T G w;    optimal iff (G w)_t >= w^T G w for all t

G: [T, T], w: [T]. `min_norm` is exact: argmin_{z >= 0} 1/2 z^T G z + 1/2 (1^T z - 1)^2 is a multiple of w*, and the
weight of the second term changes the multiple only. With z = s / n (n_t = ||g_t||) this is the linear complementarity
problem M = C + p p^T, q = -p with p = 1/n scaled to maximum 1, which stays well scaled when the lengths differ by 1e4.
`frank_wolfe` is the iteration of Sener & Koltun (2018), https://arxiv.org/abs/1810.04650, Algorithm 2, kept for parity.
"""
import jax
import jax.numpy as jnp

from mtjax.optim.solvers.lcp import solve_semidefinite
from mtjax.optim.solvers.scaling import cosines, unit_trace
from mtjax.optim.stacked import drop_inactive, equal_shares


def min_norm(gram: jax.Array, active: jax.Array | None = None) -> jax.Array:
  """The exact solution w [T]. Rows of length zero take all the weight, shared equally."""
  active = jnp.ones(len(gram), bool) if active is None else active
  cosine, norms, inverse = cosines(drop_inactive(gram, active, 0))
  p = inverse / jnp.maximum(inverse.max(), jnp.finfo(gram.dtype).tiny)
  z = p * solve_semidefinite(cosine + p[:, None] * p[None, :], -p, 1e-7)
  w = z / jnp.where(z.sum() > 0, z.sum(), 1)
  zeros = active & (norms == 0)
  return jnp.where(zeros.any(), equal_shares(zeros, gram.dtype), w)


def frank_wolfe(gram: jax.Array, active: jax.Array | None = None, num_iters: int = 100) -> jax.Array:
  """Steps from equal weights towards the best vertex with exact line search, until one is shorter than 1e-3."""
  active = jnp.ones(len(gram), bool) if active is None else active
  gram, _ = unit_trace(drop_inactive(gram, active, 0))

  def unfinished(carry):
    _, size, step = carry
    return (size >= 1e-3) & (step < num_iters)

  def towards_vertex(carry):
    w, _, step = carry
    products = gram @ w
    t = jnp.argmin(jnp.where(active, products, jnp.inf))
    a, b, c = products[t], w @ products, gram[t, t]     # g_w . g_t, ||g_w||^2, ||g_t||^2
    interior = (b - a) / jnp.where(b + c - 2 * a > 0, b + c - 2 * a, 1)
    size = jnp.where(c <= a, 1, jnp.where(b <= a, 0, interior)).astype(w.dtype)
    return (1 - size) * w + size * jax.nn.one_hot(t, len(w), dtype=w.dtype), size, step + 1

  start = (equal_shares(active, gram.dtype), jnp.ones((), gram.dtype), jnp.int32(0))
  return jax.lax.while_loop(unfinished, towards_vertex, start)[0]
