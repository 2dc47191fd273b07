"""A causal depth-wise convolution over tokens, which keeps to its segment and goes on from a tail.

Gu & Dao, "Mamba", 2023, figure 3, https://arxiv.org/abs/2312.00752.

    y_t = bias + sum_{k < K} kernel_k * x_{t - (K - 1) + k}        channel by channel; x = 0 before the first token

Written as K shifted products (K is about 4): a token of another segment can then be left out of each.
"""
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


class CausalConv(nn.Module):
  """x [B, L, E] -> [B, L, E].  Parameters: kernel [K, 1, E], bias [E].

  Attributes:
    width: K, the tokens that are seen, the last being the current one.
    use_bias: whether there is a bias.
    dtype: of the products.
  """
  width: int = 4
  use_bias: bool = True
  dtype: DTypeLike = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, segments: jax.Array | None = None, tail: jax.Array | None = None) -> jax.Array:
    """`segments` [B, L] int: a token sees those of its own only; `tail` [B, K - 1, E]: the inputs before the first."""
    (rows, length, channels), past = x.shape, self.width - 1
    start = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform', in_axis=(0, 1))
    kernel = self.param('kernel', start, (self.width, 1, channels)).astype(self.dtype)
    tail = jnp.zeros((rows, past, channels), self.dtype) if tail is None else tail.astype(self.dtype)
    x = jnp.concatenate([tail, x.astype(self.dtype)], axis=1)
    y = jnp.zeros((rows, length, channels), self.dtype)
    if segments is not None:
      padded = jnp.pad(segments, [(0, 0), (past, 0)], constant_values=-1)
    for k in range(self.width):
      seen = x[:, k:k + length]
      if segments is not None and k < past:
        seen = jnp.where((padded[:, k:k + length] == segments)[..., None], seen, jnp.zeros((), self.dtype))
      y = y + kernel[k:k + 1] * seen
    if self.use_bias:
      y = y + self.param('bias', nn.initializers.zeros, (channels,)).astype(self.dtype)[None, None]
    return y


def conv_tail(x: jax.Array, width: int, tail: jax.Array | None = None, mask: jax.Array | None = None) -> jax.Array:
  """The last width - 1 inputs [B, width - 1, E], from which the next token goes on.

  Args:
    x: [B, L, E], what the convolution read.
    width: K.
    tail: [B, K - 1, E], what came before x; None = zeros.
    mask: [B, L] bool; the inputs end with each row's last True. None = with the last token.
  """
  past = width - 1
  tail = jnp.zeros((x.shape[0], past, x.shape[2]), x.dtype) if tail is None else tail.astype(x.dtype)
  x = jnp.concatenate([tail, x], axis=1)
  if mask is None:
    return x[:, x.shape[1] - past:]
  end = last_index(mask) + 1
  return jnp.take_along_axis(x, (end[:, None] + jnp.arange(past)[None])[..., None], axis=1)


def last_index(mask: jax.Array) -> jax.Array:
  """The position of each row's last True: [B, L] -> [B] int32, -1 where there is none."""
  return jnp.max(jnp.where(mask, jnp.arange(mask.shape[1])[None], -1), axis=1)
