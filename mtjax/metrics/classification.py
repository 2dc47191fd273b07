"""Metrics of classes: accuracy, F1, balanced accuracy, cross-entropy, weighted kappa.

`kind`: 'softmax' (one of C classes; labels [B], or distributions [B, C] where said), 'sigmoid' (yes/no labels [B] or
[B, K]), 'ordinal' (ordered classes, labels [B]).
"""
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from mtjax.losses import ordinal_nll, soft_xent, softmax_xent
from mtjax.metrics.base import Collected, Mean, MetricSpec, columns, nan_mean
from mtjax.metrics.decode import check_kind, predictions

_CLASSES = ('softmax', 'sigmoid', 'ordinal')


def accuracy(kind: str = 'softmax') -> Mean:
  """The share of right predictions; of binary vectors, of right entries; of distributions, of right modes."""
  check_kind(kind, _CLASSES, 'accuracy')

  def right(outputs, label):
    said = predictions(outputs, kind)
    return said == (jnp.argmax(label, axis=-1) if label.ndim > said.ndim else label)

  return Mean(MetricSpec('accuracy', True, (0, 1)), right)


def log_loss(kind: str = 'softmax') -> Mean:
  """-log P(label), the mean over rows (over entries, of binary vectors); labels may be distributions."""
  check_kind(kind, _CLASSES, 'log_loss')

  def loss(outputs, label):
    if kind == 'ordinal':
      return ordinal_nll(outputs, label)
    if kind == 'sigmoid':
      return jax.nn.softplus(jnp.where(label > 0, -1.0, 1.0) * outputs.astype(jnp.float32))
    return soft_xent(outputs, label) if label.ndim == outputs.ndim else softmax_xent(outputs, label)

  return Mean(MetricSpec('log_loss', False, (0, np.inf)), loss)


def macro_f1(kind: str = 'softmax') -> Collected:
  """F1 = 2 TP / (2 TP + FP + FN), averaged over classes (over labels, of binary vectors).

  A class that is neither in the truth nor predicted is left out; a label that never occurs and is never predicted
  counts 0 (scikit-learn's rules).
  """
  check_kind(kind, _CLASSES, 'macro_f1')

  def value(said, label, mask):
    from sklearn.metrics import f1_score

    if kind == 'sigmoid':
      return nan_mean([f1_score(y, v, zero_division=0) if len(y) else np.nan for v, y in columns(said, label, mask)])
    return f1_score(label[mask], said[mask], average='macro', zero_division=0)

  return Collected(MetricSpec('macro_f1', True, (0, 1)), value, lambda outputs: predictions(outputs, kind))


def balanced_accuracy(kind: str = 'softmax') -> Collected:
  """The mean over classes of TP_c / (TP_c + FN_c); classes absent from the truth are left out."""
  check_kind(kind, _CLASSES, 'balanced_accuracy')

  def value(said, label, mask):
    recalls = []
    for v, y in columns(said, label, mask):
      recalls.append(nan_mean([float(np.mean(v[y == c] == c)) for c in np.unique(y)]))
    return nan_mean(recalls)

  return Collected(MetricSpec('balanced_accuracy', True, (0, 1)), value, lambda outputs: predictions(outputs, kind))


def quadratic_kappa(kind: str = 'ordinal') -> Collected:
  """Cohen's kappa with quadratic weights: 1 - sum w_ij O_ij / sum w_ij E_ij, w_ij = (i - j)^2.

  Cohen, "Weighted Kappa", Psychological Bulletin 70, 1968. NaN where truth and predictions are one and the same class.
  """
  check_kind(kind, ('softmax', 'ordinal'), 'quadratic_kappa')

  def value(said, label, mask):
    from sklearn.metrics import cohen_kappa_score

    with warnings.catch_warnings(), np.errstate(all='ignore'):
      warnings.simplefilter('ignore')  # one class only: the answer is NaN
      return cohen_kappa_score(label[mask], said[mask], weights='quadratic')

  return Collected(MetricSpec('quadratic_kappa', True, (-1, 1), null_value=0.0), value, lambda outputs: predictions(outputs, kind))
