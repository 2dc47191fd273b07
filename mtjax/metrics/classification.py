"""Metrics of classes: accuracy, F1, balanced accuracy, cross-entropy, kappa, Matthews' correlation, normalised entropy.

`kind`: 'softmax' (one of C classes; labels [B], or distributions [B, C] where said), 'sigmoid' (yes/no labels [B] or
[B, K]), 'ordinal' (ordered classes, labels [B]).
"""
import warnings
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from mtjax.losses import ordinal_nll, soft_xent, softmax_xent
from mtjax.losses.ordinal import log_probabilities
from mtjax.metrics.base import Collected, Mean, MetricSpec, check_choice, columns, nan_mean
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


def kappa(kind: str = 'softmax', weights: str | None = None) -> Collected:
  """Cohen's kappa, agreement beyond chance: 1 - sum w_ij O_ij / sum w_ij E_ij.

  Cohen, "A Coefficient of Agreement for Nominal Scales", Educational and Psychological Measurement 20, 1960; "Weighted
  Kappa", Psychological Bulletin 70, 1968. O: the confusion matrix, E: that of independent raters with its margins. NaN
  where truth and predictions are one and the same class.

  Args:
    kind: 'softmax', 'sigmoid' (the mean over labels) or 'ordinal'.
    weights: None: w_ij = 1[i != j], named 'kappa'; 'linear': |i - j|, 'linear_kappa'; 'quadratic': (i - j)^2,
      'quadratic_kappa'.

  Example:
    >>> metric = kappa()
    >>> batch = {'label': np.array([0, 0, 1, 1]), 'mask': np.ones(4, bool)}
    >>> logits = np.eye(2)[[0, 1, 1, 1]]                       # agree in 3 of 4, by chance in 1/2
    >>> metric.compute(metric.update(metric.init(), logits, batch))
    {'kappa': 0.5}
  """
  name = f'{weights}_kappa' if weights else 'kappa'
  check_choice(weights, (None, 'linear', 'quadratic'), 'weights', 'kappa')
  check_kind(kind, _CLASSES, name)

  def agreement(said, label):
    from sklearn.metrics import cohen_kappa_score

    if not len(label):
      return float('nan')
    with warnings.catch_warnings(), np.errstate(all='ignore'):
      warnings.simplefilter('ignore')  # one class only: the answer is NaN
      return cohen_kappa_score(label, said, weights=weights)

  return _by_column(MetricSpec(name, True, (-1, 1), null_value=0.0), kind, agreement)


def linear_kappa(kind: str = 'ordinal') -> Collected:
  """Cohen's kappa with linear weights, see `kappa`."""
  return kappa(kind, 'linear')


def quadratic_kappa(kind: str = 'ordinal') -> Collected:
  """Cohen's kappa with quadratic weights, see `kappa`."""
  return kappa(kind, 'quadratic')


def mcc(kind: str = 'softmax') -> Collected:
  """Matthews' correlation of truth and prediction, for C classes; of binary vectors, the mean over labels.

  Matthews, BBA 405, 1975; Gorodkin, Computational Biology and Chemistry 28, 2004, for C > 2:

      (n c - sum_k t_k p_k) / sqrt((n^2 - sum_k p_k^2) (n^2 - sum_k t_k^2))

  c: right ones of n; t_k, p_k: rows of class k in the truth and in the predictions. Where one of these has one class
  only it is 0, as in scikit-learn: nothing has been told apart.

  Example:
    >>> metric = mcc()
    >>> batch = {'label': np.array([0, 0, 1, 1]), 'mask': np.ones(4, bool)}
    >>> round(metric.compute(metric.update(metric.init(), np.eye(2)[[0, 1, 1, 1]], batch))['mcc'], 4)
    0.5774
  """
  check_kind(kind, _CLASSES, 'mcc')

  def correlation(said, label):
    from sklearn.metrics import matthews_corrcoef

    return matthews_corrcoef(label, said) if len(label) else float('nan')

  return _by_column(MetricSpec('mcc', True, (-1, 1), null_value=0.0), kind, correlation)


def normalised_entropy(kind: str = 'sigmoid') -> Collected:
  """Log loss over the entropy of the labels' base rates: 1 for a predictor that knows only these, less is better.

  He et al., "Practical Lessons from Predicting Clicks on Ads at Facebook", ADKDD 2014, section 3. Base rates are those
  of the evaluated rows. Of binary vectors, the mean over labels; NaN where there is one class only.

  Example:
    >>> metric = normalised_entropy()
    >>> batch = {'label': np.array([0, 1]), 'mask': np.ones(2, bool)}
    >>> state = metric.update(metric.init(), np.array([-1.0986, 1.0986]), batch)     # probabilities 1/4 and 3/4
    >>> round(metric.compute(state)['ne'], 3)                                        # log(4 / 3) / log(2)
    0.415
  """
  check_kind(kind, _CLASSES, 'normalised_entropy')

  def ratio(nll, rates):
    entropy = -np.sum(rates[rates > 0] * np.log(rates[rates > 0]))
    return nll.mean() / entropy if entropy > 0 else float('nan')

  def value(outputs, label, mask):
    if kind == 'sigmoid':
      known = ((z, y > 0) for z, y in columns(outputs, label, mask) if len(y))
      pairs = ((np.logaddexp(0, np.where(y, -z, z)), y.mean()) for z, y in known)
      return nan_mean([ratio(nll, np.array([1 - rate, rate])) for nll, rate in pairs])
    log_p, label = _log_probabilities(outputs, kind)[mask], label[mask]
    return ratio(-log_p[np.arange(len(label)), label], np.bincount(label, minlength=log_p.shape[1]) / len(label))

  return Collected(MetricSpec('ne', False, (0, np.inf), null_value=1.0), value,
                   lambda outputs: outputs.astype(jnp.float32))


def _by_column(spec: MetricSpec, kind: str, value: Callable[[np.ndarray, np.ndarray], float]) -> Collected:
  """The mean over columns of value(predictions [N], labels [N]); classes are one column."""
  compute = lambda said, label, mask: nan_mean([value(v, y) for v, y in columns(said, label, mask)])
  return Collected(spec, compute, lambda outputs: predictions(outputs, kind))


def _log_probabilities(outputs: np.ndarray, kind: str) -> np.ndarray:
  """[N, C] float64 of classes."""
  if kind == 'ordinal':
    return np.asarray(log_probabilities(jnp.asarray(outputs)), np.float64)
  outputs = outputs.astype(np.float64)
  return outputs - np.logaddexp.reduce(outputs, axis=-1, keepdims=True)
