"""LN tuning: only the scales and biases of norms are tuned.

Qi et al., "Parameter-Efficient Tuning on Layer Normalization for Pre-trained Language Models", 2022,
https://arxiv.org/abs/2211.08682.

    y = (scale + c) * (x - mean) / std + bias + e,     c = e = 0 at first

Norms with a scale alone (RMSNorm) have no e. Differs from the paper: the changes are stored, see `bitfit`. Merged:
scale + c, bias + e.
"""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.method import Leaves, Method
from mtjax.adapters.sites import Site


@dataclasses.dataclass(frozen=True)
class LnTuning(Method):
  """The change of a norm's parameters.  Parameters: those that the norm has of scale [D], bias [D]."""
  ndim: ClassVar = {'scale': 1, 'bias': 1}

  def fits(self, site: Site) -> bool:
    return 'scale' in site.params and set(site.params) <= {'scale', 'bias'}

  def init(self, key: jax.Array, site: Site) -> Leaves:
    return {name: jnp.zeros(x.shape) for name, x in site.params.items()}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    return site.run({name: own + p[name].astype(own.dtype) for name, own in site.params.items()}, x)

  def fold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return {**own, **{name: own[name] + change.astype(own[name].dtype) for name, change in p.items()}}

  def unfold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return self.fold({name: -change for name, change in p.items()}, own, kind)

  def num_params(self, site: Site) -> int:
    return sum(x.size for x in site.params.values())
