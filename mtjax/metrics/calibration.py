"""Calibration: expected and maximum calibration error, adaptive and classwise, the bins themselves, and Brier's score.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, equations 3 and 5, https://arxiv.org/abs/1706.04599;
Nguyen & O'Connor, EMNLP 2015, https://arxiv.org/abs/1508.05154 (adaptive); Kull et al., NeurIPS 2019, section 2,
https://arxiv.org/abs/1910.12656 (classwise); Brier, Monthly Weather Review 78, 1950.

    gap_k = |accuracy_k - confidence_k|,   bins (a, b] of equal width over the confidence max_c p_c, n_k rows each
    ECE = sum_k n_k / n gap_k,     ECE_l2 = sqrt(sum_k n_k / n gap_k^2),     MCE = max_k gap_k
    adaptive: the same sum over bins of (nearly) equally many rows
    classwise: the mean over classes c of the ECE of p_c against 1[y = c]
    Brier = mean_i sum_c (p_ic - y_ic)^2     (yes or no: (p - y)^2)

All but Brier's are biased upward where rows are few: report n, the log loss and Brier's score beside them.
"""
import jax.numpy as jnp
import numpy as np

from mtjax.metrics.base import (
  Batch,
  Collected,
  Mean,
  MetricSpec,
  add_counts,
  align_mask,
  check_choice,
  check_whole,
  columns,
  count,
  nan_mean,
  read_count,
  two_sum,
)
from mtjax.metrics.decode import check_kind, probabilities

_KINDS = ('softmax', 'sigmoid', 'ordinal')
_NORMS = {'l1': 'ece', 'l2': 'ece_l2', 'max': 'mce'}


class Bins:
  """Rows, right ones and confidence in bins of equal width, kept on the device; what is said of them is up to `value`.

  Binary labels ('sigmoid'): confidence max(p, 1 - p), over all entries.

  Args:
    specs: of the numbers.
    value: (n, accuracy, confidence), each [bins], NaN where a bin is empty -> the numbers, in the order of specs.
    kind: 'softmax', 'sigmoid' or 'ordinal'.
    bins: how many, of equal width.
  """

  collects = False
  columns = ()

  def __init__(self, specs: tuple[MetricSpec, ...], value, kind: str, bins: int):
    self.specs = specs
    self._value, self._kind, self._bins = value, kind, bins

  def init(self) -> dict:
    """Per bin: rows, right ones, and the sum of the confidence's distance from the bin's lower end, with its rest."""
    none = jnp.zeros(self._bins, jnp.int32)
    return {'n': count(none), 'right': count(none), 'offset': jnp.zeros(self._bins), 'rest': jnp.zeros(self._bins)}

  def update(self, state: dict, outputs, batch: Batch) -> dict:
    """Adds the rows of a batch."""
    p, label, mask = probabilities(outputs, self._kind), jnp.asarray(batch['label']), jnp.asarray(batch['mask'])
    if self._kind == 'sigmoid':
      confidence, right = jnp.maximum(p, 1 - p), (p > 0.5) == (label > 0)
      mask = jnp.broadcast_to(mask.reshape(*mask.shape, *[1] * (p.ndim - mask.ndim)), p.shape)
    else:
      label = jnp.argmax(label, axis=-1) if label.ndim == p.ndim else label
      confidence, right = p.max(axis=-1), p.argmax(axis=-1) == label
    index = jnp.clip(jnp.ceil(confidence * self._bins).astype(jnp.int32) - 1, 0, self._bins - 1)
    offset = confidence - index / self._bins
    member = (index[..., None] == jnp.arange(self._bins).reshape(*[1] * index.ndim, -1)) & mask[..., None]
    axes = tuple(range(member.ndim - 1))
    part = {'n': count(member.sum(axes, dtype=jnp.int32)), 'rest': jnp.zeros(self._bins),
            'right': count((member & right[..., None]).sum(axes, dtype=jnp.int32)),
            'offset': jnp.where(member, offset[..., None], 0.0).sum(axes)}
    return self.merge(state, part)

  def merge(self, a: dict, b: dict) -> dict:
    """Bin by bin."""
    offset, lost = two_sum(a['offset'], b['offset'])
    return {'n': add_counts(a['n'], b['n']), 'right': add_counts(a['right'], b['right']), 'offset': offset,
            'rest': a['rest'] + b['rest'] + lost}

  def compute(self, state: dict) -> dict[str, float]:
    """{name: value}; NaN without rows."""
    n, right = (read_count(state[name]).astype(np.float64) for name in ('n', 'right'))
    offset = sum(np.asarray(state[name], np.float64) for name in ('offset', 'rest'))
    empty = n == 0
    rows = np.where(empty, np.nan, n)
    confidence = (offset + n * np.arange(self._bins) / self._bins) / rows
    values = np.full(len(self.specs), np.nan) if empty.all() else self._value(n, right / rows, confidence)
    return {spec.name: float(value) for spec, value in zip(self.specs, values)}


def calibration_error(n: np.ndarray, accuracy: np.ndarray, confidence: np.ndarray, norm: str = 'l1') -> float:
  """The gaps of bins [K] as one number; empty bins (n = 0) do not count."""
  full = n > 0
  gap, share = np.abs(accuracy - confidence)[full], n[full] / n.sum()
  return gap.max() if norm == 'max' else share @ gap if norm == 'l1' else np.sqrt(share @ gap ** 2)


