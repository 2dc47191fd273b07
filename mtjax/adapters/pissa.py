"""PiSSA: LoRA that begins with the principal part of the kernel.

Meng, Wang & Zhang, "PiSSA: Principal Singular Values and Singular Vectors Adaptation", NeurIPS 2024,
https://arxiv.org/abs/2404.02948.

    W = U S V^T,   A_0 = U_r S_r^1/2 s^-1/2,   B_0 = S_r^1/2 V_r^T s^-1/2
    y = x (W - s A_0 B_0) + b + s (x A) B,     A = A_0 and B = B_0 at first

Differs from the paper: the residual kernel is not stored; the base is left alone, and A_0, B_0 are kept as what is not
learnt (all tasks begin alike). As a plain LoRA of rank 2r: [A, A_0] and [B; -B_0]. Shapes as in `lora`.
"""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.lora import LoRA, add_to_kernel, low_rank
from mtjax.adapters.method import Leaves
from mtjax.adapters.sites import Site


def principal_factors(w: jax.Array, rank: int, scale: float) -> tuple[jax.Array, jax.Array]:
  """W [D, O] -> A [D, r], B [r, O]: scale A B is the best approximation of W of this rank."""
  u, s, vt = jnp.linalg.svd(w.astype(jnp.float32), full_matrices=False)
  root = jnp.sqrt(s[:rank] / scale)
  return u[:, :rank] * root[None], root[:, None] * vt[:rank]


@dataclasses.dataclass(frozen=True)
class PiSSA(LoRA):
  """PiSSA at dense layers.  Parameters: a [D, r], b [r, O]; not learnt: a0, b0.  Attributes as `LoRA`'s."""
  reads_weights: ClassVar = True

  def fits(self, site: Site) -> bool:
    if site.is_dense and self.rank > min(site.d_in, site.d_out):
      raise ValueError(f'PiSSA has rank={self.rank}, but the kernel of {site.path!r} is {site.d_in} x {site.d_out}; '
                       f'allowed are at most {min(site.d_in, site.d_out)}.')
    return site.is_dense

  def init(self, key: jax.Array, site: Site) -> Leaves:
    a, b = principal_factors(site.kernel(), self.rank, self.scale)
    return {'a': a, 'b': b}

  def fixed(self, site: Site) -> Leaves:
    a, b = principal_factors(site.kernel(), self.rank, self.scale)
    return {'a0': a, 'b0': b}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    flat = site.flat_in(x).astype(y.dtype)
    change = low_rank(flat, p['a'], p['b'], self.scale) - low_rank(flat, p['a0'], p['b0'], self.scale)
    return y + site.like_out(change)

  def delta(self, p: Leaves) -> jax.Array:
    return (p['a'] @ p['b'] - p['a0'] @ p['b0']) * self.scale

  def as_lora(self, p: Leaves) -> Leaves:
    """The factors a, b of a plain LoRA of rank 2r and the same scale, on the base as it is."""
    return {'a': jnp.concatenate([p['a'], p['a0']], axis=-1), 'b': jnp.concatenate([p['b'], -p['b0']], axis=-2)}

  def fold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return add_to_kernel(own, self.delta(p))
