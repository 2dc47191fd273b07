"""SSF: every feature is scaled and shifted.

Lian et al., "Scaling & Shifting Your Features", NeurIPS 2022, https://arxiv.org/abs/2210.08823.

    y <- gamma * y + beta

after every operation with weights: embeddings, dense layers, convolutions, norms. gamma ~ N(1, std^2), beta ~ N(0,
std^2), std = 0.02, so that at first the network is not quite what it was (std=0: it is). Merged: a dense layer has
W diag(gamma) and gamma * b + beta, a norm gamma * scale and gamma * bias + beta, a convolution likewise by channel.
gamma, beta: [O].
"""
import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.method import Leaves, Method, need_bias
from mtjax.adapters.sites import Site, along


@dataclasses.dataclass(frozen=True)
class SSF(Method):
  """Scale and shift at modules with weights.  Parameters: scale [O], shift [O].

  Attributes:
    std: of the initial values.
  """
  std: float = 0.02
  ndim: ClassVar = {'scale': 1, 'shift': 1}

  def __post_init__(self):
    if not self.std >= 0:
      raise ValueError(f'SSF has std={self.std!r}; allowed is a number >= 0.')

  def fits(self, site: Site) -> bool:
    return any(name in site.params for name in ('kernel', 'scale', 'embedding'))

  def init(self, key: jax.Array, site: Site) -> Leaves:
    keys = jax.random.split(key)
    return {'scale': 1 + self.std * jax.random.normal(keys[0], (site.d_out,)),
            'shift': self.std * jax.random.normal(keys[1], (site.d_out,))}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    flat = site.flat_out(y)
    return site.like_out(flat * along(p['scale'], flat) + along(p['shift'], flat))

  def fold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    bias = need_bias(own, self)
    return {**scaled(own, p['scale']), 'bias': bias * p['scale'].reshape(bias.shape) + p['shift'].reshape(bias.shape)}

  def unfold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    bias = need_bias(own, self)
    return {**scaled(own, 1 / p['scale']),
            'bias': (bias - p['shift'].reshape(bias.shape)) / p['scale'].reshape(bias.shape)}

  def num_params(self, site: Site) -> int:
    return 2 * site.d_out


def scaled(own: Leaves, factor: jax.Array) -> Leaves:
  """A module's parameters with its output's features, without the bias, times factor [O]."""
  name = next((name for name in ('kernel', 'scale', 'embedding') if name in own), None)
  if name is None:
    raise ValueError(f'A module with the parameters {", ".join(own)} has none that scales its output.')
  x = own[name]
  axes = next(n for n in range(x.ndim + 1) if math.prod(x.shape[x.ndim - n:]) == factor.size)
  return {**own, name: x * jnp.broadcast_to(factor.reshape(x.shape[x.ndim - axes:]), x.shape)}
