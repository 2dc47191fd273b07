"""BitFit: only biases are tuned.

Ben Zaken, Goldberg & Ravfogel, "BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked
Language-models", ACL 2022, https://arxiv.org/abs/2106.10199.

    y = x W + b + c,     c [O] = 0 at first

Differs from the paper: the change c of a bias is stored rather than the bias, so that each task has its own and weight
decay pulls towards the pretrained one; gradients are the same. The bias of a key's projection gets none: the softmax
does not see it. Merged: b + c.
"""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.method import Leaves, Method, need_bias
from mtjax.adapters.sites import Site, along


@dataclasses.dataclass(frozen=True)
class BitFit(Method):
  """The change of a bias, at every module that has one.  Parameters: bias [O]."""
  ndim: ClassVar = {'bias': 1}

  def fits(self, site: Site) -> bool:
    return 'bias' in site.params

  def init(self, key: jax.Array, site: Site) -> Leaves:
    return {'bias': jnp.zeros(site.d_out)}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    flat = site.flat_out(y)
    return site.like_out(flat + along(p['bias'], flat))

  def fold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    bias = need_bias(own, self)
    return {**own, 'bias': bias + p['bias'].reshape(bias.shape).astype(bias.dtype)}

  def unfold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return self.fold({'bias': -p['bias']}, own, kind)

  def num_params(self, site: Site) -> int:
    return site.d_out
