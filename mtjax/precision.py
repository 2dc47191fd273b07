"""Precision: which numbers a run computes and keeps in which floating-point type.

  config.precision = dict(compute='bfloat16', params='float32', reductions='float32')

Micikevicius et al., "Mixed Precision Training", ICLR 2018, https://arxiv.org/abs/1710.03740; with bfloat16, which has
the exponents of float32 and needs no loss scaling: Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training",
2019, https://arxiv.org/abs/1905.12322.

  compute      matrix products and convolutions with their biases, activation functions, residual streams: the field
               `dtype` of the encoder and of the heads' hidden layers. A component that names a dtype itself keeps it.
  params       parameters as they are kept from step to step. In bfloat16 a step works on a float32 copy: gradients,
               moments, averages and the update are float32, and the sum is rounded by chance (`round_by_chance`).
  reductions   softmax, norms, losses, Gramians, logits, and what is summed over rows, tasks or micro-batches: float32.

Differs from the papers: no copy of bfloat16 parameters is kept in float32 besides. What is added up within one
compiled product or in the gradient of a bias is the compiler's matter: XLA adds bfloat16 up in float32, then rounds.
"""
import dataclasses
import logging
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.config import check_keys

log = logging.getLogger('mtjax')

_ALLOWED = {'compute': ('float32', 'bfloat16'), 'params': ('float32', 'bfloat16'), 'reductions': ('float32',)}
_REASONS = {'float16': ' Gradients in float16 underflow without loss scaling, which there is none of; use bfloat16.'}


@dataclasses.dataclass(frozen=True)
class Precision:
  """`config.precision`.

  Attributes:
    compute, params, reductions: see above.

  Example:
    >>> Precision(compute='bfloat16').params
    'float32'
  """

  compute: str = 'float32'
  params: str = 'float32'
  reductions: str = 'float32'

  def __post_init__(self):
    for field, allowed in _ALLOWED.items():
      value = getattr(self, field)
      if value not in allowed:
        raise ValueError(f"'precision.{field}' must be {' or '.join(map(repr, allowed))}, got {value!r}."
                         f'{_REASONS.get(value, "")}')

  @classmethod
  def make(cls, config: Mapping[str, str]) -> 'Precision':
    """From the config's field; what it leaves out is float32."""
    check_keys(config, _ALLOWED, 'precision')
    return cls(**config)

  def apply(self, module: Any, given: Mapping[str, Any], where: str, required: bool = False) -> Any:
    """The module with its field `dtype` set to `compute`.

    Args:
      module: a Linen module.
      given: its config; a dtype in it has the last word.
      where: its config path, for messages.
      required: whether a module without that field is an error, rather than left as it is with a warning.
    """
    if self.compute == 'float32' or 'dtype' in given:
      return module
    if 'dtype' in type(module).__dataclass_fields__:
      return module.clone(dtype=jnp.dtype(self.compute))
    name = type(module).__name__
    if required:
      raise ValueError(f"'precision.compute' is {self.compute!r}, but {name} ('{where}') has no field `dtype` by which "
                       f"it could be told. Give it one and hand it to its layers, or leave 'precision.compute' out.")
    if 'head' not in type(module).__dataclass_fields__:  # a head around another one computes nothing of its own
      log.warning("'precision.compute' is %r, but %s ('%s') has no field `dtype`: it computes as it is written.",
                  self.compute, name, where)
    return module

  def store(self, params: Any) -> Any:
    """The parameters (a tree of arrays) in the type that they are kept in."""
    return params if self.params == 'float32' else cast_floats(params, self.params)


def cast_floats(values: Any, dtype: Any) -> Any:
  """A tree whose arrays of floats have this dtype; others stay."""
  return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, values)


def widen(values: Any) -> Any:
  """A tree with every float of less than 32 bits as float32; float32 stays as it is."""
  return jax.tree.map(lambda x: x.astype(jnp.float32) if _is_narrow(x) else x, values)


def narrow_like(values: Any, like: Any, key: jax.Array) -> Any:
  """Nested dicts of arrays in the dtypes of `like`: what gets narrower is rounded by chance, each path by itself.

  Args:
    values: nested dicts.
    like: the same with other dtypes.
    key: of the draws.
  """
  known = tree.flatten(like)
  if not any(map(_is_narrow, known.values())):
    return values
  words = jax.random.bits(key, (2,), jnp.uint32)
  return tree.map_with_path(
    lambda path, x: _round(x, words, zlib.crc32(path.encode())) if _is_narrow(known[path]) else x, values)


def round_by_chance(x: jax.Array, key: jax.Array) -> jax.Array:
  """float32 -> bfloat16, up or down by chance such that the mean is x: E[round(x)] = x.

  Gupta et al., "Deep Learning with Limited Numerical Precision", ICML 2015, https://arxiv.org/abs/1502.02551; in
  training with bfloat16 alone: Zamirai et al., "Revisiting BFloat16 Training", 2020, https://arxiv.org/abs/2010.06192.
  Rounding to the nearest would lose every update below 1/512 of its parameter, and training would stand still.

  Args:
    x: any shape. What is not finite stays so.
    key: of the draws, which are a hash of it and of the place in x: every device makes its own, wherever x is split.

  Example:
    >>> x = jnp.full(10_000, 1 + 2**-10)                    # an eighth of the way from 1 to the next bfloat16
    >>> rounded = round_by_chance(x, jax.random.key(0))
    >>> bool(jnp.all((rounded == 1) | (rounded == 1 + 2**-7))), round(float(rounded.astype(jnp.float32).mean()), 3)
    (True, 1.001)
  """
  return _round(x, jax.random.bits(key, (2,), jnp.uint32), 0)


def _round(x: jax.Array, words: jax.Array, salt: int) -> jax.Array:
  place = jnp.uint32(salt)
  for axis, size in enumerate(x.shape):
    place = place * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
  chance = _hash(_hash(place ^ words[0]) + words[1]) >> 16
  bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
  rounded = jax.lax.bitcast_convert_type(((bits + chance) >> 16).astype(jnp.uint16), jnp.bfloat16)
  return jnp.where(jnp.isfinite(x), rounded, x.astype(jnp.bfloat16))


def _hash(x: jax.Array) -> jax.Array:
  """A bijection of uint32 that leaves no bit where it was (the finaliser of MurmurHash3)."""
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    x = (x ^ (x >> shift)) * jnp.uint32(factor)
  return x ^ (x >> 16)


def _is_narrow(x: Any) -> bool:
  return jnp.issubdtype(x.dtype, jnp.floating) and jnp.finfo(x.dtype).bits < 32
