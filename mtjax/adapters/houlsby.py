"""Houlsby adapters: a bottleneck behind attention and behind the MLP, before the residual sum.

Houlsby et al., "Parameter-Efficient Transfer Learning for NLP", ICML 2019, https://arxiv.org/abs/1902.00751.

    h <- h + f(h),     f the `bottleneck`, near 0 at first

A rule at site='wrap' with match r'(attn|mlp)$'. The paper trains norms and head besides (`Spec.trainable_base`). A
nonlinear function of h merges into no kernel.
"""
import dataclasses

import jax

from mtjax.adapters.bottleneck import Bottleneck, bottleneck
from mtjax.adapters.method import Leaves
from mtjax.adapters.sites import Site


@dataclasses.dataclass(frozen=True)
class Houlsby(Bottleneck):
  """A sequential bottleneck.  Parameters and attributes as `Bottleneck`'s."""
  activation: str = 'gelu'

  def reads(self, site: Site) -> int:
    return site.d_out

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    flat = site.flat_out(y)
    return site.like_out(flat + bottleneck(p, flat, self.activation))
