"""ConFIG: the update at equal angles to all task gradients.

Liu et al., "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025,
https://arxiv.org/abs/2408.11104.

    d = (sum_t g_t . u) u,    u = U^+ 1 / ||U^+ 1||,   U = N^-1 J, the rows scaled to length 1
      = J^T w,   w = a (1^T G a) / (a^T G a),   a = N^-1 C^+ 1,   G = N C N

G = J J^T, C: [T, T], a, w: [T]. A preference p in place of 1 makes the cosines proportional to p. Zero rows stay 0.
Differs from the paper's code: weights from the Gramian in place of a pseudo-inverse of J.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_preference
from mtjax.optim.aggregators._preference import preference_vector
from mtjax.optim.solvers import cosines, pinv_apply
from mtjax.optim.stacked import drop_inactive


def config_weights(gram: jax.Array, p: jax.Array, size: jax.Array | None = None) -> jax.Array:
  """gram [T, T], p [T] -> w [T].  `size`: the number of rows that count, where others are zeros."""
  cosine, norms, inverse = cosines(gram)
  s = pinv_apply(cosine, jnp.where(norms > 0, p, 0), size)      # a = s / n
  products = cosine @ s                                         # U a, the cosines up to a factor
  squared = s @ products
  enough = squared > jnp.finfo(gram.dtype).eps * (s @ s)
  return jnp.where(enough, inverse * s * ((norms @ products) / jnp.where(enough, squared, 1)), 0)


def config(preference: Sequence[float] | None = None, scale_heads: bool = False) -> base.Aggregator:
  """ConFIG as an optax transform of stacked gradients.

  Args:
    preference: p, one number >= 0 a task; None = all equal.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.config(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.16 -2.07 -2.07
  """
  preference = check_preference(preference, 'config')

  def weights(state, info):
    gram = drop_inactive(info.gramian, info.mask, 0)
    p = preference_vector(preference, info.mask, gram.dtype, 'config', default=1)
    return config_weights(gram, p, info.mask.sum()), state

  return base.from_weights(weights, name='config', needs='gramian', scale_heads=scale_heads)
