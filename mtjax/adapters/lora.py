"""LoRA: a change of low rank beside a dense layer.

Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022, https://arxiv.org/abs/2106.09685.

    y = x W + b + s (dropout(x) A) B,     s = alpha / r

x [..., D], W [D, O], A [D, r] ~ U(-D^-1/2, D^-1/2), B [r, O] = 0, so that nothing changes at first. Merged: W + s A B.
Differs from the paper: A is uniform, as in the authors' code (Kaiming with a = sqrt(5)).

RsLoRA: s = alpha / sqrt(r), at which outputs and gradients neither vanish nor grow with the rank. Kalajdzievski,
"A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA", 2023, https://arxiv.org/abs/2312.03732.
"""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.method import Leaves, Method, check_positive, check_rate, check_sizes
from mtjax.adapters.sites import Site


def low_rank(x: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
  """scale (x A) B:  x [..., D], A [D, r], B [r, O] -> [..., O]."""
  return (x @ a) @ b * scale


def uniform(key: jax.Array, shape: tuple[int, ...], bound: float) -> jax.Array:
  """U(-bound, bound)."""
  return jax.random.uniform(key, shape, minval=-bound, maxval=bound)


@dataclasses.dataclass(frozen=True)
class LoRA(Method):
  """LoRA at dense layers.  Parameters: a [D, r], b [r, O].

  Attributes:
    rank: r.
    alpha: of s; None = r, so that s = 1.
    dropout_rate: of x, before A.
    bound: A ~ U(-bound, bound); None = D^-1/2.

  Example:
    >>> LoRA(rank=4, alpha=8.0).scale, RsLoRA(rank=4, alpha=8.0).scale
    (2.0, 4.0)
  """
  rank: int = 8
  alpha: float | None = None
  dropout_rate: float = 0.0
  bound: float | None = None
  ndim: ClassVar = {'a': 2, 'b': 2}
  split_axis: ClassVar = {'a': 0, 'b': 1}

  def __post_init__(self):
    check_sizes(self, 'rank')
    check_positive(self, *(field for field in ('alpha', 'bound') if getattr(self, field) is not None))
    check_rate(self)

  @property
  def scale(self) -> float:
    """s."""
    return 1.0 if self.alpha is None else self.alpha / self.rank

  def fits(self, site: Site) -> bool:
    return site.is_dense

  def init(self, key: jax.Array, site: Site) -> Leaves:
    bound = site.d_in**-0.5 if self.bound is None else self.bound
    return {'a': uniform(key, (site.d_in, self.rank), bound), 'b': jnp.zeros((self.rank, site.d_out))}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    return y + site.like_out(low_rank(site.flat_in(x).astype(y.dtype), p['a'], p['b'], self.scale))

  def delta(self, p: Leaves) -> jax.Array:
    """s A B [D, O], what merging adds to the kernel."""
    return p['a'] @ p['b'] * self.scale

  def fold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return add_to_kernel(own, self.delta(p))

  def unfold(self, p: Leaves, own: Leaves, kind: str) -> Leaves:
    return add_to_kernel(own, -self.delta(p))

  def num_params(self, site: Site) -> int:
    return self.rank * (site.d_in + site.d_out)


class RsLoRA(LoRA):
  """LoRA whose scale falls with the root of the rank; see above."""

  @property
  def scale(self) -> float:
    """s."""
    return (self.rank if self.alpha is None else self.alpha) / self.rank**0.5


def add_to_kernel(own: Leaves, delta: jax.Array) -> Leaves:
  """A module's parameters with delta [D, O] added to its kernel, whatever the kernel's axes are."""
  kernel = own['kernel']
  return {**own, 'kernel': kernel + delta.reshape(kernel.shape).astype(kernel.dtype)}
