"""MoCo: min-norm weights from gradients that are tracked over the steps, against the bias of stochastic ones.

Fernando, Shen, Liu, Chaudhury, Murugesan & Chen, "Mitigating Gradient Bias in Multi-objective Learning: A Provably
Convergent Stochastic Approach", ICLR 2023, https://arxiv.org/abs/2210.12624.

    Y <- Y - beta_k (Y - J),    w <- P(w - gamma_k (Y Y^T + rho I) w),    d = Y^T w
    beta_k = beta / k^sigma,    gamma_k = gamma / k^sigma,    k = 1, 2, ...

J, Y: [T, P], Y = 0 at first; w: [T], 1/T at first; P: the projection onto the simplex. State: T times the parameters.
variant='libmtl' is what LibMTL runs: rows of J rescaled to g_t / ||g_t|| l_t first, and softmax in place of P (which
keeps w near uniform). Differs from it: no 1e-8 beside the norm; a row of zeros stays one.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_choice, check_given, check_number
from mtjax.optim.solvers import project_simplex
from mtjax.optim.stacked import blend_rows, cast_like, combine, gramian, scale_rows, zero_rows

VARIANTS = ('paper', 'libmtl')


class MocoState(NamedTuple):
  """The tracked gradients and their weights.

  Attributes:
    tracked: Y, leaves [T, *shape], float32 or more.
    w: [T], on the simplex.
    count: int32, the steps done, k - 1.
  """
  tracked: Any
  w: jax.Array
  count: jax.Array


def moco_weights(gram: jax.Array, w: jax.Array, active: jax.Array, gamma: jax.Array, rho: float,
                 variant: str = 'paper') -> jax.Array:
  """One step: gram = Y Y^T [T, T] (inactive rows and columns 0), w [T] -> w [T]."""
  moved = w - gamma * (gram @ w + rho * w)
  return project_simplex(moved, active) if variant == 'paper' else jax.nn.softmax(moved, where=active)


def moco(beta: float = 0.5, gamma: float = 0.1, sigma: float = 0.5, rho: float = 0.0, variant: str = 'paper',
         scale_heads: bool = False) -> base.Aggregator:
  """MoCo as an optax transform of stacked gradients. The weights that `aggregate` returns are those of Y's rows.

  Args:
    beta: rate of tracking; 1 = Y is the last gradient.
    gamma: learning rate of w.
    sigma: power with which both decay.
    rho: pull towards equal weights.
    variant: 'paper' or 'libmtl' (which needs losses).
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.moco(beta=1.0), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-0.4, 0.1, 0.1], [0.6, 0.1, 0.1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print((1000 * updates['w']).round())
    [ -95. -100. -100.]
  """
  check_number(beta, 'moco', 'beta', 0, 1, open_low=True)
  check_number(gamma, 'moco', 'gamma', 0)
  check_number(sigma, 'moco', 'sigma', 0)
  check_number(rho, 'moco', 'rho', 0)
  check_choice(variant, 'moco', 'variant', VARIANTS)

  def init(params, num_tasks):
    w = jnp.full(num_tasks, 1 / max(num_tasks, 1))
    return MocoState(zero_rows(params, num_tasks), w, jnp.zeros((), jnp.int32))

  def aggregate(jac, state, info):
    active, rows = info.active, jac
    if variant == 'libmtl':
      losses = jnp.where(active, check_given(info.losses, 'moco'), 0)
      norms = jnp.sqrt(jnp.diagonal(gramian(jac)))
      rows = scale_rows(jac, jnp.where(norms > 0, losses.astype(norms.dtype) / jnp.where(norms > 0, norms, 1), 0))
    count = state.count + 1
    decay = count.astype(state.w.dtype) ** -sigma
    tracked = blend_rows(state.tracked, rows, beta * decay, active)
    gram = gramian(tracked, active)
    start = project_simplex(state.w.astype(gram.dtype), active)
    w = moco_weights(gram, start, active, (gamma * decay).astype(gram.dtype), rho, variant)
    kept = jnp.where(active, w, state.w.astype(gram.dtype)).astype(state.w.dtype)
    return cast_like(combine(tracked, w), jac), w, MocoState(tracked, kept, count)

  return base.from_jacobian(aggregate, name='moco', init=init, scale_heads=scale_heads)