def binned(confidence: np.ndarray, right: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """(n, accuracy, confidence) of bins (edges[k], edges[k + 1]], NaN where empty; the first one holds its lower end."""
  index = np.clip(np.searchsorted(edges, confidence, side='left') - 1, 0, len(edges) - 2)
  n = np.bincount(index, minlength=len(edges) - 1)
  rows = np.where(n, n, np.nan)
  sums = (np.bincount(index, x, minlength=len(n)) for x in (right, confidence))
  return n, *(x / rows for x in sums)


def ece(kind: str = 'softmax', bins: int = 15, norm: str = 'l1') -> Bins:
  """Expected calibration error over bins of equal width.

  Args:
    kind: 'softmax', 'sigmoid' or 'ordinal'.
    bins: how many.
    norm: of the gaps: 'l1' (named 'ece'), 'l2' ('ece_l2') or 'max' ('mce').

  Example:
    >>> metric = ece(bins=10)
    >>> p = np.array([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    >>> batch = {'label': np.array([0, 1, 0, 0]), 'mask': np.ones(4, bool)}
    >>> state = metric.update(metric.init(), np.log(p), batch)
    >>> round(metric.compute(state)['ece'], 4)                       # (|.5 - .8| + |1 - .6|) / 2
    0.35
  """
  check_choice(norm, tuple(_NORMS), 'norm', 'ece')
  _check('ece', kind, bins)
  return Bins((MetricSpec(_NORMS[norm], False, (0, 1)),), lambda *b: [calibration_error(*b, norm)], kind, bins)


def mce(kind: str = 'softmax', bins: int = 15) -> Bins:
  """Maximum calibration error: the largest gap of a bin that holds a row, however few."""
  return ece(kind, bins, 'max')


def reliability(kind: str = 'softmax', bins: int = 15) -> Bins:
  """The bins themselves, for a reliability diagram: 'reliability/<bin>/n', '…/accuracy' and '…/confidence'.

  Bin k of K is (k / K, (k + 1) / K]; of an empty one accuracy and confidence are NaN. None of the numbers is a score.

  Example:
    >>> metric = reliability('sigmoid', bins=2)
    >>> batch = {'label': np.array([1, 1, 0]), 'mask': np.ones(3, bool)}
    >>> state = metric.update(metric.init(), np.zeros(3), batch)
    >>> metric.compute(state)['reliability/0/confidence']            # .5 is in (0, .5]
    0.5
  """
  _check('reliability', kind, bins)
  fields = {'n': (0, np.inf), 'accuracy': (0, 1), 'confidence': (0, 1)}
  specs = tuple(MetricSpec(f'reliability/{k}/{field}', None, bounds)
                for k in range(bins) for field, bounds in fields.items())
  return Bins(specs, lambda *b: np.stack(b, axis=1).ravel(), kind, bins)


def adaptive_ece(kind: str = 'softmax', bins: int = 15) -> Collected:
  """ECE over bins of equally many rows, cut at quantiles of the confidence; rows of one confidence stay together.

  With many equal confidences there are fewer bins.
  """
  _check('adaptive_ece', kind, bins)

  def value(outputs, label, mask):
    p = np.asarray(probabilities(outputs, kind), np.float64)
    if kind == 'sigmoid':
      keep = np.broadcast_to(align_mask(mask, p), p.shape)
      confidence, right = np.maximum(p, 1 - p)[keep], ((p > 0.5) == (label > 0))[keep]
    else:
      label = label.argmax(-1) if label.ndim == p.ndim else label
      confidence, right = p.max(-1)[mask], (p.argmax(-1) == label)[mask]
    last = -(-np.arange(1, bins) * len(confidence) // bins) - 1      # of each bin but the highest, in sorted order
    inner = np.sort(confidence)[last]
    return calibration_error(*binned(confidence, right, np.unique([0, *inner, 1])))

  return Collected(MetricSpec('adaptive_ece', False, (0, 1)), value)


def classwise_ece(kind: str = 'softmax', bins: int = 15) -> Collected:
  """The mean over classes of the ECE of P(class), over bins of equal width; of binary vectors, over labels.

  For yes or no ('sigmoid') it bins p(y = 1) from 0 to 1, where `ece` bins the confidence max(p, 1 - p).
  """
  _check('classwise_ece', kind, bins)
  edges = np.linspace(0, 1, bins + 1)

  def value(outputs, label, mask):
    p = np.asarray(probabilities(outputs, kind), np.float64)
    if kind == 'sigmoid':
      pairs = list(columns(p, label > 0, mask))
    else:
      label = label.argmax(-1) if label.ndim == p.ndim else label
      pairs = [(p[mask][:, c], label[mask] == c) for c in range(p.shape[-1])]
    return nan_mean([calibration_error(*binned(q, y, edges)) if len(y) else float('nan') for q, y in pairs])

  return Collected(MetricSpec('classwise_ece', False, (0, 1)), value)


def brier(kind: str = 'softmax') -> Mean:
  """Brier's score: squared distance of the probabilities from the truth, 0 … 2; of yes or no, (p - y)^2, 0 … 1.

  Labels may be distributions [B, C].

  Example:
    >>> metric = brier('sigmoid')
    >>> batch = {'label': np.array([1, 0]), 'mask': np.ones(2, bool)}
    >>> metric.compute(metric.update(metric.init(), np.zeros(2), batch))
    {'brier': 0.25}
  """
  check_kind(kind, _KINDS, 'brier')

  def score(outputs, label):
    p = probabilities(outputs, kind)
    if kind == 'sigmoid':
      return jnp.square(p - (label > 0))
    classes = jnp.arange(p.shape[-1]).reshape(*[1] * (p.ndim - 1), -1)
    truth = label if label.ndim == p.ndim else label[..., None] == classes
    return jnp.square(p - truth).sum(-1)

  return Mean(MetricSpec('brier', False, (0, 1 if kind == 'sigmoid' else 2)), score)


def _check(name: str, kind: str, bins: int) -> None:
  check_kind(kind, _KINDS, name)
  check_whole(bins, 1, 'bins', name)
