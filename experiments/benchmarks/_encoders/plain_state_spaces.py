"""Mamba and Mamba-2 with nothing but their products of matrices, convolutions and recurrences.

Mamba's recurrence is `jax.lax.scan` over the tokens, as one would write it down; Mamba-2's is its chunks of products
(without resets, padding, or a state to go on from). The softplus stays: the recurrences need steps > 0; and the product
with the gate, without which half of the first product had no use. Functions as in `plain_transformers`.
"""
import jax
import jax.numpy as jnp

from experiments.benchmarks._encoders.plain_transformers import look_up, product, to_vocabulary


def causal_conv(x, p, how):
  """x [B, L, E], kernel [K, 1, E] -> [B, L, E], K shifted products."""
  kernel, length = p['kernel'].astype(how.dtype), x.shape[1]
  x = jnp.pad(x, [(0, 0), (len(kernel) - 1, 0), (0, 0)])
  return sum(kernel[k:k + 1] * x[:, k:k + length] for k in range(len(kernel)))


def recurrence(u, delta, A, B, C):
  """u, delta [B, L, E], A [E, N], B, C [B, L, N] -> [B, L, E]: h <- exp(delta A) h + delta u B, y = C . h."""
  def step(h, inputs):
    u, delta, B, C = inputs
    h = jnp.exp(delta[..., None] * A[None]) * h + (delta * u)[..., None] * B[:, None]
    return h, jnp.einsum('ben,bn->be', h, C)

  start = jnp.zeros((len(u), *A.shape))
  return jnp.moveaxis(jax.lax.scan(step, start, [jnp.moveaxis(v, 1, 0) for v in (u, delta, B, C)])[1], 0, 1)


def mamba(p, tokens, how):
  """tokens [B, L] -> logits [B, L, V]."""
  x = look_up(tokens, p['embed'], how)
  for i in range(sum(name.startswith('block_') for name in p)):
    own = p[f'block_{i}']['mixer']
    u, z = jnp.split(product(x, own['in_proj'], how), 2, axis=-1)
    u = causal_conv(u, own['conv'], how)
    rank, size = own['dt_proj']['kernel'].shape[0], own['A_log'].shape[1]
    delta, B, C = jnp.split(product(u, own['x_proj'], how).astype(jnp.float32), [rank, rank + size], axis=-1)
    delta = jax.nn.softplus(delta @ own['dt_proj']['kernel'])
    y = recurrence(u.astype(jnp.float32), delta, -jnp.exp(own['A_log']), B, C)
    x = product(y.astype(how.dtype) * z, own['out_proj'], how)
  return to_vocabulary(x, p['embed'], how)


def dual(x, delta, A, B, C, chunk):
  """x [B, L, H, P], delta [B, L, H], A [H], B, C [B, L, N] (one group) -> [B, L, H, P], by chunks that divide L."""
  rows, length, heads, size = x.shape
  cut = lambda v: v.reshape(rows, length // chunk, chunk, *v.shape[2:])
  x, a, B, C = cut(delta[..., None] * x), cut(delta * A[None, None]), cut(B), cut(C)
  total = jnp.cumsum(a, axis=2)                                                            # [b, c, q, h]
  below = jnp.tril(jnp.ones((chunk, chunk), bool))[None, None, :, :, None]
  mixing = jnp.exp(jnp.where(below, total[:, :, :, None] - total[:, :, None], -jnp.inf))   # [b, c, q, s, h]
  y = jnp.einsum('bcqsh,bcshp->bcqhp', jnp.einsum('bcqn,bcsn->bcqs', C, B)[..., None] * mixing, x)
  added = jnp.einsum('bcshp,bcsn->bchpn', x * mixing[:, :, -1, :, :, None], B)

  def hand_on(state, inputs):
    decay, added = inputs
    return decay[..., None, None] * state + added, state

  start = jnp.zeros((rows, heads, size, B.shape[-1]))
  decay = jnp.exp(total)
  _, states = jax.lax.scan(hand_on, start, (jnp.moveaxis(decay[:, :, -1], 1, 0), jnp.moveaxis(added, 1, 0)))
  y = y + jnp.einsum('bcqn,cbhpn->bcqhp', C, states) * decay[..., None]
  return y.reshape(rows, length, heads, size)


def mamba2(state_size: int, head_size: int, chunk: int = 32):
  """tokens [B, L] -> logits [B, L, V], with one group."""
  def run(p, tokens, how):
    x = look_up(tokens, p['embed'], how)
    for i in range(sum(name.startswith('block_') for name in p)):
      own, rows, length = p[f'block_{i}']['mixer'], *x.shape[:2]
      channels = own['out_proj']['kernel'].shape[0]
      projected = product(x, own['in_proj'], how)
      z, xbc, delta = jnp.split(projected, [channels, 2 * channels + 2 * state_size], axis=-1)
      xbc = causal_conv(xbc, own['conv'], how).astype(jnp.float32)
      u, B, C = jnp.split(xbc, [channels, channels + state_size], axis=-1)
      y = dual(u.reshape(rows, length, -1, head_size), jax.nn.softplus(delta.astype(jnp.float32)),
               -jnp.exp(own['A_log']), B, C, chunk)
      x = product(y.reshape(rows, length, channels).astype(how.dtype) * z, own['out_proj'], how)
    return to_vocabulary(x, p['embed'], how)

  return run
