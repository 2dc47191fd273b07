"""Metrics of numbers. Several numbers a row: errors are averaged over all of them, r2 and correlations over columns.

`kind` 'identity' takes outputs as they are; 'ordinal' and 'softmax' take the predicted class as a number.
"""
import math

import jax.numpy as jnp
import numpy as np

from mtjax.metrics.base import Collected, Mean, MetricSpec, columns, nan_mean
from mtjax.metrics.decode import check_kind, predictions

_NUMBERS = ('identity', 'ordinal', 'softmax')


def mse(kind: str = 'identity') -> Mean:
  """Mean squared error."""
  return _error('mse', kind, jnp.square)


def rmse(kind: str = 'identity') -> Mean:
  """Root of the mean squared error over all rows (not the mean of roots)."""
  return _error('rmse', kind, jnp.square, math.sqrt)


def mae(kind: str = 'identity') -> Mean:
  """Mean absolute error."""
  return _error('mae', kind, jnp.abs)


def r2(kind: str = 'identity') -> Collected:
  """1 - sum (y - f)^2 / sum (y - mean y)^2; NaN where the labels do not vary."""
  return _column('r2', kind, (-np.inf, 1), lambda f, y: 1 - np.sum((y - f) ** 2) / np.sum((y - y.mean()) ** 2))


def pearson(kind: str = 'identity') -> Collected:
  """Pearson's linear correlation; NaN where one side does not vary."""
  return _column('pearson', kind, (-1, 1), _correlation)


def spearman(kind: str = 'identity') -> Collected:
  """Spearman's rank correlation: Pearson's of the ranks, ties sharing their mean rank."""

  def value(f, y):
    from scipy.stats import rankdata

    return _correlation(rankdata(f), rankdata(y))

  return _column('spearman', kind, (-1, 1), value)


def _error(name, kind, error, finish=float) -> Mean:
  check_kind(kind, _NUMBERS, name)
  values = lambda outputs, label: error(predictions(outputs, kind) - label.astype(jnp.float32))
  return Mean(MetricSpec(name, False, (0, np.inf)), values, finish)


def _column(name, kind, bounds, value) -> Collected:
  check_kind(kind, _NUMBERS, name)

  def compute(said, label, mask):
    said, label = np.asarray(said, np.float64), np.asarray(label, np.float64)
    return nan_mean([value(f, y) if np.ptp(y) > 0 else float('nan')
                     for f, y in columns(said, label, mask) if len(y) > 1])

  return Collected(MetricSpec(name, True, bounds, null_value=0.0), compute, lambda outputs: predictions(outputs, kind))


def _correlation(f: np.ndarray, y: np.ndarray) -> float:
  if np.ptp(f) == 0 or np.ptp(y) == 0:
    return float('nan')
  f, y = f - f.mean(), y - y.mean()
  return float(np.clip((f @ y) / np.sqrt((f @ f) * (y @ y)), -1, 1))
