"""F-SAM, friendly SAM: the ascent step follows the noise of the batch only.

Li, Zhou, He, Cheng & Huang, "Friendly Sharpness-Aware Minimization", CVPR 2024, https://arxiv.org/abs/2403.12350.

    q = g - sigma m,      e = rho q / (||q|| + 1e-12),      update = grad L(w + e),      m <- lambda m + (1 - lambda) g

g, q, e, m, w: trees like the parameters; the norm is over all leaves. m, the running mean of the gradients, stands for
the gradient of the whole data set. As in the paper's code, q takes the m of the step before; the first step has none:
there q = g, and m <- g.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtjax.optim._checks import check_number
from mtjax.optim.sharpness._algebra import add
from mtjax.optim.sharpness._transform import Radius, from_direction
from mtjax.optim.sharpness.sam import ascent_step


class FSAMState(NamedTuple):
  """What F-SAM keeps.

  Attributes:
    m: like the parameters, the running mean of the gradients.
  """

  m: Any


def batch_noise(g: Any, m: Any, sigma: float, first: jax.Array) -> Any:
  """q."""
  return jax.tree.map(lambda g, q: jnp.where(first, g, q), g, add(g, m, -sigma))


def running_mean(m: Any, g: Any, lambda_: float, first: jax.Array) -> Any:
  """The next m, written as a step towards g: a constant gradient then leaves it as it is, to the last bit."""
  step = jax.tree.map(lambda g, m: g.astype(m.dtype) - m, g, m)
  return jax.tree.map(lambda g, m: jnp.where(first, g.astype(m.dtype), m), g, add(m, step, 1 - lambda_))


def fsam(rho: Radius = 0.1, sigma: float = 1.0, lambda_: float = 0.9) -> optax.GradientTransformationExtraArgs:
  """F-SAM as an optax transform, `update(g, state, params, grad_fn=grad_fn)`.

  Args:
    rho: the radius, or a schedule of it over the updates (0.1 to 0.2).
    sigma: how much of the running mean is subtracted; 0 is SAM.
    lambda_: what the running mean keeps at each step (0.6 to 0.95).

  Example:
    >>> tx = optax.chain(mtjax.optim.fsam(rho=0.1), optax.adamw(1e-3))
    >>> grad_fn = jax.grad(lambda w: jnp.sum(w ** 4))
    >>> updates, state = tx.update(grad_fn(jnp.ones(2)), tx.init(jnp.ones(2)), jnp.ones(2), grad_fn=grad_fn)
  """
  check_number(sigma, 'fsam', 'sigma')
  check_number(lambda_, 'fsam', 'lambda_', 0, 1, open_high=True)

  def direction(g, inner, params, radius, gradient, count):
    first = count == 0
    e = ascent_step(batch_noise(g, inner.m, sigma, first), radius)
    return gradient(add(params, e)), FSAMState(running_mean(inner.m, g, lambda_, first))

  def init(params):
    return FSAMState(jax.tree.map(jnp.zeros_like, params))

  return from_direction(direction, name='fsam', rho=rho, init=init)
