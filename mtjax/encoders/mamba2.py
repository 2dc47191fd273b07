"""Mamba-2: state spaces with one decay a head, computed as products of matrices.

Dao & Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality",
ICML 2024, section 7, https://arxiv.org/abs/2405.21060.

    [z, xBC, delta] = x W_in;   [x, B, C] = silu(conv(xBC));   Delta = clip(softplus(delta + dt_bias), limit)
    y = ssd(x, Delta, A, B, C, D),   A = -exp(A_log);          mixer(x) = norm(y * silu(z)) W_out

in residual blocks with an RMSNorm before (`mtjax.encoders.ssd` has the recurrence). E = expand D channels are H heads
of P; B and C [L, G, N] are shared by the heads of a group; the inner norm is an RMSNorm over a group's E / G channels.
Parameters are those of the published checkpoints (`mixer.conv1d` is `mixer/conv`, `norm_f` is `norm`).
"""
import functools
import math
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx
from mtjax.encoders import _checks, _state_space
from mtjax.encoders.causal_conv import CausalConv, conv_tail
from mtjax.encoders.ssd import ssd


class GatedNorm(nn.Module):
  """y, z [..., E] -> RMSNorm(y * silu(z)) within each of `groups` equal parts, float32.  Parameters: scale [E]."""
  groups: int
  eps: float

  @nn.compact
  def __call__(self, y: jax.Array, z: jax.Array) -> jax.Array:
    y = y.astype(jnp.float32) * nn.silu(z.astype(jnp.float32))
    scale = self.param('scale', nn.initializers.ones, (y.shape[-1],))
    parts = y.reshape(*y.shape[:-1], self.groups, -1)
    parts = parts * jax.lax.rsqrt(jnp.mean(jnp.square(parts), axis=-1, keepdims=True) + self.eps)
    return parts.reshape(y.shape) * scale.reshape((1,) * (y.ndim - 1) + (-1,))


class Mixer(nn.Module):
  """x [B, L, D] -> (y [B, L, D], {'conv': [B, K - 1, E + 2 G N], 'ssm': [B, H, P, N]} or None).

  Parameters: in_proj [D, 2 E + 2 G N + H], conv (kernel [K, 1, E + 2 G N], bias), dt_bias [H], A_log [H], D [H],
  norm/scale [E], out_proj [E, D]. Fields as in `Mamba2`.
  """
  state_size: int
  expand: int
  head_size: int
  groups: int
  conv_width: int
  dt_limit: tuple[float, float]
  use_bias: bool
  conv_bias: bool
  eps: float
  chunk: int
  depth: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, segments: jax.Array | None = None,
               state: _state_space.State | None = None, *, keep_state: bool = False, ctx: Ctx | None = None,
               train: bool = False):
    (rows, length, width), state = x.shape, state or {'conv': None, 'ssm': None}
    channels, shared = self.expand * width, self.groups * self.state_size
    heads = channels // self.head_size
    x = _state_space.zero_where_padded(x, mask)
    projected = _state_space.dense(2 * channels + 2 * shared + heads, self, name='in_proj')(x)
    z, before, delta = jnp.split(projected, [channels, 2 * channels + 2 * shared], axis=-1)
    before = _state_space.zero_where_padded(before, mask)         # a bias must not leak through the convolution either
    xbc = CausalConv(self.conv_width, self.conv_bias, self.dtype, name='conv')(before, segments, state['conv'])
    u, B, C = jnp.split(_state_space.zero_where_padded(nn.silu(xbc), mask), [channels, channels + shared], axis=-1)

    dt_bias = self.param('dt_bias', _state_space.inverse_softplus_of_steps(), (heads,))
    A_log = self.param('A_log', lambda _, shape: jnp.log(jnp.arange(1.0, shape[0] + 1)), (heads,))
    D = self.param('D', nn.initializers.ones, (heads,))
    delta = jnp.clip(nn.softplus(delta.astype(jnp.float32) + dt_bias[None, None]), *self.dt_limit)
    if keep_state and mask is not None:
      delta = jnp.where(mask[..., None], delta, 0.0)              # the state stays that of the last token
    B, C = (v.reshape(rows, length, self.groups, self.state_size) for v in (B, C))
    y, ssm = ssd(u.reshape(rows, length, heads, self.head_size), delta, -jnp.exp(A_log), B, C, D,
                 reset=_state_space.borders(segments), state=state['ssm'], chunk=self.chunk)
    y = GatedNorm(self.groups, self.eps, name='norm')(y.reshape(rows, length, channels), z)
    y = _state_space.dense(width, self, kernel_init=_state_space.scaled_uniform(self.depth), name='out_proj')(y)
    if not keep_state:
      return y, None
    return y, {'conv': conv_tail(before, self.conv_width, state['conv'], mask).astype(jnp.float32), 'ssm': ssm}


class Mamba2(_state_space.StateSpaceModel):
  """tokens [B, L] int or embeddings [B, L, D] -> tokens [B, L, D], pooled [B, D], mask [B, L], aux['logits'] [B, L, V].

  Padding, packing, decoding and the fields that are not listed here: as `mtjax.encoders.mamba.Mamba`.
  Parameters: embed/embedding [V, D], block_i/{norm/scale, mixer/{in_proj, conv, dt_bias, A_log, D, norm, out_proj}},
  norm/scale, and lm_head/kernel [D, V] where logits are not tied.

  Attributes:
    vocab_size: V, a multiple of 16 in the published models.
    state_size: N.
    head_size: P; it divides E = expand D.
    groups: G; it divides the number of heads E / P.
    dt_limit: the least and the greatest step.
  """
  vocab_size: int = 50288
  state_size: int = 128
  head_size: int = 64
  groups: int = 1
  dt_limit: Sequence[float] = (0.0, math.inf)

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'head_size', 'groups')
    channels = self.expand * self.width
    if channels % self.head_size or channels // self.head_size % self.groups:
      raise ValueError(f'Mamba2 has {channels} channels (expand={self.expand} times width={self.width}), '
                       f'head_size={self.head_size} and groups={self.groups}; allowed are a head_size that divides the '
                       f'channels, and groups that divide the heads.')
    if len(self.dt_limit) != 2 or not 0 <= self.dt_limit[0] < self.dt_limit[1]:
      raise ValueError(f'Mamba2 has dt_limit={self.dt_limit!r}; allowed are two numbers with 0 <= first < second.')
    object.__setattr__(self, 'dt_limit', tuple(self.dt_limit))

  def mixer(self) -> Callable[..., nn.Module]:
    fields = ('state_size', 'expand', 'head_size', 'groups', 'conv_width', 'dt_limit', 'use_bias', 'conv_bias', 'eps',
              'chunk', 'depth', 'dtype')
    return functools.partial(Mixer, **{field: getattr(self, field) for field in fields})

  def state_shapes(self) -> dict[str, tuple[int, ...]]:
    channels = self.expand * self.width
    return {'conv': (self.conv_width - 1, channels + 2 * self.groups * self.state_size),
            'ssm': (channels // self.head_size, self.head_size, self.state_size)}
