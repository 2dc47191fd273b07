"""Metrics of scores by rank: AUC and average precision, with scikit-learn as the truth.

Of C > 2 classes: one against the rest, the mean over the classes that have both sides. Of binary vectors: the mean over
the labels that have both sides. Where no class has, the value is NaN.
"""
from collections.abc import Callable

import numpy as np

from mtjax.metrics.base import Collected, MetricSpec, columns, nan_mean
from mtjax.metrics.decode import check_kind, probabilities


def auc(kind: str = 'softmax') -> Collected:
  """Area under the ROC curve, P(s+ > s-) + P(s+ = s-) / 2, exact (by ranks)."""

  def value(label, score):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(label, score)

  return _by_class(MetricSpec('auc', True, (0, 1), null_value=0.5), kind, value)


def average_precision(kind: str = 'softmax') -> Collected:
  """sum_n (R_n - R_{n-1}) P_n over the thresholds."""

  def value(label, score):
    from sklearn.metrics import average_precision_score

    return average_precision_score(label, score)

  return _by_class(MetricSpec('average_precision', True, (0, 1)), kind, value)


def _by_class(spec: MetricSpec, kind: str, value: Callable[[np.ndarray, np.ndarray], float]) -> Collected:
  check_kind(kind, ('softmax', 'sigmoid', 'ordinal'), spec.name)

  def score(label, scores):
    both = len(label) and label.min() != label.max()
    return value(label, scores) if both else float('nan')

  def compute(outputs, label, mask):
    p = np.asarray(probabilities(outputs, kind), np.float64)
    if kind == 'sigmoid':
      return nan_mean([score(y > 0, v) for v, y in columns(p, label, mask)])
    p, label = p[mask], label[mask]
    classes = [1] if p.shape[-1] == 2 else range(p.shape[-1])
    return nan_mean([score(label == c, p[:, c]) for c in classes])

  return Collected(spec, compute)
