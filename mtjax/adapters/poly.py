"""Poly and MHR: tasks mix the adapters of an inventory, by weights that are learnt.

Ponti et al., "Combining Parameter-efficient Modules for Task-level Generalisation" (Polytropon), EACL 2023,
https://arxiv.org/abs/2202.13914; Caccia et al., "Multi-Head Adapter Routing for Cross-Task Generalization", NeurIPS
2023, https://arxiv.org/abs/2211.03831.

    p = sigma(Z_t),   w_qk = p_qk / (sum_k p_qk + 1e-12)
    A_t = sum_k w_qk A_k   for the part q of A's inputs,     B_t = sum_k w_qk B_k   for the part q of B's outputs
    y = x W + b + s (x A_t) B_t

Factors are mixed, not products. Poly: Q = 1. MHR: Q splits, each with weights of its own. MHR-z: of a trained
inventory, Z alone is tuned (labels 'routing' of `trainable_labels`). MHR-mu: the inventory's mean, `average` of
`mtjax.adapters`, is tuned, as one adapter. Z [T, Q, K] ~ U(-1e-3, 1e-3).

    Bank(tasks=T, skills=K, splits=Q, router=Poly())       with LoRA(rank, bound=(3 D)^-1/2), as the authors draw A
    Bank(skills=K, router=Uniform())                       w = 1/K
"""
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mtjax.adapters.bank import Bank
from mtjax.adapters.method import Leaves
from mtjax.config import did_you_mean
from mtjax.context import Ctx


def routing_weights(logits: jax.Array, key: jax.Array | None = None) -> jax.Array:
  """Z [..., K] -> w [..., K]; with a key, of a relaxed Bernoulli draw of temperature 1 (training)."""
  if key is not None:
    logits = logits + jax.random.logistic(key, logits.shape)
  p = jax.nn.sigmoid(logits)
  return p / (p.sum(-1, keepdims=True) + 1e-12)


@dataclasses.dataclass(frozen=True)
class Poly:
  """The learnt router of Poly (and of MHR, in a bank with splits).

  Attributes:
    sharing: 'site': each adapted module has its own Z; 'rule': one Z for all modules of a rule.
    stochastic: whether weights are drawn in training; at evaluation they are not.
  """
  sharing: str = 'site'
  stochastic: bool = False

  def __post_init__(self):
    if self.sharing not in ('site', 'rule'):
      raise ValueError(f'Poly has sharing={self.sharing!r}. {did_you_mean(self.sharing, ("site", "rule"))}')

  def init_site(self, key: jax.Array, bank: Bank) -> Leaves:
    """What a site stores."""
    return self._logits(key, bank) if self.sharing == 'site' else {}

  def init_shared(self, key: jax.Array, bank: Bank) -> Leaves:
    """What the sites of a rule share."""
    return self._logits(key, bank) if self.sharing == 'rule' else {}

  def weights(self, leaves: Leaves, bank: Bank, ctx: Ctx | None, key: jax.Array | None = None) -> jax.Array:
    """[K] or [B, K]; with splits [Q, K] or [B, Q, K].

    Args:
      leaves: with router_logits.
      bank: whose sets are mixed.
      ctx: with the task of each row.
      key: of the draw, in training.
    """
    if ctx is None or ctx.task_id is None:
      raise ValueError('Poly routes by tasks, but ctx says of no row which it serves: give ctx=Ctx(task_id=ids).')
    logits = jnp.take(leaves['router_logits'], ctx.task_id, axis=0, mode='fill')
    weights = routing_weights(logits, key if self.stochastic else None)
    return weights[..., 0, :] if bank.splits == 1 else weights

  def _logits(self, key, bank):
    if bank.num_tasks is None:
      raise ValueError('Poly needs a bank that knows the tasks: Bank(tasks=…, skills=…, router=Poly()).')
    return {'router_logits': jax.random.uniform(key, (bank.num_tasks, bank.splits, bank.skills), minval=-1e-3,
                                                maxval=1e-3)}


@dataclasses.dataclass(frozen=True)
class Uniform:
  """Every set has the weight 1/K, for all rows alike."""

  def init_site(self, key: jax.Array, bank: Bank) -> Leaves:
    """Nothing."""
    return {}

  def init_shared(self, key: jax.Array, bank: Bank) -> Leaves:
    """Nothing."""
    return {}

  def weights(self, leaves: Leaves, bank: Bank, ctx: Any, key: jax.Array | None = None) -> jax.Array:
    """[K], or [Q, K]."""
    shape = (bank.skills,) if bank.splits == 1 else (bank.splits, bank.skills)
    return jnp.full(shape, 1 / bank.skills)
