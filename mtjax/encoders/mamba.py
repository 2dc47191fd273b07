"""Mamba: a language model of selective state spaces, linear in the length of the text.

Gu & Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, https://arxiv.org/abs/2312.00752.

    [u, z] = x W_in;   u <- silu(conv(u));   [delta, B, C] = u W_x;   Delta = softplus(delta W_dt + b_dt)
    y = selective_scan(u, Delta, A, B, C, D),   A = -exp(A_log);      mixer(x) = (y * silu(z)) W_out

in residual blocks with an RMSNorm before (`mtjax.encoders.selective_scan` has the recurrence). E = expand D channels,
N numbers of state a channel, R = ceil(D / 16) the rank of the step.
Parameters are those of the published checkpoints (`mixer.conv1d` is `mixer/conv`, `norm_f` is `norm`); A_log and D are
not called kernel, so that weight decay leaves them alone.
Differs from the published code: padding is zero after in_proj too, so that with use_bias rows padded on the left give
the numbers of rows that are not; a token equal to `pad_id` that is decoded leaves the state as it was.
"""
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from mtjax.context import Ctx
from mtjax.encoders import _checks, _state_space
from mtjax.encoders.causal_conv import CausalConv, conv_tail
from mtjax.encoders.selective_scan import INNER, selective_scan


class Mixer(nn.Module):
  """x [B, L, D] -> (y [B, L, D], {'conv': [B, K - 1, E], 'ssm': [B, E, N]} or None).

  Parameters: in_proj [D, 2 E], conv (kernel [K, 1, E], bias [E]), x_proj [E, R + 2 N], dt_proj [R, E] with bias, A_log
  [E, N], D [E], out_proj [E, D].

  Attributes:
    state_size: N.
    expand: E / D.
    rank: R.
    conv_width: K.
    use_bias: of in_proj and out_proj.
    conv_bias: of the convolution.
    chunk: tokens of a chunk of the scan.
    inner: the scan inside a chunk, see `selective_scan`.
    depth: blocks of the model, which scale the initial out_proj.
    dtype: of the products of matrices; the scan is in float32.
  """
  state_size: int
  expand: int
  rank: int
  conv_width: int
  use_bias: bool
  conv_bias: bool
  chunk: int
  inner: str | None
  depth: int
  dtype: DTypeLike

  @nn.compact
  def __call__(self, x: jax.Array, mask: jax.Array | None = None, segments: jax.Array | None = None,
               state: _state_space.State | None = None, *, keep_state: bool = False, ctx: Ctx | None = None,
               train: bool = False):
    width, state = x.shape[-1], state or {'conv': None, 'ssm': None}
    channels = self.expand * width
    x = _state_space.zero_where_padded(x, mask)
    u, z = jnp.split(_state_space.dense(2 * channels, self, name='in_proj')(x), 2, axis=-1)
    before = _state_space.zero_where_padded(u, mask)              # a bias must not leak through the convolution either
    u = CausalConv(self.conv_width, self.conv_bias, self.dtype, name='conv')(before, segments, state['conv'])
    u = _state_space.zero_where_padded(nn.silu(u), mask)

    projected = _state_space.dense(self.rank + 2 * self.state_size, self, use_bias=False, name='x_proj')(u)
    delta, B, C = jnp.split(projected, [self.rank, self.rank + self.state_size], axis=-1)
    uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
    delta = nn.softplus(nn.Dense(channels, dtype=jnp.float32, kernel_init=uniform, name='dt_proj',
                                 bias_init=_state_space.inverse_softplus_of_steps())(delta))
    A_log = self.param('A_log', _log_of_counting, (channels, self.state_size))
    D = self.param('D', nn.initializers.ones, (channels,))
    if keep_state and mask is not None:
      delta = jnp.where(mask[..., None], delta, 0.0)              # the state stays that of the last token
    y, ssm = selective_scan(u, delta, -jnp.exp(A_log), B, C, D, reset=_state_space.borders(segments),
                            state=state['ssm'], chunk=self.chunk, inner=self.inner)
    y = y.astype(self.dtype) * nn.silu(z)
    y = _state_space.dense(width, self, kernel_init=_state_space.scaled_uniform(self.depth), name='out_proj')(y)
    if not keep_state:
      return y, None
    return y, {'conv': conv_tail(before, self.conv_width, state['conv'], mask).astype(jnp.float32), 'ssm': ssm}


