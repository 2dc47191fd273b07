"""Model FLOPs: the multiplications and additions of the matrix products and convolutions of a traced function.

    dot_general  [B…, M…, K…] x [B…, N…, K…]   2 B M N K
    convolution                                2 (outputs) (inputs of one output); zeros between dilated inputs left out

Counted on the jaxpr, hence of the whole mesh, the same on every backend and for every sharding. A scan counts as often
as it runs, `cond` as its dearest branch, a `while_loop` (whose length nobody knows) as one pass, `shard_map` for all of
its devices. NVIDIA's fused attention counts as the products that it replaces, as in Chowdhery et al., "PaLM", 2022,
appendix B, https://arxiv.org/abs/2204.02311: nothing is taken off for a causal mask. What rematerialisation computes
again is counted again.

Why not the compiler's own count: `compiled.cost_analysis()['flops']` takes a loop for one pass on all backends, and
leaves out what XLA hands to a library, as it does most products on GPUs (https://github.com/jax-ml/jax/issues/22249).
"""
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from jax.extend import core

FUSED_ATTENTION = ('dot_product_attention_fwd', 'dot_product_attention_bwd')


class Flops(NamedTuple):
  """Floating-point operations of products, by the width of their operands.

  Attributes:
    narrow: of bfloat16, float16 and narrower operands.
    wide: of float32 and wider ones.
  """

  narrow: int = 0
  wide: int = 0

  @property
  def total(self) -> int:
    """Of all products."""
    return self.narrow + self.wide


def count(jaxpr: Any) -> Flops:
  """The products in a (closed) jaxpr.

  Example:
    >>> count(jax.make_jaxpr(jnp.dot)(jnp.ones((2, 3)), jnp.ones((3, 4)))).total
    48
  """
  jaxpr = jaxpr.jaxpr if isinstance(jaxpr, core.ClosedJaxpr) else jaxpr
  narrow = wide = 0
  for eqn in jaxpr.eqns:
    product = product_flops(eqn)
    if not product:
      inner = _inside(eqn)
    else:
      inner = Flops(narrow=product) if eqn.invars[0].aval.dtype.itemsize <= 2 else Flops(wide=product)
    narrow, wide = narrow + inner.narrow, wide + inner.wide
  return Flops(narrow, wide)


def product_flops(eqn: Any) -> int:
  """Of an equation that is a product (or fused attention); 0 of any other."""
  name = eqn.primitive.name
  if name == 'dot_general':
    (contracted, _), _ = eqn.params['dimension_numbers']
    left = eqn.invars[0].aval.shape
    return 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
  if name == 'conv_general_dilated':
    numbers, kernel = eqn.params['dimension_numbers'], eqn.invars[1].aval.shape
    inputs = math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    return 2 * math.prod(eqn.outvars[0].aval.shape) * inputs // math.prod(eqn.params['lhs_dilation'])
  if name.startswith(FUSED_ATTENTION):
    query, key = (x.aval.shape for x in eqn.invars[:2])
    keys = key[1] if eqn.params['layout'] == 0 else key[2]  # [B, S, H, D] or [B, H, S, D]
    return (4 if 'bwd' in name else 2) * 2 * math.prod(query) * keys
  return 0


def _inside(eqn: Any) -> Flops:
  """Of the jaxprs that an equation holds."""
  name, found = eqn.primitive.name, [count(inner) for inner in _jaxprs(eqn.params)]
  if name == 'cond':
    return max(found, key=lambda flops: flops.total)
  times = 1
  if name == 'scan':
    times = eqn.params['length']
  elif name == 'shard_map':
    times = math.prod(eqn.params['mesh'].shape[axis] for axis in eqn.params['newly_manual_axes'])
  return Flops(*(times * sum(part) for part in zip(*found))) if found else Flops()


def _jaxprs(params: Any) -> Iterator[Any]:
  for value in params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(item, (core.Jaxpr, core.ClosedJaxpr)):
        yield item
