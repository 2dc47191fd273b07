"""Multi-label classification: K independent yes-or-no questions on one row.

    P(y_k = 1 | x) = sigmoid(W x + b)_k
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base


class MultiLabel(_base.Head):
  """features.pooled [B, D] -> logits [B, K] float32. Labels: [N, K] of 0 and 1.

  Attributes:
    labels: K >= 1.
    hidden: widths of layers between the features and the logits (fc1, fc2, …, out).
    dtype: of the hidden layers; the last one is float32.
  """
  kind = 'sigmoid'
  default_loss = 'sigmoid_xent'
  default_metrics = ('macro_f1', 'accuracy', 'auc')

  labels: int
  hidden: Sequence[int] = ()
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'labels', minimum=1)

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    return _base.readout(self, features, self.labels)

  def check_label(self, label: np.ndarray, name: str) -> None:
    label, setting = np.asarray(label), f'labels={self.labels}'
    _base.check_shape(label, (self.labels,), name, setting)
    _base.check_entries(label, (label == 0) | (label == 1), name, setting, '0 and 1')
