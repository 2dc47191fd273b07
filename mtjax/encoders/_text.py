"""What text encoders read: the tokens, and which of them are padding.

`inputs` is tokens [B, L] int, or a dict (as a stream gives that has several input columns) of

    tokens        [B, L] int
    mask          [B, L] bool or 0/1, the tokens that are not padding
    positions     [B, L] int
    token_types   [B, L] int (BERT)

Where there is no `mask` among the inputs, padding is what ctx.segment_ids marks as 0; else what a ctx.mask of shape
[B, L] says; else, where the encoder has a `pad_id`, the tokens that equal it; else nothing is. In packed rows
(ctx.segment_ids) a token sees its own segment alone, and positions begin anew with each segment.
"""
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax.config import check_keys
from mtjax.context import Ctx
from mtjax.encoders import _checks
from mtjax.parallel import by_rows

KEYS = ('tokens', 'mask', 'positions', 'token_types')


class Text(NamedTuple):
  """The parts of a text input; a part that was not given is None.

  Attributes:
    tokens: [B, L] int.
    mask: [B, L] bool.
    segments: [B, L] int, of packed rows.
    positions: [B, L] int, given, or within the segments.
    token_types: [B, L] int.
  """
  tokens: jax.Array
  mask: jax.Array | None
  segments: jax.Array | None
  positions: jax.Array | None
  token_types: jax.Array | None


def read_text(module: nn.Module, inputs: Any, ctx: Ctx | None, keys: tuple[str, ...] = KEYS) -> Text:
  """Takes `inputs` and `ctx` apart. Raises ValueError for a key that `module` does not read, and for wrong shapes."""
  name = type(module).__name__
  parts = dict(inputs) if isinstance(inputs, Mapping) else {'tokens': inputs}
  check_keys(parts, keys, f'{name} inputs')
  if 'tokens' not in parts:
    raise ValueError(f"{name} reads a dict with 'tokens', but the input has {', '.join(parts) or 'nothing'}.")
  tokens = jnp.asarray(parts['tokens'])
  _checks.tokens(module, tokens, getattr(module, 'max_length', None))
  segments = None if ctx is None else ctx.segment_ids
  mask = parts.get('mask')
  if mask is None and segments is not None:
    mask = segments > 0
  if mask is None and ctx is not None and ctx.mask is not None and ctx.mask.ndim == 2:
    mask = ctx.mask
  if mask is None and module.pad_id is not None:
    mask = tokens != module.pad_id
  mask = None if mask is None else jnp.asarray(mask).astype(bool)
  positions = parts.get('positions')
  given = {'mask': mask, 'positions': positions, 'token_types': parts.get('token_types'), 'segment_ids': segments}
  for part, x in given.items():
    if x is not None and x.shape != tokens.shape:
      raise ValueError(f'{name} reads {part} [B, L] = {list(tokens.shape)}, as the tokens, but got {list(x.shape)}.')
  if positions is None and segments is not None:
    positions = _within(segments)
  return Text(tokens, mask, segments, positions, given['token_types'])


def _within(segments: jax.Array) -> jax.Array:
  """[B, L] -> how many tokens of its segment stand before each token."""
  index = jnp.broadcast_to(jnp.arange(segments.shape[1])[None], segments.shape)
  begins = jnp.pad(segments[:, 1:] != segments[:, :-1], [(0, 0), (1, 0)], constant_values=True)
  return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)


def count_positions(mask: jax.Array) -> jax.Array:
  """[B, L] bool -> how many tokens that are not padding stand before each, so that left padding moves nothing."""
  return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)


def pool(x: jax.Array, mask: jax.Array | None, how: str) -> jax.Array:
  """tokens [B, L, D] -> [B, D]: the 'last' token that is not padding, or the 'mean' over all that are not.

  A row of nothing but padding has the mean 0.
  """
  if mask is None:
    return x[:, -1] if how == 'last' else x.mean(axis=1)
  if how == 'mean':
    weight = mask[:, :, None].astype(x.dtype)
    return (x * weight).sum(axis=1) / jnp.maximum(weight.sum(axis=1), 1)
  last = mask.shape[1] - 1 - jnp.argmax(mask[:, ::-1], axis=1)
  return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]


def vocabulary_logits(x: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
  """x [B, L, D], kernel [V, D] -> [B, L, V] float32, the product in the dtype of x."""
  logits = jnp.einsum('bld,vd->blv', by_rows(x), kernel.astype(x.dtype), preferred_element_type=jnp.float32)
  logits = by_rows(logits, last=False)
  return logits if bias is None else logits + bias.astype(jnp.float32)[None, None]
