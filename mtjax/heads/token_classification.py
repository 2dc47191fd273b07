"""Token classification: one of C classes for each token (named entities, parts of speech).

    P(y_l = c | x) = softmax_c(W x_l + b)
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base


class TokenClassification(_base.Head):
  """features.tokens [B, L, D] -> logits [B, L, C] float32. Labels: integers [N, L], 0 … C - 1, negative = ignored.

  Attributes:
    classes: C >= 2.
    hidden: widths of layers between the features and the logits (fc1, fc2, …, out).
    dtype: of the hidden layers; the last one is float32.
  """
  kind = 'softmax'
  default_loss = 'position_xent'
  default_metrics = ('accuracy', 'log_loss')

  classes: int
  hidden: Sequence[int] = ()
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'classes', minimum=2)

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    return _base.layers(self, features.need('tokens', by='TokenClassification').tokens, self.classes)

  def check_label(self, label: np.ndarray, name: str) -> None:
    _base.check_positions(label, 2, name, f'classes={self.classes}', limit=self.classes)
