"""The Conformer's convolution as an adapter: a bottleneck that looks at neighbouring tokens.

Cappellazzo et al., "Parameter-Efficient Transfer Learning of Audio Spectrogram Transformers", MLSP 2024,
https://arxiv.org/abs/2312.03694; the convolution module: Gulati et al., "Conformer", Interspeech 2020,
https://arxiv.org/abs/2005.08100.

    a, g = x D + b_D (in two halves),   h = a sigma(g),   h_l <- sum_j K_j * h_(l + j - (k-1)/2)
    f(x) = silu(scale * norm(h) + shift) U + b_U,     y <- y + f(x) in parallel, y <- y + f(y) in sequence

x [L, D], D [D, 2 m], K [k, m] (depthwise, zeros beyond the ends), U [m, D] = 0 at first, m = D / reduction. The paper
finds: beside the MLP, in parallel. At site='wrap', r'mlp$'.
Differs from the paper: norm is over the features of a token (LayerNorm, epsilon 1e-6), where the paper has BatchNorm,
whose statistics mix the tasks of a batch. Its own code leaves the down-projection at 0, where it never learns; here it
is drawn.
"""
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from mtjax.adapters.lora import uniform
from mtjax.adapters.method import Leaves, Method, check_positive, check_rate, check_sizes
from mtjax.adapters.sites import Site, along


def depthwise(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """x [L, m], kernel [k, m], k odd -> [L, m]; beyond the ends x is 0."""
  length, k = x.shape[0], kernel.shape[0]
  padded = jnp.pad(x, [(k // 2, k // 2), (0, 0)])
  windows = padded[jnp.arange(length)[:, None] + jnp.arange(k)[None]]  # [L, k, m]
  return jnp.einsum('lkm,km->lm', windows, kernel)


@dataclasses.dataclass(frozen=True)
class ConvAdapter(Method):
  """See above, for modules on tokens [B, L, D].

  Parameters: down [D, 2 m], down_bias [2 m], kernel [k, m], scale [m], shift [m], up [m, D], up_bias [D].

  Attributes:
    reduction: D / m.
    width: k, odd.
    parallel: whether f reads the module's input rather than its output.
    dropout_rate: of the module's input, in training.
  """
  reduction: float = 64.0
  width: int = 31
  parallel: bool = True
  dropout_rate: float = 0.0
  kinds: ClassVar = ('wrap', 'output')
  ndim: ClassVar = {'down': 2, 'down_bias': 1, 'kernel': 2, 'scale': 1, 'shift': 1, 'up': 2, 'up_bias': 1}

  def __post_init__(self):
    check_positive(self, 'reduction')
    check_sizes(self, 'width')
    check_rate(self)
    if self.width % 2 == 0:
      raise ValueError(f'ConvAdapter has width={self.width}; allowed is an odd number of tokens.')

  def channels(self, site: Site) -> int:
    """m at a site."""
    return max(1, int(site.d_out / self.reduction))

  def init(self, key: jax.Array, site: Site) -> Leaves:
    keys, m, d_in = jax.random.split(key), self.channels(site), self._reads(site)
    return {'down': uniform(keys[0], (d_in, 2 * m), d_in**-0.5), 'down_bias': jnp.zeros(2 * m),
            'kernel': uniform(keys[1], (self.width, m), self.width**-0.5), 'scale': jnp.ones(m), 'shift': jnp.zeros(m),
            'up': jnp.zeros((m, site.d_out)), 'up_bias': jnp.zeros(site.d_out)}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    given = x.astype(y.dtype) if self.parallel else y
    if given.ndim != 2:
      raise ValueError(f'ConvAdapter is at {site.path!r}, whose rows are {list(given.shape)}; allowed are tokens '
                       f'[L, D].')
    h = given @ p['down']
    value, gate = jnp.split(h + along(p['down_bias'], h), 2, axis=-1)
    h = depthwise(value * jax.nn.sigmoid(gate), p['kernel'])
    h = (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-6)
    h = jax.nn.silu(h * along(p['scale'], h) + along(p['shift'], h)) @ p['up']
    return y + h + along(p['up_bias'], h)

  def _reads(self, site: Site) -> int:
    return site.d_in if self.parallel else site.d_out

  def num_params(self, site: Site) -> int:
    m = self.channels(site)
    return 2 * m * (self._reads(site) + 1) + m * (self.width + 2) + (m + 1) * site.d_out
