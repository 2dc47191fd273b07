"""Survival: when does it happen, if at all? The hazards of K intervals of time.

Gensheimer & Narasimhan, "A scalable discrete-time survival model for neural networks", PeerJ 7, 2019,
https://arxiv.org/abs/1805.00917.

    h_k = P(event in interval k | none before) = sigmoid(W x + b)_k;    S_k = prod_{j <= k} (1 - h_j)

`mtjax.losses.survival` has the likelihood, the curve S, and labels of times.
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base


class Survival(_base.Head):
  """features.pooled [B, D] -> log-odds of the hazards [B, K] float32. Labels: integers [N, 2], (k, e).

  k, 0 … K: whole intervals survived; e: 1 = the event came in interval k < K, 0 = no more is known.

  Attributes:
    intervals: K >= 1.
    hidden: widths of layers between the features and the log-odds (fc1, fc2, …, out).
    dtype: of the hidden layers; the last one is float32.
  """
  kind = 'sigmoid'
  default_loss = 'hazard_nll'
  default_metrics = ()

  intervals: int
  hidden: Sequence[int] = ()
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'intervals', minimum=1)

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    return _base.readout(self, features, self.intervals)

  def check_label(self, label: np.ndarray, name: str) -> None:
    label, setting = np.asarray(label), f'intervals={self.intervals}'
    _base.check_shape(label, (2,), name, setting)
    if label.dtype.kind not in 'iub':
      raise ValueError(f"Label column '{name}' has dtype {label.dtype}, but the head has {setting}: allowed are "
                       f'integers (interval, event).')
    k, event = label[:, 0], label[:, 1]
    _base.check_entries(event, (event == 0) | (event == 1), name, setting, 'events of 0 and 1', verb='has the events')
    good = (k >= 0) & (k < self.intervals + (event == 0))
    _base.check_entries(k, good, name, setting, f'intervals 0 … {self.intervals - 1}, and {self.intervals} without an '
                        f'event', verb='has the intervals')
