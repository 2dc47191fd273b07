"""UPGrad: each task's gradient projected onto the cone of directions that harm no task, then added.

Quinton & Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, https://arxiv.org/abs/2406.16232.

    d = sum_t pi_J(p_t g_t),   pi_J(x) = the nearest point with J pi_J(x) >= 0
      = J^T sum_t v_t,         v_t = argmin_{v >= p_t e_t} v^T G v

G = J J^T: [T, T]; p: [T], the preference, 1/T by default; v_t: [T]. T small problems with one G, regularised:
each is a linear complementarity problem, see `solvers.dual_cone`.
Differs from the authors' code: no absolute thresholds, with which the rule becomes the mean once ||J||_F < 0.01, and a
regularisation of 1e-7 rather than 1e-4 (which parity needs).
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number, check_preference
from mtjax.optim.aggregators._preference import preference_vector
from mtjax.optim.solvers import project_weights
from mtjax.optim.stacked import drop_inactive


def upgrad_weights(gram: jax.Array, p: jax.Array, regularisation: float = 1e-7) -> jax.Array:
  """gram [T, T], p [T] -> w [T]."""
  return jax.vmap(lambda u: project_weights(gram, u, regularisation))(jnp.diag(p)).sum(0)


def upgrad(preference: Sequence[float] | None = None, regularisation: float = 1e-7,
           scale_heads: bool = False) -> base.Aggregator:
  """UPGrad as an optax transform of stacked gradients.

  Args:
    preference: p, one number >= 0 a task, used as it is; None = 1/T each.
    regularisation: relative to tr(G). 1e-4 gives the numbers of the authors' code.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.upgrad(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.29 -1.90 -1.90
  """
  preference = check_preference(preference, 'upgrad')
  check_number(regularisation, 'upgrad', 'regularisation', 0)

  def weights(state, info):
    gram = drop_inactive(info.gramian, info.mask, 0)
    return upgrad_weights(gram, preference_vector(preference, info.mask, gram.dtype, 'upgrad'), regularisation), state

  return base.from_weights(weights, name='upgrad', needs='gramian', scale_heads=scale_heads)
