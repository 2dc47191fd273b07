"""The bottleneck that many adapters are: down, an activation, up.

    f(x) = act(x D + b_D) U + b_U,     x [..., D_in], D [D_in, r], U [r, D_out]

Initial values: 'normal' N(0, std^2) for D and U, cut off at 2 std, as Houlsby et al. have it; 'lora' Kaiming-uniform D
(+-D_in^-1/2) and U = 0, so that f = 0. With D and U both 0 only b_U would ever learn.
"""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.lora import uniform
from mtjax.adapters.method import Leaves, Method, check_positive, check_rate, check_sizes
from mtjax.adapters.sites import Site, along
from mtjax.config import did_you_mean

ACTIVATIONS = {'relu': jax.nn.relu, 'gelu': lambda x: jax.nn.gelu(x, approximate=False), 'silu': jax.nn.silu,
               'tanh': jnp.tanh}
INITS = ('normal', 'lora')


def bottleneck(p: Leaves, x: jax.Array, activation: str) -> jax.Array:
  """f(x) [..., D_out] of the leaves down, down_bias, up, up_bias."""
  h = x @ p['down']
  h = ACTIVATIONS[activation](h + along(p['down_bias'], h))
  y = h @ p['up']
  return y + along(p['up_bias'], y)


@dataclasses.dataclass(frozen=True)
class Bottleneck(Method):
  """What the bottleneck adapters have in common.

  Parameters: down [D_in, r], down_bias [r], up [r, D_out], up_bias [D_out].

  Attributes:
    rank: r, the width of the bottleneck.
    reduction: in place of the rank: r = D_out / reduction, at least 1.
    activation: 'relu', 'gelu', 'silu' or 'tanh'.
    init_scheme: 'normal' or 'lora'.
    std: of 'normal'.
    dropout_rate: of the bottleneck's input, where that is the module's.
  """
  rank: int | None = None
  reduction: float = 16.0
  activation: str = 'relu'
  init_scheme: str = 'normal'
  std: float = 0.01
  dropout_rate: float = 0.0
  kinds: ClassVar = ('wrap', 'output', 'span')
  ndim: ClassVar = {'down': 2, 'down_bias': 1, 'up': 2, 'up_bias': 1}
  split_axis: ClassVar = {'down': 0, 'up': 1, 'up_bias': 0}

  def __post_init__(self):
    if self.rank is not None:
      check_sizes(self, 'rank')
    check_positive(self, 'reduction')
    check_rate(self)
    for field, known in (('activation', ACTIVATIONS), ('init_scheme', INITS)):
      if getattr(self, field) not in known:
        raise ValueError(f'{type(self).__name__} has {field}={getattr(self, field)!r}. '
                         f'{did_you_mean(getattr(self, field), known)}')
    if not self.std >= 0:
      raise ValueError(f'{type(self).__name__} has std={self.std!r}; allowed is a number >= 0.')

  def width(self, site: Site) -> int:
    """r at a site."""
    return self.rank or max(1, int(site.d_out / self.reduction))

  def reads(self, site: Site) -> int:
    """D_in: of the module's input, or of its output."""
    return site.d_in

  def init(self, key: jax.Array, site: Site) -> Leaves:
    d_in, width, d_out = self.reads(site), self.width(site), site.d_out
    keys = jax.random.split(key)
    if self.init_scheme == 'lora':
      down, up = uniform(keys[0], (d_in, width), d_in**-0.5), jnp.zeros((width, d_out))
    else:
      down, up = (self.std * jax.random.truncated_normal(k, -2.0, 2.0, shape)
                  for k, shape in zip(keys, ((d_in, width), (width, d_out))))
    return {'down': down, 'down_bias': jnp.zeros(width), 'up': up, 'up_bias': jnp.zeros(d_out)}

  def num_params(self, site: Site) -> int:
    width = self.width(site)
    return self.reads(site) * width + width + width * site.d_out + site.d_out
