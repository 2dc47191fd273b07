"""Ordinal regression by cumulative links, with proportional odds.

McCullagh, "Regression Models for Ordinal Data", Journal of the Royal Statistical Society B 42, 1980,
https://doi.org/10.1111/j.2517-6161.1980.tb01109.x.

    log P(y > k | x) / P(y <= k | x) = f(x) - b_k,    k = 0 … C - 2,    b_0 < b_1 < … < b_{C-2}
    b_k = first + sum_{1 <= j <= k} softplus(gap_j)

One score f(x) says how far up the row is; the thresholds say where the classes end. Written with P(y > k), where the
paper has P(y <= k): the sign of f alone changes, and large scores mean high classes.
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base


def thresholds(first: jax.Array, gaps: jax.Array) -> jax.Array:
  """first [1], gaps [C - 2], any real numbers -> b [C - 1], increasing."""
  return jnp.cumsum(jnp.concatenate([first, nn.softplus(gaps)]))


def uniform_thresholds(classes: int) -> np.ndarray:
  """The thresholds [C - 1] under which a score of 0 gives all classes the same probability: b_k = logit((k+1)/C)."""
  below = np.arange(1, classes) / classes
  return np.log(below / (1 - below)).astype(np.float32)


class Ordinal(_base.Head):
  """features.pooled [B, D] -> log-odds of y > k, [B, C - 1] float32, decreasing in k. Labels: integers [N], 0 … C - 1.

  Parameters: fc1, … and out as in every head, out/kernel [in, 1] without bias, which the thresholds take the place
  of; first [1]; gaps [C - 2], absent where C = 2. They start where a score of 0 gives every class 1/C.

  Attributes:
    classes: C >= 2, in order.
    hidden: widths of layers between the features and the score (fc1, fc2, …, out).
    dtype: of the hidden layers; the last one is float32.
  """
  kind = 'ordinal'
  default_loss = 'ordinal_nll'
  default_metrics = ('mae', 'accuracy', 'quadratic_kappa')

  classes: int
  hidden: Sequence[int] = ()
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'classes', minimum=2)

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    score = _base.readout(self, features, 1, use_bias=False)
    start = uniform_thresholds(self.classes)
    bounds = self.param('first', lambda _: jnp.asarray(start[:1]))
    if self.classes > 2:
      bounds = thresholds(bounds, self.param('gaps', lambda _: jnp.log(jnp.expm1(np.diff(start)))))
    return score - bounds[None]

  def check_label(self, label: np.ndarray, name: str) -> None:
    _base.check_classes(label, self.classes, name)
