"""What Mamba and Mamba-2 share: embedding, residual blocks, padding and packing, pooling, logits, decoding.

    x <- x + dropout(mixer(norm(x)))   for each block;   tokens = norm(x);   logits = tokens embed^T

The residual stream is float32 (`residual_in_fp32` of the published models). B rows, L tokens, D width, V vocabulary.
"""
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Ctx, Features
from mtjax.encoders import _checks
from mtjax.encoders.causal_conv import last_index
from mtjax.encoders.embed import Embed
from mtjax.parallel import by_rows

State = dict[str, Any]


class Block(nn.Module):
  """x [B, L, D] -> (x [B, L, D], the mixer's state or None).  Parameters: norm/scale, mixer."""
  make: Callable[..., nn.Module]
  eps: float
  dropout_rate: float

  def setup(self):
    self.norm = nn.RMSNorm(self.eps, dtype=jnp.float32)
    self.mixer = self.make()
    self.dropout = nn.Dropout(self.dropout_rate)

  def __call__(self, x: jax.Array, mask: jax.Array | None, segments: jax.Array | None, state: State | None, *,
               keep_state: bool, ctx: Ctx | None, train: bool):
    y, state = self.mixer(self.norm(x), mask, segments, state, keep_state=keep_state, ctx=ctx, train=train)
    return x + self.dropout(y.astype(jnp.float32), deterministic=not train), state


class StateSpaceModel(nn.Module):
  """The model around the mixers; see `mtjax.encoders.mamba.Mamba` for inputs, outputs and fields."""
  vocab_size: int = 50280
  width: int = 768
  depth: int = 24
  state_size: int = 16
  conv_width: int = 4
  expand: int = 2
  use_bias: bool = False
  conv_bias: bool = True
  eps: float = 1e-5
  pad_id: int | None = None
  pool: str = 'last'
  logits: bool = False
  tie: bool = True
  dropout_rate: float = 0.0
  chunk: int = 32
  remat: bool = False
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'vocab_size', 'width', 'depth', 'state_size', 'conv_width', 'expand', 'chunk')
    _checks.rate(self)
    _checks.choice(self, 'pool', ('last', 'mean'))

  def mixer(self) -> Callable[..., nn.Module]:
    """Makes the mixer of a block (a class with its fields; the block is its parent)."""
    raise NotImplementedError

  def setup(self):
    self.embed = Embed(self.vocab_size, self.width, embedding_init=nn.initializers.normal(0.02))
    self.block = [Block(self.mixer(), self.eps, self.dropout_rate) for _ in range(self.depth)]
    self.norm = nn.RMSNorm(self.eps, dtype=jnp.float32)
    if self.logits and not self.tie:
      self.lm_head = nn.Dense(self.vocab_size, use_bias=False, dtype=self.dtype)

  def __call__(self, inputs: jax.Array, *, ctx: Ctx | None = None, train: bool = False) -> Features:
    """Inputs -> Features."""
    return self._run(inputs, None, keep_state=False, ctx=ctx, train=train)[0]

  def prefill(self, inputs: jax.Array, *, ctx: Ctx | None = None) -> tuple[Features, State]:
    """(Features, the state after each row's last token that is not padding), from which `decode` goes on."""
    return self._run(inputs, None, keep_state=True, ctx=ctx, train=False)

  def decode(self, inputs: jax.Array, state: State, *, ctx: Ctx | None = None) -> tuple[Features, State]:
    """One more token a row, or several: tokens [B] or [B, L] (embeddings [B, D] or [B, L, D]) -> (Features, state).

    The features are those of a full forward at these positions; time and memory do not grow with what came before.
    """
    inputs = jnp.asarray(inputs)
    single = 1 if jnp.issubdtype(inputs.dtype, jnp.integer) else 2
    return self._run(inputs[:, None] if inputs.ndim == single else inputs, state, keep_state=True, ctx=ctx, train=False)

  def init_state(self, rows: int) -> State:
    """The state before any token: {block: {'conv': zeros [B, K - 1, channels], 'ssm': zeros}}."""
    return {f'block_{i}': jax.tree.map(lambda shape: jnp.zeros((rows, *shape)), self.state_shapes(),
                                       is_leaf=lambda x: isinstance(x, tuple)) for i in range(self.depth)}

  def state_shapes(self) -> Mapping[str, tuple[int, ...]]:
    """The shapes of one row's state in one block."""
    raise NotImplementedError

  def _run(self, inputs, state, *, keep_state, ctx, train):
    inputs = jnp.asarray(inputs)
    given = None if ctx is None or state is not None else ctx.segment_ids
    x, mask, segments = self._read(inputs, given)

    def call(block, x, mask, segments, state, ctx):
      return by_rows(block(by_rows(x), mask, segments, state, keep_state=keep_state, ctx=ctx, train=train))

    run, after = (nn.remat(call) if self.remat else call), {}
    for i, block in enumerate(self.block):
      name = f'block_{i}'
      x, after[name] = run(block, x, mask, segments, None if state is None else state[name], ctx)
    tokens = self.norm(x)
    known = jnp.ones(x.shape[:2], bool) if mask is None else mask
    aux = {'logits': self._logits(tokens)} if self.logits else {}
    return Features(tokens=tokens, pooled=self._pool(tokens, known), mask=known, aux=aux), after

  def _read(self, inputs, segments):
    """Inputs and segment ids -> (x [B, L, D] float32, mask or None, segments or None)."""
    name = type(self).__name__
    if jnp.issubdtype(inputs.dtype, jnp.integer):
      _checks.tokens(self, inputs, inputs.shape[-1])
      x, mask = self.embed(inputs), None if self.pad_id is None else inputs != self.pad_id
    else:
      if inputs.ndim != 3 or inputs.shape[-1] != self.width:
        raise ValueError(f'{name} reads tokens [B, L] or embeddings [B, L, {self.width}], but the input has shape '
                         f'{list(inputs.shape)}.')
      if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise TypeError(f'{name} reads integers or floats, but the input has dtype {inputs.dtype}.')
      x, mask = inputs.astype(jnp.float32), None
    if segments is not None:
      if segments.shape != x.shape[:2]:
        raise ValueError(f'{name} has ctx.segment_ids of shape {list(segments.shape)}, but the input has '
                         f'{list(x.shape[:2])} rows and tokens.')
      mask = segments > 0
    return x, mask, segments

  def _pool(self, tokens, mask):
    if self.pool == 'last':
      return jnp.take_along_axis(tokens, jnp.maximum(last_index(mask), 0)[:, None, None], axis=1)[:, 0]
    weight = mask[:, :, None].astype(tokens.dtype)
    return (tokens * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1.0)

  def _logits(self, tokens):
    if self.tie:
      return jnp.einsum('bld,vd->blv', tokens.astype(self.dtype), self.embed.embedding.astype(self.dtype)).astype(
        jnp.float32)
    return self.lm_head(tokens).astype(jnp.float32)


