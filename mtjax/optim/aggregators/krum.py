"""Krum: the gradients that lie closest to most others; the rest is taken for faulty.

Blanchard et al., "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent", NeurIPS 2017,
https://arxiv.org/abs/1703.02757.

    score_i = sum of the T - f - 2 smallest ||g_i - g_j||^2, j != i;     d = mean of the m gradients of lowest score

G = J J^T: [T, T], from which ||g_i - g_j||^2 = G_ii + G_jj - 2 G_ij; w: [T], 1/m or 0. f faulty of T >= f + 3 tasks.
m = 1 is Krum, more Multi-Krum. Ties go to the earlier task. Where absent tasks leave fewer than f + 3, each is scored
by its nearest neighbour.
"""
import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim.solvers import unit_trace
from mtjax.optim.stacked import drop_inactive


def krum_weights(gram: jax.Array, num_byzantine: int, num_selected: int, active: jax.Array | None = None) -> jax.Array:
  """gram [T, T] -> w [T]."""
  active = jnp.ones(len(gram), bool) if active is None else active
  gram, _ = unit_trace(drop_inactive(gram, active, 0))
  squares = jnp.diagonal(gram)
  distances = jnp.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0)
  others = active[:, None] & active[None, :] & ~jnp.eye(len(gram), dtype=bool)
  nearest = jnp.sort(jnp.where(others, distances, jnp.inf), axis=1)
  count = jnp.maximum(active.sum() - num_byzantine - 2, 1)
  counted = (jnp.arange(len(gram)) < count)[None, :] & jnp.isfinite(nearest)
  scores = jnp.where(active, jnp.where(counted, nearest, 0).sum(1), jnp.inf)
  ranks = jnp.argsort(jnp.argsort(scores))
  chosen = active & (ranks < num_selected)
  return chosen / jnp.maximum(chosen.sum(), 1).astype(gram.dtype)


def krum(num_byzantine: int = 1, num_selected: int = 1, scale_heads: bool = False) -> base.Aggregator:
  """Krum as an optax transform of stacked gradients.

  Args:
    num_byzantine: f, how many gradients may be arbitrary.
    num_selected: m, how many are averaged.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.krum(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[1., 0], [1.1, 0], [0.9, 0.1], [-50, 9]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(2)}))
    >>> print(updates['w'])
    [-1. -0.]
  """
  if num_byzantine < 0:
    raise ValueError(f'krum: num_byzantine must be >= 0, got {num_byzantine!r}.')
  if num_selected < 1:
    raise ValueError(f'krum: num_selected must be >= 1, got {num_selected!r}.')
  least = max(num_byzantine + 3, num_selected)

  def weights(state, info):
    if info.num_tasks < least:
      raise ValueError(f'krum: num_byzantine={num_byzantine} and num_selected={num_selected} need at least {least} '
                       f'tasks, got {info.num_tasks}.')
    return krum_weights(info.gramian, num_byzantine, num_selected, info.mask), state

  return base.from_weights(weights, name='krum', needs='gramian', scale_heads=scale_heads)
