"""How GGUF stores numbers: plainly, or in blocks of 32 small integers that share a scale.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md names the types. A block of the quantised ones gives

    Q4_0:  d (f16), 16 bytes of q in 0 … 15             x = d (q - 8)
    Q4_1:  d (f16), m (f16), 16 bytes of q in 0 … 15    x = d q + m
    Q8_0:  d (f16), 32 bytes of q in -128 … 127         x = d q

in float32. A byte of four-bit numbers holds number i (low half) and number i + 16 (high half). Blocks run along the
last axis.
"""
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np


class Type(NamedTuple):
  """A way to store numbers.

  Attributes:
    name: as GGUF calls it.
    block: numbers a block.
    size: bytes a block.
    dtype: of the numbers once they are read.
    decode: blocks [N, size] uint8 -> numbers [N, block].
  """
  name: str
  block: int
  size: int
  dtype: np.dtype
  decode: Callable[[np.ndarray], np.ndarray]


def decode_q4_0(blocks: np.ndarray) -> np.ndarray:
  """[N, 18] uint8 -> [N, 32] float32."""
  return _scale(blocks, 0) * (_nibbles(blocks[:, 2:]) - 8)


def decode_q4_1(blocks: np.ndarray) -> np.ndarray:
  """[N, 20] uint8 -> [N, 32] float32."""
  return _scale(blocks, 0) * _nibbles(blocks[:, 4:]) + _scale(blocks, 2)


def decode_q8_0(blocks: np.ndarray) -> np.ndarray:
  """[N, 34] uint8 -> [N, 32] float32."""
  return _scale(blocks, 0) * blocks[:, 2:].view(np.int8).astype(np.float32)


def _scale(blocks: np.ndarray, at: int) -> np.ndarray:
  """The half-precision number at a byte of each block: [N, 1] float32."""
  return np.ascontiguousarray(blocks[:, at: at + 2]).view('<f2').astype(np.float32)


def _nibbles(packed: np.ndarray) -> np.ndarray:
  """[N, n] uint8 -> [N, 2 n] float32: the low halves, then the high ones."""
  return np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32)


def _plain(name: str, dtype: np.dtype) -> Type:
  return Type(name, 1, dtype.itemsize, dtype, lambda blocks: blocks.view(dtype))


_F32 = np.dtype('<f4')
TYPES = {
  0: _plain('F32', _F32), 1: _plain('F16', np.dtype('<f2')), 30: _plain('BF16', np.dtype(jnp.bfloat16)),
  2: Type('Q4_0', 32, 18, _F32, decode_q4_0), 3: Type('Q4_1', 32, 20, _F32, decode_q4_1),
  8: Type('Q8_0', 32, 34, _F32, decode_q8_0),
}
# Names of types that are not read, for error messages: a user knows his file as 'Q4_K', not as 12.
OTHERS = {6: 'Q5_0', 7: 'Q5_1', 9: 'Q8_1', 10: 'Q2_K', 11: 'Q3_K', 12: 'Q4_K', 13: 'Q5_K', 14: 'Q6_K', 15: 'Q8_K',
          16: 'IQ2_XXS', 17: 'IQ2_XS', 18: 'IQ3_XXS', 19: 'IQ1_S', 20: 'IQ4_NL', 21: 'IQ3_S', 22: 'IQ2_S', 23: 'IQ4_XS',
          24: 'I8', 25: 'I16', 26: 'I32', 27: 'I64', 28: 'F64', 29: 'IQ1_M', 34: 'TQ1_0', 35: 'TQ2_0', 39: 'MXFP4'}