class Mamba(_state_space.StateSpaceModel):
  """tokens [B, L] int or embeddings [B, L, D] -> tokens [B, L, D], pooled [B, D], mask [B, L], aux['logits'] [B, L, V].

  Padding is where ctx.segment_ids is 0, or else where tokens equal `pad_id`; it may stand on either side, and changes
  no token that is none. ctx.segment_ids of several segments a row (packing): each begins from nothing.
  Decoding: `prefill(inputs) -> (features, state)` or `init_state(rows)`, then `decode(tokens [B], state) -> (features,
  state)`, each token in constant time and memory. A row's padding in `prefill` leaves no trace in its state.
  Parameters: embed/embedding [V, D], block_i/{norm/scale, mixer/{in_proj, conv, x_proj, dt_proj, A_log, D, out_proj}},
  norm/scale, and lm_head/kernel [D, V] where logits are not tied.

  Attributes:
    vocab_size: V.
    width: D.
    depth: number of blocks.
    state_size: N.
    conv_width: K, the tokens that the convolution sees.
    expand: E / D.
    use_bias: of in_proj and out_proj.
    conv_bias: of the convolution.
    eps: of the norms.
    pad_id: the token that is padding; None = no token is.
    pool: 'last', the last token that is not padding, or 'mean' over those that are not.
    logits: whether aux['logits'] is filled.
    tie: whether the logits read the table of embeddings.
    dropout_rate: on every residual branch, in training.
    chunk: tokens of a chunk of the scan.
    remat: compute a block's activations again in the backward pass, to save memory; or a name of `stack.POLICIES`.
    dtype: of the products of matrices; residual stream, norms and scan are float32.
    rank: R; None = ceil(D / 16).
    inner: 'associative' or 'sequential', the scan inside a chunk; None = sequential on a CPU, else associative. The
      numbers are the same, to rounding.

  Example:
    >>> model = Mamba(vocab_size=11, width=8, depth=1, logits=True)
    >>> tokens = jnp.array([[3, 1, 4, 1]])
    >>> variables = jax.jit(model.init)(jax.random.key(0), tokens)
    >>> prefill, decode = (jax.jit(functools.partial(model.apply, method=name)) for name in ('prefill', 'decode'))
    >>> features, state = prefill(variables, tokens[:, :3])
    >>> features, state = decode(variables, tokens[:, 3], state)
    >>> features.aux['logits'].shape
    (1, 1, 11)
  """
  rank: int | None = None
  inner: str | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.rank is not None:
      _checks.sizes(self, 'rank')
    _checks.choice(self, 'inner', INNER)

  def mixer(self) -> Callable[..., nn.Module]:
    fields = ('state_size', 'expand', 'conv_width', 'use_bias', 'conv_bias', 'chunk', 'inner', 'depth', 'dtype')
    return functools.partial(Mixer, rank=self.rank or -(-self.width // 16), **{f: getattr(self, f) for f in fields})

  def state_shapes(self) -> dict[str, tuple[int, ...]]:
    channels = self.expand * self.width
    return {'conv': (self.conv_width - 1, channels), 'ssm': (channels, self.state_size)}


def _log_of_counting(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> jax.Array:
  """log 1 … log N in every channel (S4D-Real: Gu et al., 2022, https://arxiv.org/abs/2206.11893)."""
  return jnp.broadcast_to(jnp.log(jnp.arange(1, shape[1] + 1, dtype=dtype))[None], shape)
