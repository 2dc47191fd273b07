"""Two towers, or one, whose rows are to be alike where they belong together.

Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, section 2.3,
https://arxiv.org/abs/2103.00020; one tower: Khosla et al., NeurIPS 2020, https://arxiv.org/abs/2004.11362.

    s_ij = <u_i, v_j> / tau,     u = W x / |W x|,   v = W' x' / |W' x'|       (one tower: v = u)

tau is learnt as exp(-log_scale) and kept above 1/100. B rows, K dims.
"""
import math
import numbers
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base

MAX_SCALE = 100.0


class Contrastive(_base.Head):
  """features.pooled [B, D] (and features.aux[other] [B, D']) -> similarities over the temperature [B, B] float32.

  Labels: integers [N] >= 1, the same for rows (and partners) that belong together; a unique number for each pair gives
  the usual loss. The negatives are the other rows of the batch.
  Parameters: out/kernel [D, K], other/kernel [D', K] (two towers), log_scale [].

  Attributes:
    dims: K.
    other: the entry of features.aux that holds the second tower's vectors; None = one tower.
    temperature: tau at first.
    hidden: widths of layers before the first tower's projection (fc1, fc2, …, out).
    dtype: of the hidden layers; projections and similarities are float32.
  """
  kind = 'identity'
  default_metrics = ()

  dims: int = 128
  other: str | None = None
  temperature: float = 0.07
  hidden: Sequence[int] = ()
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'dims', minimum=1)
    if not isinstance(self.temperature, numbers.Real) or not 1 / MAX_SCALE <= self.temperature < math.inf:
      raise ValueError(f'Contrastive has temperature={self.temperature!r}; allowed is a number >= {1 / MAX_SCALE}.')

  @property
  def default_loss(self) -> str:
    return 'sup_con' if self.other is None else 'info_nce'

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    u = v = _unit(_base.readout(self, features, self.dims, use_bias=False))
    if self.other is not None:
      if self.other not in features.aux:
        raise ValueError(f"Contrastive reads features.aux['{self.other}'], which this encoder does not fill. It fills: "
                         f'{", ".join(features.aux) or "nothing"}.')
      project = nn.Dense(self.dims, use_bias=False, dtype=jnp.float32, name='other')
      v = _unit(project(features.aux[self.other]))
    log_scale = self.param('log_scale', lambda _: jnp.asarray(-math.log(self.temperature), jnp.float32))
    return jnp.exp(jnp.minimum(log_scale, math.log(MAX_SCALE))) * jnp.einsum('bk,ck->bc', u, v)

  def check_label(self, label: np.ndarray, name: str) -> None:
    label, setting = np.asarray(label), f'dims={self.dims}'
    _base.check_shape(label, (), name, setting)
    if label.dtype.kind not in 'iu':
      raise ValueError(f"Label column '{name}' has dtype {label.dtype}, but groups of rows are integers >= 1.")
    _base.check_entries(label, label >= 1, name, setting, 'integers >= 1 (0 is a row that is not there)')


def _unit(x: jax.Array) -> jax.Array:
  return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))
