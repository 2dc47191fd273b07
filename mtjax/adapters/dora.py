"""DoRA: the direction of a kernel gets a change of low rank, its magnitude is learnt apart.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, https://arxiv.org/abs/2402.09353.

    y = x (m * V / ||V||) + b,     V = W + s A B,     ||V||: over the inputs, one norm an output

m [O] = ||W|| at first and B = 0, so that nothing changes. The norm is a constant in the backward pass (section 4.3 of
the paper). ||V||^2 is computed from the factors, so that no row of a batch needs a kernel of its own:

    ||V||^2_o = ||W||^2_o + 2 s sum_r (W^T A)_or B_ro + s^2 (B^T A^T A B)_oo

Merged: W' = m V / ||V||, from which W is not to be had again. Shapes as in `lora`.
"""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.lora import LoRA, low_rank
from mtjax.adapters.method import Leaves
from mtjax.adapters.sites import Site, along


def column_norms(w: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
  """||W + scale A B|| over the first axis:  W [D, O], A [D, r], B [r, O] -> [O]."""
  cross = jnp.sum((a.T @ w) * b, axis=0)
  square = jnp.sum(b * ((a.T @ a) @ b), axis=0)
  total = jnp.sum(w * w, axis=0) + 2 * scale * cross + scale**2 * square
  return jnp.sqrt(jnp.maximum(total, 1e-12))  # rounding may leave a column that vanishes below 0


@dataclasses.dataclass(frozen=True)
class DoRA(LoRA):
  """DoRA at dense layers.  Parameters: a [D, r], b [r, O], magnitude [O].  Attributes as `LoRA`'s."""
  ndim: ClassVar = {'a': 2, 'b': 2, 'magnitude': 1}
  split_axis: ClassVar = {'a': 0, 'b': 1, 'magnitude': 0}
  reads_weights: ClassVar = True
  alone: ClassVar = True

  def init(self, key: jax.Array, site: Site) -> Leaves:
    norms = jnp.sqrt(jnp.sum(site.kernel().astype(jnp.float32)**2, axis=0))
    return {**super().init(key, site), 'magnitude': norms}

  def prepare(self, p: Leaves, site: Site) -> Leaves:
    norms = column_norms(site.kernel().astype(jnp.float32), p['a'], p['b'], self.scale)
    return {'a': p['a'], 'b': p['b'], 'ratio': p['magnitude'] / jax.lax.stop_gradient(norms)}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    flat = site.flat_out(y)
    bias = site.params['bias'].reshape(-1).astype(flat.dtype) if 'bias' in site.params else jnp.zeros(1, flat.dtype)
    bias = along(bias, flat)
    change = low_rank(site.flat_in(x).astype(y.dtype), p['a'], p['b'], self.scale)
    return site.like_out((flat - bias + change) * along(p['ratio'], flat) + bias)

  def fold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    kernel = own['kernel']
    v = kernel.reshape(p['a'].shape[0], -1).astype(jnp.float32) + self.delta(p)
    v = v * along(p['magnitude'] / jnp.sqrt(jnp.sum(v * v, axis=0)), v)
    return {**own, 'kernel': v.reshape(kernel.shape).astype(kernel.dtype)}

  def unfold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    raise ValueError('DoRA cannot be unmerged: the norms of the kernel that it was merged into are lost. Keep the '
                     'base.')

  def num_params(self, site: Site) -> int:
    return super().num_params(site) + site.d_out
