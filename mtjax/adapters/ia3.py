"""IA3: keys, values and an MLP's hidden features are scaled by learnt vectors.

Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", NeurIPS 2022,
https://arxiv.org/abs/2205.05638.

    k <- l_k * k,   v <- l_v * v,   MLP: fc2(l_ff * act(fc1(x)))

l = 1 at first. At site='output' of the projections of keys and values, and at site='input' of an MLP's second layer:
the hidden features are scaled behind the activation. `ia3_rules` makes both rules. Merged: columns, or rows, of the
kernel are scaled. l: [O], or [D] at an input.
"""
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.method import Leaves, Method
from mtjax.adapters.sites import Site, along
from mtjax.adapters.ssf import scaled


@dataclasses.dataclass(frozen=True)
class IA3(Method):
  """A learnt scale.  Parameters: scale [O], or [D] at an input."""
  kinds: ClassVar = ('output', 'input')
  ndim: ClassVar = {'scale': 1}

  def fits(self, site: Site) -> bool:
    return 'kernel' in site.params

  def init(self, key: jax.Array, site: Site) -> Leaves:
    return {'scale': jnp.ones(self.num_params(site))}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array | None, site: Site) -> jax.Array:
    if site.kind == 'input':
      flat = site.flat_in(x)
      return (flat * along(p['scale'].astype(x.dtype), flat)).reshape(x.shape)
    flat = site.flat_out(y)
    return site.like_out(flat * along(p['scale'], flat))

  def fold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return _fold(p['scale'], own, kind)

  def unfold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return _fold(1 / p['scale'], own, kind)

  def num_params(self, site: Site) -> int:
    return site.d_in if site.kind == 'input' else site.d_out


def ia3_rules(bank: Any = None, *, keys: str = r'attn/(key|value)$', hidden: str = r'mlp/fc2$') -> list[dict[str, Any]]:
  """The two rules of IA3: at keys and values, and before the second layer of the MLPs.

  Args:
    bank: of both.
    keys: expression over the paths of the projections.
    hidden: over those of the second layers.
  """
  bank = {} if bank is None else bank
  return [dict(site='output', match=keys, method='ia3', bank=bank, name='ia3'),
          dict(site='input', match=hidden, method='ia3', bank=bank, name='ia3_hidden')]


def _fold(scale: jax.Array, own: Leaves, kind: str) -> Leaves:
  if kind == 'input':
    kernel = own['kernel']
    rows = kernel.reshape(scale.shape[0], -1) * scale[:, None].astype(kernel.dtype)
    return {**own, 'kernel': rows.reshape(kernel.shape)}
  own = scaled(own, scale)
  return {**own, 'bias': own['bias'] * scale.reshape(own['bias'].shape)} if 'bias' in own else own
