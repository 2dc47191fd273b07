"""ASAM: SAM in a ball that has the scale of each weight.

Kwon, Kim, Park & Choi, "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning of Deep Neural
Networks", ICML 2021, https://arxiv.org/abs/2102.11600.

    T_w = |w| + eta  (weights),  1  (biases, norms)
    e = rho T_w^2 g / (||T_w g|| + 1e-12),      update = grad L(w + e)

g, e, w, T_w: trees like the parameters, products element by element; the norm is over all leaves. With eta = 0 a layer
multiplied by c and the next divided by c see the same L(w + e).
Differs from the paper's code: it knows weights by PyTorch's name 'weight', which norms have as well; see `weights`.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtjax import tree
from mtjax.optim._checks import check_number
from mtjax.optim.sharpness._algebra import EPSILON, add, norm, scale
from mtjax.optim.sharpness._transform import Radius, from_direction

NOT_WEIGHTS = ('bias', 'scale')  # Flax's names; the bias of an attention projection has two axes


def which_are_weights(params: Any, patterns: Sequence[str] | None = None) -> dict[str, bool]:
  """{path: whether the leaf is a weight}: by `patterns`, or else by its axes and name, as `asam` says."""
  if patterns is not None:
    return tree.select(patterns, params)
  weights = {path: jnp.ndim(leaf) >= 2 and path.split('/')[-1] not in NOT_WEIGHTS
             for path, leaf in tree.flatten(params).items()}
  return weights if any(weights.values()) else dict.fromkeys(weights, True)


def magnitudes(params: Any, eta: float, weights: Mapping[str, bool]) -> Any:
  """T_w: |w| + eta for weights, else 1."""
  return tree.map_with_path(lambda path, w: jnp.abs(w) + eta if weights[path] else jnp.ones_like(w), params)


def ascent_step(g: Any, magnitude: Any, rho: Any) -> Any:
  """e for the magnitudes T_w; 0 where g is."""
  scaled = jax.tree.map(jnp.multiply, magnitude, g)
  return scale(rho / (norm(scaled) + EPSILON), jax.tree.map(jnp.multiply, magnitude, scaled))


def asam(rho: Radius = 0.5, eta: float = 0.01,
         weights: Sequence[str] | None = None) -> optax.GradientTransformationExtraArgs:
  """ASAM as an optax transform, `update(g, state, params, grad_fn=grad_fn)`.

  Args:
    rho: the radius, or a schedule of it over the updates; about ten times SAM's (0.5 to 2).
    eta: keeps weights near 0 movable.
    weights: regular expressions of the paths of the weights, e.g. ('.*',) for all leaves. None: leaves of two axes or
      more whose name is neither 'bias' nor 'scale'; where there is none (a toy of vectors), all leaves.

  Example:
    >>> tx = optax.chain(mtjax.optim.asam(rho=0.5), optax.adamw(1e-3))
    >>> params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.zeros(2)}
    >>> grad_fn = jax.grad(lambda p: jnp.sum((p['kernel'] @ jnp.ones(2) + p['bias']) ** 2))
    >>> updates, state = tx.update(grad_fn(params), tx.init(params), params, grad_fn=grad_fn)
  """
  check_number(eta, 'asam', 'eta', 0)

  def direction(g, inner, params, radius, gradient, count):
    del count
    magnitude = magnitudes(params, eta, which_are_weights(params, weights))
    return gradient(add(params, ascent_step(g, magnitude, radius))), inner

  return from_direction(direction, name='asam', rho=rho)
