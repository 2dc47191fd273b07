"""Compacter: bottlenecks whose matrices are sums of Kronecker products with factors of rank one.

Karimi Mahabadi, Henderson & Ruder, "Compacter: Efficient Low-Rank Hypercomplex Adapter Layers", NeurIPS 2021,
https://arxiv.org/abs/2106.04647.

    D = sum_i R_i (x) (s_i t_i^T),   U likewise;     h <- h + act(h D + b_D) U + b_U

R [n, n, n] is one for all adapters, layers and tasks; s_i [D/n], t_i [r/n] are a site's. The product is never built:
x is cut into n pieces, and contracted. s, t Glorot-normal, R ~ N(0, rule_std^2), so that the adapter is near 0 at
first. n divides D and r. Compacter: at site='wrap', r'(attn|mlp)$'; Compacter++: r'mlp$'.
Differs from the paper: R is smaller at first (1e-2), as later code has it.
"""
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.bottleneck import ACTIVATIONS, Bottleneck
from mtjax.adapters.method import Leaves, check_sizes
from mtjax.adapters.sites import Site, along


def phm(x: jax.Array, rule: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
  """x [..., D], R [n, n, n], s [n, D/n], t [n, O/n] -> x sum_i R_i (x) (s_i t_i^T)  [..., O]."""
  n = rule.shape[0]
  parts = x.reshape(*x.shape[:-1], n, -1)                  # x_(a, j): a indexes rows of R_i, j those of s_i
  h = jnp.einsum('...aj,ij->...ai', parts, s)
  h = jnp.einsum('...ai,iab->...bi', h, rule)
  return jnp.einsum('...bi,ik->...bk', h, t).reshape(*x.shape[:-1], -1)


@dataclasses.dataclass(frozen=True)
class Compacter(Bottleneck):
  """Compacter's bottleneck, sequential.

  Parameters: down_s [n, D/n], down_t [n, r/n], down_bias [r], up_s [n, r/n], up_t [n, D/n], up_bias [D]; of all sites
  and tasks: rule [n, n, n].

  Attributes:
    n: of the Kronecker products.
    rule_std: of the initial R.
    (others as `Bottleneck`'s; init_scheme and std say nothing here.)
  """
  reduction: float = 32.0
  activation: str = 'gelu'
  n: int = 4
  rule_std: float = 0.01
  ndim: ClassVar = {'down_s': 2, 'down_t': 2, 'down_bias': 1, 'up_s': 2, 'up_t': 2, 'up_bias': 1, 'rule': 3}
  common: ClassVar = frozenset({'rule'})
  split_axis: ClassVar = {}

  def __post_init__(self):
    super().__post_init__()
    check_sizes(self, 'n')

  def width(self, site: Site) -> int:
    return self.rank or max(self.n, int(site.d_out / self.reduction) // self.n * self.n)

  def fits(self, site: Site) -> bool:
    if site.d_out % self.n or self.width(site) % self.n:
      raise ValueError(f'Compacter has n={self.n}, which must divide the {site.d_out} features of {site.path!r} and '
                       f'the bottleneck of {self.width(site)}.')
    return True

  def init(self, key: jax.Array, site: Site) -> Leaves:
    n, width = self.n, self.width(site)
    sizes = {'down_s': site.d_out, 'down_t': width, 'up_s': width, 'up_t': site.d_out}
    leaves = {}
    for k, (name, size) in zip(jax.random.split(key, 4), sizes.items()):
      leaves[name] = (2 / (size // n + 1))**0.5 * jax.random.normal(k, (n, size // n))
    return {**leaves, 'down_bias': jnp.zeros(width), 'up_bias': jnp.zeros(site.d_out)}

  def shared(self, key: jax.Array, sites: Sequence[Site]) -> Leaves:
    return {'rule': self.rule_std * jax.random.normal(key, (self.n,) * 3)}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    flat = site.flat_out(y)
    h = phm(flat, p['rule'], p['down_s'], p['down_t'])
    h = ACTIVATIONS[self.activation](h + along(p['down_bias'], h))
    change = phm(h, p['rule'], p['up_s'], p['up_t'])
    return site.like_out(flat + change + along(p['up_bias'], flat))

  def num_params(self, site: Site) -> int:
    return 3 * (site.d_out + self.width(site))

  def num_common(self, sites: Sequence[Site]) -> int:
    return self.n**3
