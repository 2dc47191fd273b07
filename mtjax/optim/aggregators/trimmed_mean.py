"""Trimmed mean: in every coordinate the mean without the largest and smallest values.

Yin et al., "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", ICML 2018,
https://arxiv.org/abs/1803.01498.

    d_k = mean of J_{1k}, ..., J_{Tk} without the b largest and the b smallest,    2 b < T

J: leaves [T, *shape]. Needs all of J; no weights of whole gradients say the same. Where absent tasks leave too few, b
is as large as still leaves one or two values.
"""
import jax
import jax.numpy as jnp

from mtjax.optim import base


def trimmed_mean_of(rows: jax.Array, num_trimmed: int, active: jax.Array) -> jax.Array:
  """rows [T, *shape], active [T] -> [*shape], in the dtype of the rows."""
  kind = jnp.promote_types(rows.dtype, jnp.float32)
  along = (-1,) + (1,) * (rows.ndim - 1)
  count, index, values = active.sum(), jnp.arange(len(rows)).reshape(along), rows.astype(kind)
  trimmed = jnp.minimum(num_trimmed, jnp.maximum(count - 1, 0) // 2)

  def drop_ends(_, kept):
    kept &= index != jnp.argmax(jnp.where(kept, values, -jnp.inf), axis=0, keepdims=True)
    return kept & (index != jnp.argmin(jnp.where(kept, values, jnp.inf), axis=0, keepdims=True))

  # b rounds that each drop both ends: on a CPU to sort the few values of each coordinate takes twenty times as long.
  kept = jax.lax.fori_loop(0, trimmed, drop_ends, jnp.broadcast_to(active.reshape(along), rows.shape))
  total = jnp.where(kept, values, 0).sum(0)
  return (total / jnp.maximum(count - 2 * trimmed, 1).astype(kind)).astype(rows.dtype)


def trimmed_mean(num_trimmed: int = 1) -> base.Aggregator:
  """The trimmed mean as an optax transform of stacked gradients.

  Args:
    num_trimmed: b, how many values are dropped at either end of every coordinate.

  Example:
    >>> tx = optax.chain(mtjax.optim.trimmed_mean(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[1., 0], [2, 1], [99, -7]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(2)}))
    >>> print(updates['w'])
    [-2. -0.]
  """
  if num_trimmed < 0:
    raise ValueError(f'trimmed_mean: num_trimmed must be >= 0, got {num_trimmed!r}.')

  def aggregate(jac, state, info):
    if info.num_tasks <= 2 * num_trimmed:
      raise ValueError(f'trimmed_mean: num_trimmed={num_trimmed} needs at least {2 * num_trimmed + 1} tasks, '
                       f'got {info.num_tasks}.')
    return jax.tree.map(lambda rows: trimmed_mean_of(rows, num_trimmed, info.active), jac), None, state

  return base.from_jacobian(aggregate, name='trimmed_mean')
