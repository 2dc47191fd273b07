"""LookSAM: SAM every k steps; between, its part that is orthogonal to the gradient is used again.

Liu, Mai, Chen, Hsieh & You, "Towards Efficient and Scalable Sharpness-Aware Minimization", CVPR 2022,
https://arxiv.org/abs/2203.02714.

    every k steps   update = g_s = grad L(w + e),      g_v = g_s - ||g_s|| cos(g_s, g) g / ||g||
    otherwise       update = g + alpha ||g|| / ||g_v|| g_v
    layer-wise      e_l = rho ||w_l|| / (||g_l|| + 1e-12) g_l      (else e as in SAM)

g, g_s, g_v, e, w: trees like the parameters, l a leaf; products and norms are over all leaves. 1 + 1/k gradients a
step: `lax.cond` skips the second one, unless vmap turns it into a select.
Differs from the paper: a g_v that is rounding error is set to 0, since it would be blown up to the length of g. The
layer-wise ascent is LARS's, the gradient of a layer times its trust ratio, so that it does not depend on the scale of
the loss.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtjax.optim._checks import check_number
from mtjax.optim.sharpness._algebra import EPSILON, add, dot, norm, ratio, rounding, scale
from mtjax.optim.sharpness._transform import Radius, check_every, from_direction
from mtjax.optim.sharpness.sam import ascent_step


class LookSAMState(NamedTuple):
  """What LookSAM keeps.

  Attributes:
    g_v: like the parameters, the orthogonal part of the latest SAM gradient.
  """

  g_v: Any


def orthogonal_part(g_s: Any, g: Any) -> Any:
  """g_v, the part of g_s orthogonal to g; 0 where it is no more than rounding error."""
  g_v = add(g_s, g, -ratio(dot(g_s, g), dot(g, g)))
  length = norm(g_s)
  return scale(jnp.where(norm(g_v) > rounding(length.dtype) * length, 1.0, 0.0), g_v)


def flat_part(g: Any, g_v: Any, alpha: float) -> Any:
  """alpha ||g|| / ||g_v|| g_v, what a step without a second gradient adds to g."""
  return scale(alpha * ratio(norm(g), norm(g_v)), g_v)


def layerwise_ascent_step(g: Any, params: Any, rho: Any) -> Any:
  """e whose leaf l is rho ||w_l|| long."""
  return jax.tree.map(lambda g_l, w_l: scale(rho * norm(w_l) / (norm(g_l) + EPSILON), g_l), g, params)


def looksam(rho: Radius = 0.05, every_k: int = 5, alpha: float = 0.7,
            layerwise: bool = False) -> optax.GradientTransformationExtraArgs:
  """LookSAM as an optax transform, `update(g, state, params, grad_fn=grad_fn)`.

  Args:
    rho: the radius, or a schedule of it over the updates.
    every_k: steps from one second gradient to the next; 1 is SAM.
    alpha: the length of the part that is used again, relative to the gradient.
    layerwise: whether each leaf moves in proportion to its norm (Look-LayerSAM, for large batches).

  Example:
    >>> tx = optax.chain(mtjax.optim.looksam(every_k=5), optax.adamw(1e-3))
    >>> grad_fn = jax.grad(lambda w: jnp.sum(w ** 4))
    >>> updates, state = tx.update(grad_fn(jnp.ones(2)), tx.init(jnp.ones(2)), jnp.ones(2), grad_fn=grad_fn)
  """
  check_every(every_k, 'looksam')
  check_number(alpha, 'looksam', 'alpha', 0)

  def direction(g, inner, params, radius, gradient, count):
    def look():
      e = layerwise_ascent_step(g, params, radius) if layerwise else ascent_step(g, radius)
      g_s = gradient(add(params, e))
      return g_s, jax.tree.map(lambda v, kept: v.astype(kept.dtype), orthogonal_part(g_s, g), inner.g_v)

    def look_again():
      return add(g, flat_part(g, inner.g_v, alpha)), inner.g_v

    d, g_v = look() if every_k == 1 else jax.lax.cond(count % every_k == 0, look, look_again)
    return d, LookSAMState(g_v)

  def init(params):
    return LookSAMState(jax.tree.map(jnp.zeros_like, params))

  return from_direction(direction, name='looksam', rho=rho, init=init)
