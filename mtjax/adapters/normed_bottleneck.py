"""The adapter of HyperFormer: a sequential bottleneck with a norm of its own at the end.

Karimi Mahabadi et al., "Parameter-efficient Multi-task Fine-tuning for Transformers via Shared Hypernetworks", ACL
2021, https://arxiv.org/abs/2106.04489, section 2.1.

    h <- h + scale * norm(f(h)) + bias,     f the `bottleneck`, norm over the features (epsilon 1e-6)

Made for a bank whose leaves are generated: generated scales and biases are near 0 at first, so that the block is near
the identity. Stored, the scale begins at 0.
"""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.bottleneck import bottleneck
from mtjax.adapters.houlsby import Houlsby
from mtjax.adapters.method import Leaves
from mtjax.adapters.sites import Site, along


@dataclasses.dataclass(frozen=True)
class NormedBottleneck(Houlsby):
  """See above.  Parameters as `Bottleneck`'s, and norm_scale [D], norm_bias [D]; attributes as `Bottleneck`'s."""
  ndim: ClassVar = {**Houlsby.ndim, 'norm_scale': 1, 'norm_bias': 1}

  def init(self, key: jax.Array, site: Site) -> Leaves:
    return {**super().init(key, site), 'norm_scale': jnp.zeros(site.d_out), 'norm_bias': jnp.zeros(site.d_out)}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    flat = site.flat_out(y)
    f = bottleneck(p, flat, self.activation)
    f = (f - f.mean(-1, keepdims=True)) * jax.lax.rsqrt(f.var(-1, keepdims=True) + 1e-6)
    return site.like_out(flat + f * along(p['norm_scale'], f) + along(p['norm_bias'], f))

  def num_params(self, site: Site) -> int:
    return super().num_params(site) + 2 * site.d_out
