"""alpha-fair weights by damped Newton steps.

    G w = w^(-1/alpha), w > 0;   the minimiser of 1/2 w^T G w - sum_t F(w_t),   F' = w^(-1/alpha)

G: [T, T], w: [T]. alpha = 1: F = log, the Nash bargaining solution (Navon et al., 2022,
https://arxiv.org/abs/2202.01017); other alpha: Ban & Ji, 2024, https://arxiv.org/abs/2402.15638. The potential is
strictly convex, so the solution is unique where it exists; it does unless the rows are weakly Pareto stationary
(some v >= 0, v != 0 has J^T v = 0).
Differs from both papers' code (a sequence of convex programs; least squares): one smooth problem, few steps.
"""
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve

from mtjax.optim.solvers.scaling import cosines, unit_trace
from mtjax.optim.stacked import drop_inactive

HALVINGS = 12
SHRINK = 0.99  # most that a step takes off a weight; the others need not wait for the one that is on its way to 0


def fair_weights(gram: jax.Array, alpha: float = 1.0, active: jax.Array | None = None, *, num_iters: int = 30,
                 regularisation: float = 1e-6) -> jax.Array:
  """w [T]. Of a row of length zero, which the equation says nothing about, w is 1; of an inactive one 0.

  `num_iters`: most Newton steps; alpha <= 2 takes about 10, alpha = 10 up to 30.
  `regularisation`: the smallest eigenvalue that the matrix of cosines C shall have. Where it has a smaller one, the
  diagonal of G is raised in proportion to itself by just what is missing, so that w stays bounded at weakly stationary
  points; elsewhere the equation is solved as it stands.
  """
  dtype = gram.dtype
  active = jnp.ones(len(gram), bool) if active is None else active
  present = active & (jnp.diagonal(gram) > jnp.finfo(dtype).tiny)
  cosine, _, _ = cosines(drop_inactive(gram, present))
  missing = jnp.maximum(regularisation - jnp.linalg.eigvalsh(cosine)[0], 0)
  gram, trace = unit_trace(drop_inactive(gram, present, 0))
  frobenius = jnp.sqrt(jnp.sum(gram**2))
  frobenius = jnp.where(frobenius > 0, frobenius, 1)
  gram = gram / frobenius
  gram = drop_inactive(gram + missing * jnp.diag(jnp.diagonal(gram)), present)
  exponent = 1 / alpha
  steps = 0.5 ** jnp.arange(HALVINGS, dtype=dtype)

  def change_of_f(ratio):
    """(F(w (1 + ratio)) - F(w)) / w^(1 - 1/alpha), without cancellation."""
    logs = jnp.log1p(ratio)
    return logs if alpha == 1 else jnp.expm1((1 - exponent) * logs) / (1 - exponent)

  def unfinished(carry):
    _, largest, step = carry
    return (largest > 0.01 * jnp.sqrt(jnp.finfo(dtype).eps)) & (step < num_iters)

  def newton(carry):
    w, _, step = carry
    products, powers = gram @ w, w**-exponent
    factor = jnp.linalg.cholesky(gram + jnp.diag(exponent * powers / w), symmetrize_input=False)
    direction = cho_solve((factor, True), powers - products)
    ratios = jnp.maximum(steps[:, None] * (direction / w)[None, :], -SHRINK)
    moves = ratios * w[None, :]
    change = moves @ products + 0.5 * jnp.sum(moves @ gram * moves, axis=1) - change_of_f(ratios) @ (powers * w)
    best = jnp.argmin(change)
    return w + moves[best], jnp.abs(ratios[best]).max(), step + 1

  start = jnp.diagonal(gram) ** (-alpha / (1 + alpha))
  w, _, _ = jax.lax.while_loop(unfinished, newton, (start, jnp.ones((), dtype), jnp.int32(0)))
  # Two factors, since their product may overflow float32 where the two powers do not.
  w = w * trace ** (-alpha / (1 + alpha)) * frobenius ** (-alpha / (1 + alpha))
  return jnp.where(present, w, active.astype(dtype))
