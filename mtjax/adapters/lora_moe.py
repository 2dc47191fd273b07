"""LoRAMoE: several LoRAs a layer, mixed token by token by a router, one half of them for one type of samples.

Dou et al., "LoRAMoE: Alleviate World Knowledge Forgetting in Large Language Models via MoE-Style Plugin", ACL 2024,
https://arxiv.org/abs/2312.09979.

    y = x W + b + s sum_i g_i (dropout(x) A_i) B_i,     g = softmax(x G) in float32
    Q_mi = sum over the tokens of sample m of g_i,     I_mi = 1 + delta where expert i is of the type of sample m, else
    1 - delta,     penalty beta Var(Z) / (Mean(Z)^2 + 1e-10), Z = I * Q     (localised balancing, a layer)

A_i [D, r] Kaiming-uniform, B_i = 0, G [D, E]. Experts 0 … E/2 - 1 are of type 1, the others of type 0; `types` says of
which type each task's samples are. Mind what the penalty asks for: equal Z, so *less* of Q where I is larger.
Differs from the paper's text: Var / Mean^2 as in the authors' code (Var with n - 1); beta and delta are 0.1. Q is the
mean over tokens, so that long samples do not count for more; padding counts, as there. The penalty joins the gradient,
not the reported loss (`add_to_loss`).
"""
import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.lora import uniform
from mtjax.adapters.method import Leaves, Method, check_positive, check_rate, check_sizes
from mtjax.adapters.sites import Site
from mtjax.context import Ctx


def squared_variation(z: jax.Array) -> jax.Array:
  """Var(z) / Mean(z)^2, Var with n - 1."""
  return jnp.var(z, ddof=1) / (jnp.mean(z)**2 + 1e-10)


@dataclasses.dataclass(frozen=True)
class LoRAMoE(Method):
  """LoRAMoE at dense layers; for a bank of one set, Bank().  Parameters: gate [D, E], a [E, D, r], b [E, r, O].

  Attributes:
    experts: E.
    rank: r.
    alpha: s = alpha / r.
    dropout_rate: of x, in training.
    beta: of the penalty; 0 = none.
    delta: how far a sample's own experts are ahead.
    types: 0 or 1 for each task; () = all samples are of type 1.
  """
  experts: int = 6
  rank: int = 4
  alpha: float = 32.0
  dropout_rate: float = 0.05
  beta: float = 0.1
  delta: float = 0.1
  types: Sequence[int] = ()
  ndim: ClassVar = {'gate': 2, 'a': 3, 'b': 3}
  penalises: ClassVar = True

  def __post_init__(self):
    check_sizes(self, 'experts', 'rank')
    check_positive(self, 'alpha')
    check_rate(self)
    if not 0 <= self.delta <= 1 or not self.beta >= 0:
      raise ValueError(f'LoRAMoE has delta={self.delta!r} and beta={self.beta!r}; allowed are 0 … 1, and >= 0.')
    if not set(self.types) <= {0, 1}:
      raise ValueError(f'LoRAMoE has types={self.types!r}; allowed is 0 or 1 for each task.')
    object.__setattr__(self, 'types', tuple(self.types))

  def fits(self, site: Site) -> bool:
    return site.is_dense

  def init(self, key: jax.Array, site: Site) -> Leaves:
    keys, bound = jax.random.split(key), site.d_in**-0.5
    return {'gate': uniform(keys[0], (site.d_in, self.experts), bound),
            'a': uniform(keys[1], (self.experts, site.d_in, self.rank), bound),
            'b': jnp.zeros((self.experts, self.rank, site.d_out))}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> tuple[jax.Array, jax.Array]:
    flat = site.flat_in(x).astype(y.dtype)
    g = jax.nn.softmax(flat.astype(jnp.float32) @ p['gate'].astype(jnp.float32))                     # [..., E]
    h = jnp.einsum('...d,edr->...er', flat, p['a']) * g[..., None].astype(y.dtype)
    change = jnp.einsum('...er,ero->...o', h, p['b']) * (self.alpha / self.rank)
    return y + site.like_out(change), g.reshape(-1, self.experts).mean(0)

  def penalty(self, noted: jax.Array, ctx: Ctx | None) -> jax.Array:
    """beta Var(Z) / Mean(Z)^2 of the mean gates [B, E]."""
    if not self.beta:
      return jnp.zeros(())
    if self.types and (ctx is None or ctx.task_id is None):
      raise ValueError('LoRAMoE has types of tasks, but ctx says of no row which it serves: give Ctx(task_id=ids).')
    kinds = jnp.array(self.types)[ctx.task_id] if self.types else jnp.ones(len(noted), jnp.int32)
    own = jnp.where(jnp.arange(self.experts) < math.ceil(self.experts / 2), 1, 0)
    ahead = jnp.where(own[None] == jnp.broadcast_to(kinds, len(noted))[:, None], 1 + self.delta, 1 - self.delta)
    return self.beta * squared_variation(ahead * noted)

  def num_params(self, site: Site) -> int:
    return self.experts * (site.d_in + self.rank * (site.d_in + site.d_out))
