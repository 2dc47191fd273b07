"""What encoder-decoders read: what the encoder reads, and the targets [B, L] that the decoder is to predict.

`inputs` is a pair (inputs, targets), or a dict(inputs=…, targets=…), as a stream gives that has both columns. The
decoder reads the targets moved one to the right behind a token that starts them: logits[b, l] predicts targets[b, l].
Negative targets (-100 in published data) are padding, and so are those that equal `pad_id`.
"""
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax.config import check_keys
from mtjax.context import Ctx


def read_pair(module: nn.Module, inputs: Any, targets: jax.Array | None, ctx: Ctx | None) -> tuple[Any, jax.Array]:
  """(what the encoder reads, targets [B, L] int). Raises ValueError where either is missing, or rows are packed."""
  name = type(module).__name__
  if targets is None and isinstance(inputs, Mapping) and 'targets' in inputs:
    check_keys(inputs, ('inputs', 'targets'), f'{name} inputs')
    inputs, targets = inputs.get('inputs'), inputs['targets']
  elif targets is None and isinstance(inputs, tuple | list) and len(inputs) == 2:
    inputs, targets = inputs
  if inputs is None or targets is None:
    raise ValueError(f"{name} reads a pair (inputs, targets), or a dict with 'inputs' and 'targets', but got "
                     f'{_describe(inputs)}. The encoder alone is the method encode.')
  if ctx is not None and ctx.segment_ids is not None:
    raise ValueError(f'{name} has ctx.segment_ids, but inputs and targets would be packed differently; allowed is one '
                     f'pair a row.')
  targets = jnp.asarray(targets)
  if not jnp.issubdtype(targets.dtype, jnp.integer):
    raise TypeError(f'{name} reads targets that are integers, but they have dtype {targets.dtype}.')
  if targets.ndim != 2:
    raise ValueError(f'{name} reads targets [B, L], but they have shape {list(targets.shape)}.')
  return inputs, targets


def shift_right(targets: jax.Array, start_id: int, pad_id: int | None) -> jax.Array:
  """What the decoder reads: start_id, then the targets but the last; what is negative becomes padding.

  Example:
    >>> print(shift_right(jnp.array([[5, 6, -100, -100]]), start_id=2, pad_id=0))
    [[2 5 6 0]]
  """
  moved = jnp.pad(targets[:, :-1], [(0, 0), (1, 0)], constant_values=start_id)
  return jnp.where(moved < 0, pad_id or 0, moved)


def target_mask(targets: jax.Array, pad_id: int | None) -> jax.Array:
  """[B, L] bool: the targets that are not padding."""
  mask = targets >= 0
  return mask if pad_id is None else mask & (targets != pad_id)


def _describe(inputs: Any) -> str:
  if isinstance(inputs, Mapping):
    return f'a dict with {", ".join(map(repr, inputs)) or "nothing"}'
  return f'a {type(inputs).__name__}' + (f' of shape {list(inputs.shape)}' if hasattr(inputs, 'shape') else '')
