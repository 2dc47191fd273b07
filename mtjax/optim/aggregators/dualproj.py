"""DualProj: the mean gradient projected onto the cone of directions that harm no task.

Lopez-Paz & Ranzato, "Gradient Episodic Memory for Continual Learning", NeurIPS 2017, https://arxiv.org/abs/1706.08840.

    d = pi_J(J^T p) = J^T v,    v = argmin_{v >= p} v^T G v

G = J J^T: [T, T]; p: [T], the preference, 1/T by default; v: [T]. One linear complementarity problem, see
`solvers.dual_cone`. A mean that harms no task stays as it is.
Differs from the paper: all tasks are treated alike, there is no current one.
"""
from collections.abc import Sequence

import jax

from mtjax.optim import base
from mtjax.optim._checks import check_number, check_preference
from mtjax.optim.aggregators._preference import preference_vector
from mtjax.optim.solvers import project_weights
from mtjax.optim.stacked import drop_inactive


def dualproj_weights(gram: jax.Array, p: jax.Array, regularisation: float = 1e-7) -> jax.Array:
  """gram [T, T], p [T] -> w [T]."""
  return project_weights(gram, p, regularisation)


def dualproj(preference: Sequence[float] | None = None, regularisation: float = 1e-7,
             scale_heads: bool = False) -> base.Aggregator:
  """DualProj as an optax transform of stacked gradients.

  Args:
    preference: p, one number >= 0 a task, used as it is; None = 1/T each.
    regularisation: relative to tr(G).
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.dualproj(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.56 -1.11 -1.11
  """
  preference = check_preference(preference, 'dualproj')
  check_number(regularisation, 'dualproj', 'regularisation', 0)

  def weights(state, info):
    gram = drop_inactive(info.gramian, info.mask, 0)
    p = preference_vector(preference, info.mask, gram.dtype, 'dualproj')
    return dualproj_weights(gram, p, regularisation), state

  return base.from_weights(weights, name='dualproj', needs='gramian', scale_heads=scale_heads)
