"""CAGrad: the direction near the mean gradient that helps the worst-off task most.

Liu et al., "Conflict-Averse Gradient Descent for Multi-task Learning", NeurIPS 2021, https://arxiv.org/abs/2110.14048.

    d = argmax_d min_t g_t . d   subject to ||d - g_0|| <= c ||g_0||,    g_0 = (1/T) sum_t g_t
      = g_0 + c ||g_0|| g_w / ||g_w||,   w the minimiser over the simplex of w . G 1/T + c ||g_0|| sqrt(w^T G w)

G = J J^T: [T, T], w: [T], g_w = J^T w. c = 0 is the mean, large c the direction of MGDA. `rescale` divides d by 1 (0),
1 + c^2 (1, as the authors' code does) or 1 + c (2).

Solved exactly: u(s) = J^T lambda, the shortest vector with min_t g_t . (g_0 + u) >= s, comes from a linear
complementarity problem, ||u(s)|| is convex and increasing in the level s, and s is sought with ||u(s)|| = c ||g_0||.
The problem is solved in the lengths of the rows (M = C, lambda = mu / n), so that a short row counts as much as a long.
Differs from the authors' code, which iterates on w and divides by ||g_w|| + 1e-8: where g_w vanishes
(||g_w|| < 1e-4 sqrt(tr(G)): Pareto-stationary, and no direction helps all tasks) the update is 0; so too where
||g_w|| < 4 sqrt(eps) sum_t w_t ||g_t||, which is the rounding of G. It follows that a task whose gradient is 0, or 1e4
times shorter than the others, can stop the update of all, as it does in MGDA.
"""
import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.solvers import cosines, regularised, solve_lcp, unit_trace
from mtjax.optim.stacked import drop_inactive, equal_shares

STATIONARY = 1e-4


def cagrad_weights(gram: jax.Array, c: float, active: jax.Array | None = None, num_iters: int = 20) -> jax.Array:
  """gram [T, T] -> w [T] with d = J^T w, not rescaled."""
  active = jnp.ones(len(gram), bool) if active is None else active
  gram, _ = unit_trace(drop_inactive(gram, active, 0))
  mean = equal_shares(active, gram.dtype)
  if c == 0:
    return mean
  cosine, norms, inverse = cosines(gram)
  present = norms > 0
  matrix = regularised(cosine, 1e-9)                         # in float32 more, about 1e-6
  products = gram @ mean                                     # g_t . g_0
  squared_mean = jnp.maximum(mean @ products, 0)
  radius = c * jnp.sqrt(squared_mean)

  def at_level(s, free):
    """||u(s)|| - c ||g_0|| and its slope, lambda, and the free set."""
    mu, free = solve_lcp(matrix, jnp.where(present, inverse * (products - s), 0), free)
    length = jnp.sqrt(jnp.maximum(mu @ matrix @ mu, 0))
    multipliers = mu * inverse
    return (length - radius, multipliers.sum() / jnp.where(length > 0, length, 1)), multipliers, free

  def apart(carry):
    _, _, _, found, _, _, _, step = carry
    return ~found & (step < num_iters)

  def newton(carry):
    s, low, high, _, _, _, free, step = carry
    (value, slope), multipliers, free = at_level(s, free)
    low, high = jnp.where(value < 0, s, low), jnp.where(value < 0, high, s)
    moved = s - value / jnp.where(slope > 0, slope, 1)
    inside = (slope > 0) & (low < moved) & (moved < high)
    found = jnp.abs(value) <= 8 * jnp.finfo(gram.dtype).eps * radius
    return jnp.where(inside, moved, 0.5 * (low + high)), low, high, found, s, multipliers, free, step + 1

  low = jnp.where(present, products, jnp.inf).min()
  low = jnp.where(jnp.isfinite(low), low, 0)
  high = (1 + c) * squared_mean
  # The next level and its bracket; whether the last one was the right one; it, its lambda and free set; steps so far.
  start = (high, low, high, jnp.zeros((), bool), high, jnp.zeros_like(mean), jnp.zeros(len(gram), bool), jnp.int32(0))
  _, _, _, _, s, multipliers, _, _ = jax.lax.while_loop(apart, newton, start)
  length = jnp.sqrt(jnp.maximum(multipliers @ gram @ multipliers, 0))
  stationary = length < STATIONARY * multipliers.sum()       # tr(G) = 1
  stationary |= length < 4 * jnp.sqrt(jnp.finfo(gram.dtype).eps) * (multipliers @ norms)
  stationary |= (active & ~present).any() & (s >= 0)         # min_t g_t . d cannot be positive with a zero row
  w = mean + multipliers * (radius / jnp.where(length > 0, length, 1))
  return jnp.where(stationary, 0, w)


def cagrad(c: float = 0.5, rescale: int = 1, scale_heads: bool = False) -> base.Aggregator:
  """CAGrad as an optax transform of stacked gradients.

  Args:
    c: radius of the ball around the mean gradient, relative to its length; 0.4 for dense prediction. With c >= 1 no
      task is harmed.
    rescale: 0, 1 or 2, see above.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.cagrad(c=0.5, rescale=0), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.18 -1.20 -1.20
  """
  check_number(c, 'cagrad', 'c', 0)
  if rescale not in (0, 1, 2):
    raise ValueError(f'cagrad: rescale must be 0, 1 or 2, got {rescale!r}.')
  divisor = (1, 1 + c**2, 1 + c)[rescale]

  def weights(state, info):
    return cagrad_weights(info.gramian, c, info.mask) / divisor, state

  return base.from_weights(weights, name='cagrad', needs='gramian', scale_heads=scale_heads)
