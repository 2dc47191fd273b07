"""RoPE: a position as an angle by which queries and keys are turned, so that scores depend on distances.

Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding", 2021, https://arxiv.org/abs/2104.09864.

    w_i = theta^(-2 i / D)
    (a_i, b_i) <- (a_i cos p w_i - b_i sin p w_i,  b_i cos p w_i + a_i sin p w_i)

for i = 0 … D/2 - 1, at position p, with x = [a; b] the two halves of a head. Differs from the paper: pairs are
(i, i + D/2) rather than (2 i, 2 i + 1), as in the published Llama, Mistral and SmolLM checkpoints. Longer contexts, as
`rope_scaling` of these checkpoints states them:

    'linear':  w <- w / factor
    'llama3':  with the wave length n = 2 pi / w and the length T of the original training:
               n < T / high: w;   n > T / low: w / factor;   between: (1 - u) w / factor + u w,
               u = (T / n - low) / (high - low)
"""
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtjax.config import did_you_mean

FIELDS = {
  'default': (),
  'linear': ('factor',),
  'llama3': ('factor', 'low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings'),
}


@dataclasses.dataclass(frozen=True)
class Rope:
  """Which angles: theta, and the scaling as (kind, (field, value), …)."""
  theta: float = 10000.0
  scaling: tuple[Any, ...] = ('default',)

  @classmethod
  def make(cls, theta: float, scaling: Mapping[str, Any] | None = None) -> 'Rope':
    """From the fields of a config.

    Args:
      theta: the base of the wave lengths, > 0.
      scaling: dict(rope_type='default' | 'linear' | 'llama3', …) with the fields of `FIELDS`; None = 'default'.

    Raises ValueError for an unknown rope_type, or a field that it lacks.
    """
    scaling = dict(scaling or {})
    kind = scaling.get('rope_type', scaling.get('type', 'default'))
    if kind not in FIELDS:
      raise ValueError(f'rope_scaling has rope_type={kind!r}. {did_you_mean(kind, FIELDS)}')
    missing = [name for name in FIELDS[kind] if name not in scaling]
    if missing:
      raise ValueError(f'rope_scaling has rope_type={kind!r}, which needs {", ".join(FIELDS[kind])}; '
                       f'missing: {", ".join(missing)}.')
    if not theta > 0:
      raise ValueError(f'rope_theta is {theta!r}; allowed is a number > 0.')
    return cls(float(theta), (kind, *((name, float(scaling[name])) for name in FIELDS[kind])))

  def frequencies(self, size: int) -> np.ndarray:
    """w [D/2] float32 for heads of D = `size` numbers."""
    if size % 2:
      raise ValueError(f'RoPE turns pairs, but heads have {size} numbers; allowed is an even number.')
    w = self.theta ** -(np.arange(0, size, 2) / size)
    kind, fields = self.scaling[0], dict(self.scaling[1:])
    if kind == 'linear':
      w = w / fields['factor']
    elif kind == 'llama3':
      low, high = fields['low_freq_factor'], fields['high_freq_factor']
      waves = fields['original_max_position_embeddings'] * w / (2 * math.pi)  # T / n
      u = np.clip((waves - low) / (high - low), 0, 1)
      w = (1 - u) * w / fields['factor'] + u * w
    return w.astype(np.float32)


def rotate(x: jax.Array, positions: jax.Array, rope: Rope) -> jax.Array:
  """x [B, L, H, D] at positions [B or 1, L] -> the same shape and dtype, turned."""
  angles = positions[..., None].astype(jnp.float32) * rope.frequencies(x.shape[-1])[None, None]
  cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
