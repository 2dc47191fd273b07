"""MAM: a prefix in attention and a scaled parallel adapter beside the MLP, the mix that a unified view leads to.

He et al., "Towards a Unified View of Parameter-Efficient Transfer Learning", ICLR 2022,
https://arxiv.org/abs/2110.04366 (section 4.6): a short prefix (P = 30) changes attention cheaply, and the MLP gets the
larger budget (r = 512, s = 4).
"""
from typing import Any


def mam(bank: Any = None, *, length: int = 30, hidden: int | None = 800, rank: int = 512, scale: float = 4.0,
        attention: str = r'attn$', mlp: str = r'mlp$') -> list[dict[str, Any]]:
  """The two rules of the MAM adapter, for `Spec` or a config.

  Args:
    bank: of both.
    length: P of the prefix.
    hidden: of the prefix's MLP; None = without.
    rank: r of the adapter.
    scale: s.
    attention: expression over the paths of attention modules.
    mlp: over those of MLPs.

  Example:
    >>> [rule['method']['name'] for rule in mam(length=2, rank=4)]
    ['prefix', 'scaled_parallel']
  """
  bank = {} if bank is None else bank
  return [dict(site='kv', match=attention, method=dict(name='prefix', length=length, hidden=hidden), bank=bank),
          dict(site='wrap', match=mlp, method=dict(name='scaled_parallel', rank=rank, scale=scale), bank=bank)]
