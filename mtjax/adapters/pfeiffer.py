"""Pfeiffer adapters: one bottleneck a layer, around the norm that closes a post-norm block.

Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", EACL 2021,
https://arxiv.org/abs/2005.00247 (section 3.2 and appendix A).

    z = mlp_out + attn_res,   h = norm(z),   y = norm(z + f(h)),     f the `bottleneck`

The same norm runs twice: before the bottleneck, and on the sum. A rule at site='output' with match r'norm2$' of a
post-norm encoder (BERT). U = 0 gives norm(z), what the block gave before.
"""
import dataclasses
from typing import ClassVar

import jax

from mtjax.adapters.bottleneck import Bottleneck, bottleneck
from mtjax.adapters.method import Leaves
from mtjax.adapters.sites import Site


@dataclasses.dataclass(frozen=True)
class Pfeiffer(Bottleneck):
  """A bottleneck on a norm's output, added to its input.  Parameters and attributes as `Bottleneck`'s."""
  kinds: ClassVar = ('output',)
  reenters: ClassVar = True

  def fits(self, site: Site) -> bool:
    return 'scale' in site.params and 'kernel' not in site.params

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    return x + bottleneck(p, y, self.activation)
