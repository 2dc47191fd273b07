"""Regression in the units of the label.

    y = mean + std (W x + b)

`mean` and `std` are those of the training labels: the layer works on numbers of order one, whatever the unit, and
starts near the mean. Outputs, hence predictions and metrics, are in the label's unit. A loss that is to be comparable
between tasks divides the error by the same number, ((outputs - label) / std)^2, which is the error of W x + b on the
standardised label; the head's field `std` says by how much.
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


class Regression(_base.Head):
  """features.pooled [B, D] -> [B] float32 with dims=1, else [B, dims]. Labels: finite numbers of the same shape.

  Attributes:
    dims: numbers a row.
    hidden: widths of layers between the features and the output (fc1, fc2, …, out).
    mean: of the labels, the origin of the outputs.
    std: of the labels, the unit of the last layer.
    dtype: of the hidden layers; the last one is float32.
  """
  kind = 'identity'
  default_loss = 'mse'
  default_metrics = ('rmse', 'mae', 'r2', 'pearson')

  dims: int = 1
  hidden: Sequence[int] = ()
  mean: float = 0.0
  std: float = 1.0
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'dims', minimum=1)
    for field, allowed in (('mean', 'a finite number'), ('std', 'a finite number > 0')):
      value = getattr(self, field)
      if not isinstance(value, numbers.Real) or not math.isfinite(value) or (field == 'std' and value <= 0):
        raise ValueError(f'Regression has {field}={value!r}; allowed is {allowed}.')

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    y = self.mean + self.std * _base.readout(self, features, self.dims)
    return y[:, 0] if self.dims == 1 else y

  def check_label(self, label: np.ndarray, name: str) -> None:
    label, setting = np.asarray(label), f'dims={self.dims}'
    _base.check_shape(label, () if self.dims == 1 else (self.dims,), name, setting)
    if label.dtype.kind not in 'iubf':
      raise ValueError(f"Label column '{name}' has dtype {label.dtype}, but the head has {setting}: "
                       f'allowed are numbers.')
    _base.check_entries(label, np.isfinite(label), name, setting, 'finite numbers (mask the labels that are missing)')
