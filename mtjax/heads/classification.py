"""Classification: one of C classes, given as its index or as a distribution over all of them.

    P(y = c | x) = softmax_c(W x + b)

Soft labels: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, section 7,
https://arxiv.org/abs/1512.00567 (smoothed); Hinton et al., "Distilling the Knowledge in a Neural Network", 2015,
https://arxiv.org/abs/1503.02531 (a teacher's); or the share of raters who chose each class.
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base


class Classification(_base.Head):
  """features.pooled [B, D] -> logits [B, C] float32. Labels: integers [N] in 0 … C - 1.

  Attributes:
    classes: C >= 2.
    hidden: widths of layers between the features and the logits (fc1, fc2, …, out).
    dtype: of the hidden layers; the last one is float32.
  """
  kind = 'softmax'
  default_loss = 'softmax_xent'
  default_metrics = ('accuracy', 'macro_f1', 'log_loss')

  classes: int
  hidden: Sequence[int] = ()
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'classes', minimum=2)

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    return _base.readout(self, features, self.classes)

  def check_label(self, label: np.ndarray, name: str) -> None:
    _base.check_classes(label, self.classes, name)


class SoftClassification(Classification):
  """The same outputs, trained on distributions: labels [N, C] >= 0 whose rows sum to 1."""
  default_loss = 'soft_xent'
  default_metrics = ('log_loss', 'accuracy')

  def check_label(self, label: np.ndarray, name: str) -> None:
    label, setting = np.asarray(label), f'classes={self.classes}'
    _base.check_shape(label, (self.classes,), name, setting)
    _base.check_entries(label, (label >= 0) & (label <= 1 + 1e-3), name, setting, 'probabilities in [0, 1]')
    sums = label.astype(np.float64).sum(axis=1)
    _base.check_entries(sums, np.abs(sums - 1) <= 1e-3, name, setting, 'rows that sum to 1 (within 0.001)',
                        verb='has rows that sum to')
