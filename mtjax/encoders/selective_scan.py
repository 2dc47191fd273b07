"""The selective scan of Mamba: a linear recurrence whose step, input and output depend on the token.

Gu & Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2023, section 3 and Algorithm 2,
https://arxiv.org/abs/2312.00752.

    h_t = exp(Delta_t A) * h_{t-1} + (Delta_t u_t) B_t,      y_t = C_t . h_t + D * u_t,      h_0 = 0

Shapes: u, Delta [B, L, E] (E channels, Delta > 0); A [E, N] < 0; B, C [B, L, N]; D [E]; h [B, E, N]; y [B, L, E].
Each channel has N numbers of state; none sees another channel's.

How it is computed: the sequence is cut into chunks, and a sequential scan hands the state from chunk to chunk. Inside
one, either the pairs (a, b) of  h -> a h + b  are composed by an associative scan, in log2(chunk) steps that suit
accelerators; or token follows token, which suits CPUs (B = 2, L = 2048, E = 128, N = 16, two cores: forward 7 ms in
place of 62, with gradients 66 ms in place of 240). The backward pass computes a chunk's states again, so that only the
states between chunks are kept, [L / chunk, B, E, N] in place of [L, B, E, N] (7 MiB in place of 105).
Differs from the paper: no kernel for one kind of GPU; and `reset`, the borders of packed sequences.
"""
import jax
import jax.numpy as jnp

INNER = (None, 'associative', 'sequential')


def selective_scan(u: jax.Array, delta: jax.Array, A: jax.Array, B: jax.Array, C: jax.Array, D: jax.Array, *,
                   reset: jax.Array | None = None, state: jax.Array | None = None,
                   chunk: int = 32, inner: str | None = None) -> tuple[jax.Array, jax.Array]:
  """(y [B, L, E], the state after the last token [B, E, N]), in float32.

  Args:
    u: [B, L, E], the inputs.
    delta: [B, L, E] >= 0, the steps; 0 lets a token pass without a trace.
    A: [E, N].
    B: [B, L, N].
    C: [B, L, N].
    D: [E], the skip.
    reset: [B, L] bool, tokens before which the state is set to zero.
    state: [B, E, N], the state before the first token; None = zero.
    chunk: tokens of a chunk.
    inner: 'associative' or 'sequential', the scan inside a chunk; None = sequential on a CPU, else associative.

  Example:
    >>> one = jnp.ones((1, 2, 1))                       # two tokens, one channel, one number of state
    >>> y, h = selective_scan(one, np.log(2) * one, -jnp.ones((1, 1)), one, one, jnp.zeros(1))
    >>> print(y[0, :, 0].round(4))                      # ln 2, then half of it plus ln 2
    [0.6931 1.0397]
  """
  check_chunk(chunk)
  if inner not in INNER:
    raise ValueError(f'The scan has inner={inner!r}; allowed are {", ".join(map(repr, INNER))}.')
  inner = inner or ('sequential' if jax.default_backend() == 'cpu' else 'associative')
  u, delta, A, B, C, D = (x.astype(jnp.float32) for x in (u, delta, A, B, C, D))
  rows, length, channels = u.shape
  h = jnp.zeros((rows, channels, A.shape[-1]), jnp.float32) if state is None else state.astype(jnp.float32)
  reset = jnp.zeros((rows, length), bool) if reset is None else reset

  def run_associative(h, inputs):
    u, delta, B, C, reset = inputs
    decay = jnp.where(reset[..., None, None], 0.0, jnp.exp(delta[..., None] * A[None, None]))
    decay, added = jax.lax.associative_scan(_compose, (decay, (delta * u)[..., None] * B[:, :, None, :]), axis=1)
    states = decay * h[:, None] + added                                         # [B, chunk, E, N]
    return states[:, -1], jnp.einsum('blen,bln->ble', states, C)

  def step(h, inputs):
    u, delta, B, C, reset = inputs                                              # of one token: [B, E], …
    decay = jnp.where(reset[:, None, None], 0.0, jnp.exp(delta[..., None] * A[None]))
    h = decay * h + (delta * u)[..., None] * B[:, None, :]
    return h, jnp.einsum('ben,bn->be', h, C)

  def run_sequential(h, inputs):
    h, y = jax.lax.scan(step, h, tuple(jnp.moveaxis(x, 1, 0) for x in inputs))
    return h, jnp.moveaxis(y, 0, 1)

  run_chunk = jax.checkpoint(run_sequential if inner == 'sequential' else run_associative)
  inputs = (u, delta, B, C, reset)
  if length <= chunk:
    h, y = run_chunk(h, inputs)
  else:
    h, y = jax.lax.scan(run_chunk, h, tuple(to_chunks(x, chunk) for x in inputs))   # filled up with delta = 0
    y = from_chunks(y, length)
  return y + D[None, None] * u, h


def check_chunk(chunk: int) -> None:
  """Raises ValueError unless chunk is an integer >= 1."""
  if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
    raise ValueError(f'The scan has chunk={chunk!r}; allowed is an integer >= 1.')


def to_chunks(x: jax.Array, chunk: int) -> jax.Array:
  """[B, L, …] -> [number of chunks, B, chunk, …], filled up with zeros."""
  rows, length, *rest = x.shape
  number = -(-length // chunk)
  x = jnp.pad(x, [(0, 0), (0, number * chunk - length)] + [(0, 0)] * len(rest))
  return jnp.moveaxis(x.reshape(rows, number, chunk, *rest), 1, 0)


def from_chunks(x: jax.Array, length: int) -> jax.Array:
  """The inverse of `to_chunks`."""
  number, rows, chunk, *rest = x.shape
  return jnp.moveaxis(x, 0, 1).reshape(rows, number * chunk, *rest)[:, :length]


def _compose(first: tuple[jax.Array, jax.Array], second: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
  """h -> a h + b, twice."""
  (a, b), (later_a, later_b) = first, second
  return later_a * a, later_a * b + later_b
