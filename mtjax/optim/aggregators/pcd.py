"""PCD: the first task's gradient, bent no more than the others' progress requires.

Varam & AlHajri, "Not All Objectives Are Born Equal: Priority-Constrained Descent for Hierarchical Multi-Objective
Optimization", 2026, https://arxiv.org/abs/2606.29521.

    d* = argmin_d ||d - u_1||^2  subject to  u_j . d >= tau for j >= 2,   u_t = g_t / ||g_t||
       = u_1 + sum_{j >= 2} mu_j u_j,  mu >= 0;     d = ||g_1|| d* / ||d*||

G = J J^T: [T, T]; mu: [T - 1], the solution of a linear complementarity problem in the cosines. The primary task is the
first one that is active. Where the others leave nothing of u_1 (d* = 0) there is no update.
Differs from the paper: rows are scaled by their length at this step, not by a running average of it.
"""
import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.solvers import cosines, regularised, solve_lcp
from mtjax.optim.stacked import drop_inactive


def pcd_weights(gram: jax.Array, primary: jax.Array | int, tau: float) -> jax.Array:
  """gram [T, T], the row of the primary task -> w [T]."""
  cosine, norms, inverse = cosines(gram)
  first = jnp.arange(len(gram)) == primary
  secondary = ~first & (norms > 0)
  matrix = regularised(drop_inactive(cosine, secondary), 0.0)
  mu, _ = solve_lcp(matrix, jnp.where(secondary, cosine[primary] - tau, 0))
  v = first + mu
  squared = v @ cosine @ v
  enough = squared > 16 * jnp.finfo(gram.dtype).eps * v.sum() ** 2  # less is the rounding of C
  return jnp.where(enough, inverse * v * (norms[primary] / jnp.sqrt(jnp.where(enough, squared, 1))), 0)


def pcd(tau: float = 0.1, scale_heads: bool = False) -> base.Aggregator:
  """PCD as an optax transform of stacked gradients.

  Args:
    tau: in [0, 1], the share of its own progress that every other task keeps, before d is rescaled.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.pcd(tau=0.0), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[3., -3.], [0, 2]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(2)}))
    >>> print(updates['w'].round(2) + 0)
    [-4.24  0.  ]
  """
  check_number(tau, 'pcd', 'tau', 0, 1)

  def weights(state, info):
    return pcd_weights(drop_inactive(info.gramian, info.mask, 0), jnp.argmax(info.mask), tau), state

  return base.from_weights(weights, name='pcd', needs='gramian', scale_heads=scale_heads)
