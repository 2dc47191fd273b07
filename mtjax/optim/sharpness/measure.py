"""How sharp a minimum is: the rise of the loss after one ascent step.

Foret et al., "Sharpness-Aware Minimization", ICLR 2021, equation 1, https://arxiv.org/abs/2010.01412.

    max_{||e|| <= rho} L(w + e) - L(w)   ~   L(w + rho g / ||g||) - L(w),      g = grad L(w)
"""
from collections.abc import Callable
from typing import Any

import jax

from mtjax.optim.sharpness._algebra import add
from mtjax.optim.sharpness._transform import check_radius
from mtjax.optim.sharpness.sam import ascent_step


def sharpness(loss_fn: Callable[[Any], jax.Array], params: Any, rho: float) -> jax.Array:
  """L(w + e) - L(w), a scalar, with SAM's e; exact where the loss is linear, a lower bound of the maximum elsewhere.

  Args:
    loss_fn: params -> scalar loss, usually of held-out data.
    params: w.
    rho: the radius.

  Example:
    >>> print(mtjax.optim.sharpness.sharpness(lambda w: jnp.sum(w ** 2), jnp.array([3.0, 4.0]), rho=0.1).round(4))
    1.01
  """
  check_radius(rho, 'sharpness')
  loss, g = jax.value_and_grad(loss_fn)(params)
  return loss_fn(add(params, ascent_step(g, rho))) - loss
