"""State space duality (SSD): the recurrence of Mamba-2 as products of matrices.

Dao & Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured State Space Duality",
ICML 2024, section 6 and listing 1, https://arxiv.org/abs/2405.21060.

    S_t = exp(a_t) S_{t-1} + Delta_t x_t B_t^T,      y_t = S_t C_t + D x_t,      a_t = Delta_t A,      S_0 = 0

Shapes: x [B, L, H, P] (H heads of P channels); Delta [B, L, H]; A, D [H]; B, C [B, L, G, N], shared by the H / G heads
of a group; S [B, H, P, N]; y [B, L, H, P].

By chunks of Q tokens, with  M_ts = exp(a_{s+1} + … + a_t)  for s <= t, else 0:

    Y = ((C B^T) o M) (Delta x) + diag(exp(a_1 + … + a_t)) C S_before           inside a chunk
    S_after = exp(a_1 + … + a_Q) S_before + sum_s M_Qs Delta_s x_s B_s^T         from chunk to chunk

The sums of a are cumulative sums of masked entries, not differences of cumulative sums, which would cancel digits; what
is masked becomes -inf before the exponential, so that its gradient is 0 and not NaN.
Differs from the paper: `reset`, the borders of packed sequences, across which M is 0.
"""
import jax
import jax.numpy as jnp

from mtjax.encoders.selective_scan import check_chunk, from_chunks, to_chunks


def segsum(a: jax.Array) -> jax.Array:
  """[..., Q] -> [..., Q, Q], entry (t, s) = a_{s+1} + … + a_t; -inf above the diagonal.

  Example:
    >>> print(segsum(jnp.array([1.0, 2.0, 4.0])))
    [[  0. -inf -inf]
     [  2.   0. -inf]
     [  6.   4.   0.]]
  """
  size = a.shape[-1]
  below = jnp.tril(jnp.ones((size, size), bool), -1)
  entries = jnp.where(_as_last(below, a.ndim + 1), a[..., :, None], 0.0)                # row t, column s: a_t if t > s
  return jnp.where(_as_last(jnp.tril(jnp.ones_like(below)), a.ndim + 1), jnp.cumsum(entries, axis=-2), -jnp.inf)


def ssd(x: jax.Array, delta: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, D: jax.Array, *,
        reset: jax.Array | None = None, state: jax.Array | None = None,
        chunk: int = 32) -> tuple[jax.Array, jax.Array]:
  """(y [B, L, H, P], the state after the last token [B, H, P, N]), in float32.

  Args:
    x: [B, L, H, P], the inputs.
    delta: [B, L, H] >= 0, the steps; 0 lets a token pass without a trace.
    A: [H] < 0.
    B: [B, L, G, N], where G divides H.
    C: [B, L, G, N].
    D: [H], the skip.
    reset: [B, L] bool, tokens before which the state is set to zero.
    state: [B, H, P, N], the state before the first token; None = zero.
    chunk: Q; 32 suits CPUs, 64 to 256 accelerators.
  """
  check_chunk(chunk)
  x, delta, A, B, C, D = (v.astype(jnp.float32) for v in (x, delta, A, B, C, D))
  (rows, length, heads, size), (groups, width) = x.shape, B.shape[2:]
  if heads % groups:
    raise ValueError(f'The scan has {heads} heads and {groups} groups; allowed are groups that divide the heads.')
  per_group = heads // groups
  chunk = min(chunk, length)
  reset = jnp.zeros((rows, length), bool) if reset is None else reset
  state = jnp.zeros((rows, heads, size, width), jnp.float32) if state is None else state.astype(jnp.float32)

  # Chunks first (c), then rows (b), tokens (q, s), groups (g), heads of a group (r), channels (p), state (n).
  inputs = to_chunks((delta[..., None] * x).reshape(rows, length, groups, per_group, size), chunk)
  B, C, reset = (to_chunks(v, chunk) for v in (B, C, reset))
  a = to_chunks((delta * A[None, None]).reshape(rows, length, groups, per_group), chunk).transpose(0, 1, 3, 4, 2)
  segment = jnp.cumsum(reset, axis=-1, dtype=jnp.int32)                                   # [c, b, q], 0: none so far
  same = (segment[..., :, None] == segment[..., None, :])[:, :, None, None]               # [c, b, 1, 1, q, s]
  untouched = (segment == 0)[:, :, None, None]                                            # [c, b, 1, 1, q]

  mixing = jnp.exp(jnp.where(same, segsum(a), -jnp.inf))                                  # M, [c, b, g, r, q, s]
  before = jnp.exp(jnp.where(untouched, jnp.cumsum(a, axis=-1), -jnp.inf))                # [c, b, g, r, q]
  scores = jnp.einsum('cbqgn,cbsgn->cbgqs', C, B)[:, :, :, None] * mixing
  y = jnp.einsum('cbgrqs,cbsgrp->cbqgrp', scores, inputs)
  weighted = inputs * mixing[..., -1, :].transpose(0, 1, 4, 2, 3)[..., None]
  added = jnp.einsum('cbsgrp,cbsgn->cbgrpn', weighted, B)

  def hand_on(state, inputs):
    decay, added = inputs
    return decay[..., None, None] * state + added, state

  state = state.reshape(rows, groups, per_group, size, width)
  state, states = jax.lax.scan(hand_on, state, (before[..., -1], added))
  carried = jnp.einsum('cbqgn,cbgrpn->cbqgrp', C, states)
  y = from_chunks(y + carried * before.transpose(0, 1, 4, 2, 3)[..., None], length).reshape(rows, length, heads, size)
  return y + D[None, None, :, None] * x, state.reshape(rows, heads, size, width)


def _as_last(mask: jax.Array, ndim: int) -> jax.Array:
  """The mask [Q, Q] with leading axes of size 1."""
  return mask.reshape((1,) * (ndim - 2) + mask.shape)