def dense(features: int, module: nn.Module, use_bias: bool | None = None, **kwargs: Any) -> nn.Dense:
  """A Dense with the initial weights of the published code: uniform in +-fan_in^{-1/2}, zero bias."""
  start = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')
  use_bias = module.use_bias if use_bias is None else use_bias
  return nn.Dense(features, use_bias, **{'dtype': module.dtype, 'kernel_init': start} | kwargs)


def inverse_softplus_of_steps(low: float = 1e-3, high: float = 0.1, floor: float = 1e-4) -> Callable[..., jax.Array]:
  """Initialiser: log(exp(Delta) - 1) of steps Delta that are log-uniform in low … high and at least `floor`."""
  def init(key, shape, dtype=jnp.float32):
    steps = jnp.exp(jax.random.uniform(key, shape, dtype, np.log(low), np.log(high)))
    steps = jnp.maximum(steps, floor)
    return steps + jnp.log(-jnp.expm1(-steps))
  return init


def zero_where_padded(x: jax.Array, mask: jax.Array | None) -> jax.Array:
  """x [B, L, …] with zeros where mask [B, L] is False."""
  return x if mask is None else jnp.where(mask[..., None], x, jnp.zeros((), x.dtype))


def borders(segments: jax.Array | None) -> jax.Array | None:
  """[B, L] bool: the first token of every segment after the row's first (padding, segment 0, begins none)."""
  if segments is None:
    return None
  previous = jnp.pad(segments, [(0, 0), (1, 0)])[:, :-1]
  return (segments != previous) & (segments > 0)


def scaled_uniform(depth: int) -> Callable[..., jax.Array]:
  """Initialiser of the layers that end in the residual stream: uniform in +-(fan_in depth)^{-1/2}."""
  return nn.initializers.variance_scaling(1 / (3 * depth), 'fan_in', 'uniform')
