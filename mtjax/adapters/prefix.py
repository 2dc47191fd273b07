"""Prefix tuning: every attention sees P learnt keys and values in front of its own.

Li & Liang, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", ACL 2021, https://arxiv.org/abs/2101.00190.

    attn(q, [K_P; K], [V_P; V])  =  (1 - l) attn(q, K, V) + l softmax(q K_P^T) V_P

l is the share of the prefix in the sum of exponentials, a head and a query (He et al., 2022,
https://arxiv.org/abs/2110.04366): not the identity even where V_P = 0. The prefix has no position, is turned by no
rotation, and is seen by every query, causal or not. With `hidden` the vectors come out of an MLP, which training needs
(the paper, section 4.3) and which can be dropped afterwards (`materialise`):

    [K_P, V_P] = tanh(E W_1 + b_1) W_2 + b_2,     E [P, D], W_1 [D, M] of all layers, W_2 [M, 2 G K] a layer

P: length, G: key heads, K: numbers a head, D: width. Values ~ N(0, std^2). Differs from the paper: E has the encoder's
width, as the authors' code has it.
"""
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.method import Leaves, Method, check_sizes
from mtjax.adapters.sites import Site


@dataclasses.dataclass(frozen=True)
class Prefix(Method):
  """A prefix at attention modules.

  Parameters: keys, values [P, G, K]; with `hidden`, of a site: up [M, 2 G K], up_bias [2 G K]; of all sites:
  embed [P, D], down [D, M], down_bias [M].

  Attributes:
    length: P.
    hidden: M; None = the vectors are learnt as they are.
    std: of the initial values.
  """
  length: int = 16
  hidden: int | None = None
  std: float = 0.02
  kinds: ClassVar = ('kv',)
  ndim: ClassVar = {'keys': 3, 'values': 3, 'up': 2, 'up_bias': 1, 'embed': 2, 'down': 2, 'down_bias': 1}

  def __post_init__(self):
    check_sizes(self, 'length', *(() if self.hidden is None else ('hidden',)))
    if not self.std >= 0:
      raise ValueError(f'Prefix has std={self.std!r}; allowed is a number >= 0.')

  def init(self, key: jax.Array, site: Site) -> Leaves:
    if self.hidden is None:
      keys = jax.random.split(key)
      keys, values = (self.std * jax.random.normal(k, (self.length, *site.out_shape)) for k in keys)
      return {'keys': keys, 'values': values}
    up = self.std * jax.random.normal(key, (self.hidden, 2 * site.d_out))
    return {'up': up, 'up_bias': jnp.zeros(2 * site.d_out)}

  def shared(self, key: jax.Array, sites: Sequence[Site]) -> Leaves:
    if self.hidden is None:
      return {}
    widths = {site.d_in for site in sites}
    if len(widths) > 1:
      raise ValueError(f'Prefix has hidden={self.hidden}, one embedding for all layers, but they are {sorted(widths)} '
                       f'wide. Give one rule a width.')
    keys, width = jax.random.split(key), widths.pop()
    return {'embed': jax.random.normal(keys[0], (self.length, width)),
            'down': width**-0.5 * jax.random.normal(keys[1], (width, self.hidden)), 'down_bias': jnp.zeros(self.hidden)}

  def prepare(self, p: Leaves, site: Site) -> Leaves:
    if self.hidden is None:
      return {'keys': p['keys'], 'values': p['values']}
    h = jnp.tanh(p['embed'] @ p['down'] + p['down_bias'][None])
    both = (h @ p['up'] + p['up_bias'][None]).reshape(self.length, 2, *site.out_shape)
    return {'keys': both[:, 0], 'values': both[:, 1]}

  def plain(self) -> 'Prefix | None':
    return None if self.hidden is None else dataclasses.replace(self, hidden=None)

  def apply(self, p: Leaves, x: Any, y: Any, site: Site) -> tuple[jax.Array, jax.Array]:
    return p['keys'], p['values']

  def num_params(self, site: Site) -> int:
    return 2 * site.d_out * (self.length if self.hidden is None else self.hidden + 1)

  def num_shared(self, sites: Sequence[Site]) -> int:
    return 0 if self.hidden is None else self.length * sites[0].d_in + (sites[0].d_in + 1) * self.hidden
