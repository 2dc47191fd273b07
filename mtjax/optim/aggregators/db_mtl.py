"""DB-MTL: gradients of the logarithms of the losses, averaged over the steps, all brought to the largest norm.

Lin, Jiang, Ye, Zhang, Chen, Chen, Liu & Kwok, "Dual-Balancing for Multi-Task Learning", 2023,
https://arxiv.org/abs/2308.12029.

    g~_t = grad log(l_t + 1e-8) = g_t / (l_t + 1e-8)
    G_t <- g~_t + beta_k (G_t - g~_t),    beta_k = beta / k^sigma,   k = 1, 2, ...
    d = sum_t (max_j ||G_j|| / ||G_t||) G_t

g_t: [P], row t of J [T, P]; G: [T, P], 0 at first. With beta = 0 there is no state and only the Gramian is needed,

    w_t = max_j (||g_j|| / (l_j + 1e-8)) / ||g_t||,   d = J^T w

Task-owned parameters get the gradient of log(l_t + 1e-8).
Differs from the authors' code: no 1e-8 beside the norm; a row of zeros counts for nothing. Losses must be >= 0.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_given, check_number
from mtjax.optim.stacked import blend_rows, cast_like, combine, drop_inactive, gramian, scale_rows, zero_rows

EPSILON = 1e-8


class DbMtlState(NamedTuple):
  """The moving average of the gradients.

  Attributes:
    average: G, leaves [T, *shape], float32 or more.
    count: int32, the steps done, k - 1.
  """
  average: Any
  count: jax.Array


def log_slopes(losses: jax.Array) -> jax.Array:
  """d log(l + 1e-8) / dl.  [T] -> [T]"""
  return 1 / (jnp.maximum(losses, 0) + EPSILON)


def largest_norm_factors(norms: jax.Array) -> jax.Array:
  """max_j n_j / n_t, 0 where n_t = 0.  [T] -> [T]"""
  return jnp.where(norms > 0, norms.max() / jnp.where(norms > 0, norms, 1), 0)


def db_mtl_weights(gram: jax.Array, losses: jax.Array) -> jax.Array:
  """beta = 0: gram [T, T] of the raw gradients, losses [T] -> w [T]."""
  slopes = log_slopes(losses)
  return largest_norm_factors(jnp.sqrt(jnp.diagonal(gram)) * slopes) * slopes


def db_mtl(beta: float = 0.0, sigma: float = 0.0) -> base.Aggregator:
  """DB-MTL as an optax transform of stacked gradients; `update` needs losses.

  With beta > 0 the weights that `aggregate` returns are those of G's rows.

  Args:
    beta: of the moving average; the authors search 0.1, 0.5, 0.9. 0 = none: no state, needs 'gramian' only.
    sigma: power with which beta decays; the authors use 0 or 0.5.

  Example:
    >>> tx = optax.chain(mtjax.optim.db_mtl(), optax.sgd(1.0))
    >>> jac, losses = {'w': jnp.array([[3., 0], [0, 8]])}, jnp.array([1., 4.])
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(2)}), losses=losses)
    >>> print(updates['w'])
    [-3. -3.]
  """
  check_number(beta, 'db_mtl', 'beta', 0, 1, open_high=True)
  check_number(sigma, 'db_mtl', 'sigma', 0)

  def safe_losses(info, dtype):
    return jnp.where(info.mask, check_given(info.losses, 'db_mtl'), 1).astype(dtype)

  def head_weights(w, info):
    return jnp.where(info.mask, log_slopes(safe_losses(info, w.dtype)), 0)

  def weights(state, info):
    gram = drop_inactive(info.gramian, info.mask, 0)
    return db_mtl_weights(gram, safe_losses(info, gram.dtype)), state

  def init(params, num_tasks):
    return DbMtlState(zero_rows(params, num_tasks), jnp.zeros((), jnp.int32))

  def aggregate(jac, state, info):
    losses = check_given(info.losses, 'db_mtl')
    rows = scale_rows(jac, log_slopes(safe_losses(info, jnp.promote_types(losses.dtype, jnp.float32))))
    count = state.count + 1
    average = blend_rows(state.average, rows, 1 - beta * count.astype(float) ** -sigma, info.active)
    w = largest_norm_factors(jnp.sqrt(jnp.diagonal(gramian(average, info.active))))
    return cast_like(combine(average, w), jac), w, DbMtlState(average, count)

  if beta == 0:
    return base.from_weights(weights, name='db_mtl', needs='gramian', head_weights=head_weights)
  return base.from_jacobian(aggregate, name='db_mtl', init=init, head_weights=head_weights)
