"""SAM: descend along the gradient at the worst point near by.

Foret, Kleiner, Mobahi & Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
https://arxiv.org/abs/2010.01412.

    e = rho g / (||g|| + 1e-12),  g = grad L(w),      update = grad L(w + e)

g, e, w: trees like the parameters; ||g|| is over all leaves. One more gradient a step.
Differs from `optax.contrib.sam`: a zero gradient gives no NaN, one call of update is one step, the base optimizer is
another member of the chain, and there are variants.
"""
from typing import Any

import optax

from mtjax.config import Registry, did_you_mean, keywords
from mtjax.optim.sharpness._algebra import EPSILON, add, norm, scale
from mtjax.optim.sharpness._transform import Radius, from_direction

VARIANTS = Registry('variant of sam', {
  'sam': 'mtjax.optim.sharpness.sam:plain',
  'asam': 'mtjax.optim.sharpness.asam:asam',
  'gsam': 'mtjax.optim.sharpness.gsam:gsam',
  'looksam': 'mtjax.optim.sharpness.looksam:looksam',
  'fsam': 'mtjax.optim.sharpness.fsam:fsam',
})


def ascent_step(g: Any, rho: Any) -> Any:
  """e, in the direction of g and rho long; 0 where g is."""
  return scale(rho / (norm(g) + EPSILON), g)


def plain(rho: Radius = 0.05) -> optax.GradientTransformationExtraArgs:
  """SAM itself, without variants."""
  def direction(g, inner, params, radius, gradient, count):
    del count
    return gradient(add(params, ascent_step(g, radius))), inner

  return from_direction(direction, name='sam', rho=rho)


def sam(rho: Radius | None = None, variant: str = 'sam', **options: Any) -> optax.GradientTransformationExtraArgs:
  """SAM or one of its variants as an optax transform, `update(g, state, params, grad_fn=grad_fn)`.

  Behind an aggregator in a chain g is the aggregate, so what `grad_fn` returns has to be aggregated too.

  Args:
    rho: the radius, or a schedule of it over the updates. None: what the variant has by default, 0.05 for SAM itself
      (0.05 to 0.2 are usual) and 0.5 for ASAM.
    variant: 'sam', 'asam', 'gsam', 'looksam', 'fsam', or one's own factory as 'package.module:name'.
    **options: of the variant; see its factory.

  Example:
    >>> loss = lambda w: 0.5 * (w[0] ** 2 + 4 * w[1] ** 2)
    >>> tx = optax.chain(mtjax.optim.sam(rho=0.1), optax.sgd(1.0))
    >>> w = jnp.ones(2)
    >>> updates, state = tx.update(jax.grad(loss)(w), tx.init(w), w, grad_fn=jax.grad(loss))
    >>> [round(float(x), 4) for x in updates]
    [-1.0243, -4.3881]
  """
  factory = VARIANTS.lookup(variant)
  known = keywords(factory)
  for option in options:
    if known is not None and option not in known:
      raise ValueError(f'sam(variant={variant!r}) has no option {option!r}. {did_you_mean(option, known)}')
  return factory(**options) if rho is None else factory(rho, **options)
