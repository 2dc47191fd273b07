"""Parallel adapters: a bottleneck beside a layer, on the layer's own input.

He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR 2022,
https://arxiv.org/abs/2110.04366 (section 4).

    h <- h + s f(x),     f the `bottleneck`, s = 1 (parallel) or a constant (scaled: 4 for generation, 2 for classes)

At site='wrap' of an MLP (r'mlp$', the paper's best place) or an attention; at 'span' where a block has no module for
its MLP. Begins as LoRA does: U = 0. With an identity for an activation it is LoRA on a dense layer.
"""
import dataclasses

import jax

from mtjax.adapters.bottleneck import Bottleneck, bottleneck
from mtjax.adapters.method import Leaves, check_positive
from mtjax.adapters.sites import Site


@dataclasses.dataclass(frozen=True)
class Parallel(Bottleneck):
  """A bottleneck in parallel.  Parameters and attributes as `Bottleneck`'s, and:

  Attributes:
    scale: s.
  """
  init_scheme: str = 'lora'
  scale: float = 1.0

  def __post_init__(self):
    super().__post_init__()
    check_positive(self, 'scale')

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    change = bottleneck(p, site.flat_in(x).astype(y.dtype), self.activation)
    return y + site.like_out(change) * self.scale


@dataclasses.dataclass(frozen=True)
class ScaledParallel(Parallel):
  """The same with s = 4, the paper's for generation."""
  scale: float = 4.0
