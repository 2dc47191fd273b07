"""GSAM: lower the perturbed loss, and the gap between it and the loss.

Zhuang, Gong, Yuan, Cui, Adam, Dvornek, Tatikonda, Duncan & Liu, "Surrogate Gap Minimization Improves Sharpness-Aware
Training", ICLR 2022, https://arxiv.org/abs/2203.08065.

    g_p = grad L(w + e),  e as in SAM,      g_perp = g - (<g, g_p> / ||g_p||^2) g_p,      update = g_p - alpha g_perp
    rho_t = rho_min + (rho_max - rho_min) (lr_t - lr_min) / (lr_max - lr_min)          (optional)

g, g_p, e, w: trees like the parameters; products and norms are over all leaves. The orthogonal part is subtracted from
the gradient that is descended along, so L(w) rises by it while L(w + e), to first order, does not change.
Where g_p is 0 it has no direction, and g_perp counts as 0.
"""
from typing import Any

import jax.numpy as jnp
import optax

from mtjax.optim._checks import check_number
from mtjax.optim.sharpness._algebra import add, dot, ratio, scale
from mtjax.optim.sharpness._transform import Radius, check_radius, from_direction
from mtjax.optim.sharpness.sam import ascent_step


def without_gap(g: Any, g_p: Any, alpha: float) -> Any:
  """g_p - alpha g_perp."""
  length = dot(g_p, g_p)
  orthogonal = add(scale(jnp.where(length > 0, 1.0, 0.0), g), g_p, -ratio(dot(g, g_p), length))
  return add(g_p, orthogonal, -alpha)


def rho_like_learning_rate(learning_rate: optax.Schedule, rho_min: float, rho_max: float, lr_min: float,
                           lr_max: float) -> optax.Schedule:
  """The schedule of rho that runs from rho_max to rho_min as the learning rate does from lr_max to lr_min."""
  return lambda count: rho_min + (rho_max - rho_min) * (learning_rate(count) - lr_min) / (lr_max - lr_min)


def gsam(
  rho: Radius = 0.05,
  alpha: float = 0.4,
  *,
  learning_rate: optax.Schedule | None = None,
  lr_max: float | None = None,
  lr_min: float = 0.0,
  rho_min: float | None = None,
  rho_max: float | None = None,
) -> optax.GradientTransformationExtraArgs:
  """GSAM as an optax transform, `update(g, state, params, grad_fn=grad_fn)`.

  Args:
    rho: the radius, or a schedule of it over the updates.
    alpha: how much of the orthogonal part is subtracted (0.01 to 0.4); 0 is SAM.
    learning_rate: the schedule of the optimizer behind, for rho to follow; needs `lr_max` and `rho_min`.
    lr_max, lr_min: the learning rates at which rho is `rho_max` and `rho_min`.
    rho_min, rho_max: the ends of rho; `rho_max` is `rho` where it is not given.

  Example:
    >>> schedule = optax.cosine_decay_schedule(1e-3, decay_steps=100)
    >>> gsam = mtjax.optim.gsam(0.1, learning_rate=schedule, lr_max=1e-3, rho_min=0.02)
    >>> tx = optax.chain(gsam, optax.adamw(schedule))
    >>> grad_fn = jax.grad(lambda w: jnp.sum(w ** 4))
    >>> updates, state = tx.update(grad_fn(jnp.ones(2)), tx.init(jnp.ones(2)), jnp.ones(2), grad_fn=grad_fn)
  """
  check_radius(rho, 'gsam')
  check_number(alpha, 'gsam', 'alpha', 0)
  if learning_rate is not None:
    rho_max = rho if rho_max is None else rho_max
    if not callable(learning_rate):
      raise ValueError(f'gsam: learning_rate must be a schedule, steps -> rate, got {learning_rate!r}.')
    for field, value in (('lr_max', lr_max), ('rho_min', rho_min)):
      if value is None:
        raise ValueError(f'gsam: rho follows the learning rate, which needs {field} as well.')
    check_number(lr_min, 'gsam', 'lr_min')
    check_number(lr_max, 'gsam', 'lr_max', lr_min, open_low=True)
    check_number(rho_min, 'gsam', 'rho_min', 0)
    check_number(rho_max, 'gsam', 'rho_max', rho_min)
    rho = rho_like_learning_rate(learning_rate, rho_min, rho_max, lr_min, lr_max)
  elif (lr_max, rho_min, rho_max) != (None, None, None):
    raise ValueError('gsam: lr_max, rho_min and rho_max say how rho follows a learning_rate: pass that schedule too.')

  def direction(g, inner, params, radius, gradient, count):
    del count
    return without_gap(g, gradient(add(params, ascent_step(g, radius))), alpha), inner

  return from_direction(direction, name='gsam', rho=rho)
