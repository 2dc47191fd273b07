"""VeRA: one random pair of factors for all layers, of which each layer learns a scaling.

Kopiczko, Blankevoort & Asano, "VeRA: Vector-based Random Matrix Adaptation", ICLR 2024,
https://arxiv.org/abs/2310.11454.

    y = x W + b + (((x A) * d) B) * g

A [D, r], B [r, O] ~ Kaiming-uniform, drawn once for the widest site and cut to each, are not learnt and not saved: the
seed makes them again. d [r] = d_init and g [O] = 0 at first. Merged: W + A diag(d) B diag(g).
"""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.lora import add_to_kernel, uniform
from mtjax.adapters.method import Leaves, Method, check_positive, check_rate, check_sizes
from mtjax.adapters.sites import Site, along


@dataclasses.dataclass(frozen=True)
class VeRA(Method):
  """VeRA at dense layers.  Parameters: d [r], g [O]; not learnt, of all sites: a [D, r], b [r, O].

  Attributes:
    rank: r; large, since it costs little.
    d_init: value of d at first.
    dropout_rate: of x.
    seed: of the random factors.
  """
  rank: int = 256
  d_init: float = 0.1
  dropout_rate: float = 0.0
  seed: int = 0
  ndim: ClassVar = {'d': 1, 'g': 1}
  split_axis: ClassVar = {'g': 0}

  def __post_init__(self):
    check_sizes(self, 'rank')
    check_positive(self, 'd_init')
    check_rate(self)

  def fits(self, site: Site) -> bool:
    return site.is_dense

  def init(self, key: jax.Array, site: Site) -> Leaves:
    return {'d': jnp.full(self.rank, self.d_init), 'g': jnp.zeros(site.d_out)}

  def shared_fixed(self, sites: Sequence[Site]) -> Leaves:
    return self._random(max(site.d_in for site in sites), max(site.d_out for site in sites))

  def remake(self, shapes: Mapping[str, Sequence[int]]) -> Leaves:
    return self._random(shapes['a'][0], shapes['b'][1])

  def _random(self, d_in: int, d_out: int) -> Leaves:
    """A and B; Kaiming-uniform with gain sqrt(2): the bound is sqrt(6 / fan-in)."""
    keys = jax.random.split(jax.random.key(self.seed))
    return {'a': uniform(keys[0], (d_in, self.rank), (6 / d_in)**0.5),
            'b': uniform(keys[1], (self.rank, d_out), (6 / self.rank)**0.5)}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    h = site.flat_in(x).astype(y.dtype) @ p['a'][:site.d_in]
    z = (h * along(p['d'], h)) @ p['b'][:, :site.d_out]
    return y + site.like_out(z * along(p['g'], z))

  def fold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return add_to_kernel(own, self._delta(p, own))

  def unfold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return add_to_kernel(own, -self._delta(p, own))

  def _delta(self, p: Leaves, own: Leaves) -> jax.Array:
    d_out = p['g'].shape[0]
    b = p['b'][:, :d_out] * p['g'][None]
    return (p['a'][:own['kernel'].size // d_out] * p['d'][None]) @ b

  def num_params(self, site: Site) -> int:
    return self.rank + site.d_out
