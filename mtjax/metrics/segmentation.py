"""Metrics of dense classes: mean intersection over union and pixel accuracy.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 88, 2010; Long et al., "Fully Convolutional
Networks for Semantic Segmentation", CVPR 2015, section 5, https://arxiv.org/abs/1411.4038.

    IoU_c = n_cc / (sum_j n_cj + sum_j n_jc - n_cc),   mIoU = mean_c IoU_c,   pixel accuracy = sum_c n_cc / sum_cj n_cj

n: [C, C], pixels of class c that are said to be j, summed over the whole split (not a mean over images).
outputs: logits [B, H, W, C] ('sigmoid': [B, H, W], two classes); label: int [B, H, W], < 0 = ignored.
A class that is neither in the truth nor predicted has IoU 0 / 0, which LibMTL and FusionBench pass on as NaN: here the
caller chooses.
"""
import jax
import jax.numpy as jnp
import numpy as np

from mtjax.metrics.base import (
  Batch,
  Mean,
  MetricSpec,
  add_counts,
  align_mask,
  check_choice,
  check_whole,
  count,
  read_count,
)
from mtjax.metrics.decode import check_kind, predictions

_KINDS = ('softmax', 'sigmoid', 'ordinal')


def confusion(said: jax.Array, label: jax.Array, mask: jax.Array, classes: int) -> jax.Array:
  """n_cj: predictions and labels [...], mask bool [...] -> int32 [C, C]; labels outside 0 … C - 1 do not count."""
  known = mask & (label >= 0) & (label < classes)
  cell = jnp.where(known, label * classes + said, 0).ravel()
  flat = jnp.zeros(classes * classes, jnp.int32).at[cell].add(known.ravel().astype(jnp.int32))
  return flat.reshape(classes, classes)


def iou(confusion: np.ndarray, absent: str = 'drop') -> np.ndarray:
  """IoU of every class: n [C, C] -> [C]; of an absent class NaN ('drop') or 0 ('count')."""
  hit = np.diag(confusion).astype(np.float64)
  union = confusion.sum(0) + confusion.sum(1) - hit
  return np.divide(hit, union, out=np.full(len(hit), np.nan if absent == 'drop' else 0.0), where=union > 0)


class MeanIoU:
  """See `miou`; the confusion matrix is kept on the device."""

  collects = False
  columns = ()
  specs = (MetricSpec('miou', True, (0, 1)),)

  def __init__(self, classes: int, kind: str, absent: str):
    check_kind(kind, _KINDS, 'miou')
    check_whole(classes, 2, 'classes', 'miou')
    check_choice(absent, ('drop', 'count'), 'absent', 'miou')
    if kind == 'sigmoid' and classes != 2:
      raise ValueError(f'miou has classes={classes} for a head of kind \'sigmoid\'; allowed is 2.')
    self._classes, self._kind, self._absent = classes, kind, absent

  def init(self) -> dict:
    """The confusion matrix of no pixel."""
    return count(jnp.zeros((self._classes, self._classes), jnp.int32))

  def update(self, state: dict, outputs: jax.Array, batch: Batch) -> dict:
    """Adds the pixels of a batch."""
    said, label = predictions(outputs, self._kind), jnp.asarray(batch['label'])
    mask = jnp.broadcast_to(align_mask(batch['mask'], label), label.shape)
    return self.merge(state, count(confusion(said, label, mask, self._classes)))

  def merge(self, a: dict, b: dict) -> dict:
    """Cell by cell."""
    return add_counts(a, b)

  def compute(self, state: dict) -> dict[str, float]:
    """{'miou': value}; NaN without pixels."""
    n = read_count(state)
    return {'miou': float(np.nanmean(iou(n, self._absent))) if n.sum() else float('nan')}


def miou(classes: int, kind: str = 'softmax', absent: str = 'drop') -> MeanIoU:
  """Mean intersection over union of the confusion matrix of all pixels; labels < 0 are ignored.

  Args:
    classes: C; in a config, that of the head.
    kind: 'softmax', 'sigmoid' (two classes) or 'ordinal'.
    absent: what becomes of a class neither in the truth nor predicted: 'drop' leaves it out of the mean, 'count' lets
      it be 0. (A class that is predicted but not in the truth is 0 either way.)

  Example:
    >>> metric = miou(classes=2)
    >>> logits = np.eye(2, dtype=np.float32)[[[0, 0, 1, 1]]]           # [1, 4, 2]: pixels in a row
    >>> batch = {'label': np.array([[0, 1, 1, -1]]), 'mask': np.ones(1, bool)}
    >>> metric.compute(metric.update(metric.init(), logits, batch))    # one of two, twice
    {'miou': 0.5}
  """
  return MeanIoU(classes, kind, absent)


def pixel_accuracy(kind: str = 'softmax') -> Mean:
  """The share of right pixels among those with a label >= 0, over all pixels of the split.

  Example:
    >>> metric = pixel_accuracy()
    >>> logits = np.eye(2, dtype=np.float32)[[[0, 0, 1, 1]]]
    >>> batch = {'label': np.array([[0, 1, 1, -1]]), 'mask': np.ones(1, bool)}
    >>> round(metric.compute(metric.update(metric.init(), logits, batch))['pixel_accuracy'], 4)
    0.6667
  """
  check_kind(kind, _KINDS, 'pixel_accuracy')
  right = lambda outputs, label: predictions(outputs, kind) == label
  return Mean(MetricSpec('pixel_accuracy', True, (0, 1)), right, counts=lambda outputs, label: label >= 0)
