"""Metrics of edges: F at the best threshold of the whole split (odsF), and the boundary F of segmentations.

Martin et al., "Learning to Detect Natural Image Boundaries", PAMI 26, 2004; Arbelaez et al., PAMI 33, 2011, section 2.1
(ODS). Csurka et al., "What is a good evaluation measure for semantic segmentation?", BMVC 2013 (boundary F).

    odsF = max_tau F(tau),   P = sum_images matched / predicted,   R = sum_images matched / true,   F = 2 P R / (P + R)

Predicted are the pixels with probability >= tau, thinned to lines, matched one to one to the true pixels (thinned too)
at a distance of at most `tolerance` times the image's diagonal; as many pairs as there can be.
outputs: logits [B, H, W] (or with a last axis of 1); label: [B, H, W], 1 = edge, 0 = none, < 0 = ignored: no prediction
counts there.

    boundary F = mean over images and over the classes of an image of  2 P R / (P + R)

P: share of the predicted class's boundary pixels that have a true one of that class within the tolerance; R: the
reverse. A boundary pixel of a class has another class above, below, left or right of it.

Differs from the benchmark's code: matching is of the greatest number of pairs and does not look at their lengths; one
annotation an image; the thinning is that of Guo & Hall, CACM 32, 1989.
"""
import jax
import numpy as np

from mtjax.metrics.base import HostSums, MetricSpec, align_mask, check_positive, check_whole
from mtjax.metrics.decode import check_kind, predictions, probabilities

_SCALE = 1 << 20      # F of an image in whole units, so that sums do not depend on their order


def thin(edges: np.ndarray) -> np.ndarray:
  """Lines one pixel wide: bool [H, W] -> bool [H, W], with the same connected parts (of eight neighbours)."""
  edges = np.array(edges, bool)
  changed = True
  while changed:
    changed = False
    for odd in (False, True):
      n, ne, e, se, s, sw, w, nw = _neighbours(edges)
      parts = (~n & (ne | e)).astype(int) + (~e & (se | s)) + (~s & (sw | w)) + (~w & (nw | n))
      pairs = np.minimum((nw | n).astype(int) + (ne | e) + (se | s) + (sw | w),
                         (n | ne).astype(int) + (e | se) + (s | sw) + (w | nw))
      kept = (n | ne | ~se) & e if odd else (s | sw | ~nw) & w
      gone = edges & (parts == 1) & (pairs >= 2) & (pairs <= 3) & ~kept
      changed |= bool(gone.any())
      edges &= ~gone
  return edges


def match(a: np.ndarray, b: np.ndarray, distance: float) -> int:
  """The most pairs of a pixel of `a` and one of `b`, none used twice, at most `distance` apart; bool [H, W] both."""
  from scipy.sparse import csr_array
  from scipy.sparse.csgraph import maximum_bipartite_matching
  from scipy.spatial import KDTree

  a, b = np.argwhere(a), np.argwhere(b)
  if not len(a) or not len(b):
    return 0
  near = KDTree(b).query_ball_point(a, distance)
  ends = np.cumsum([0, *map(len, near)])
  columns = np.concatenate([np.asarray(found, int) for found in near])
  graph = csr_array((np.ones(len(columns), np.int8), columns, ends), shape=(len(a), len(b)))
  return int((maximum_bipartite_matching(graph, perm_type='column') >= 0).sum())


def f_score(matched: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
  """2 P R / (P + R) = 2 matched / (predicted + true); 0 where there is neither."""
  return 2 * matched / np.maximum(predicted + true, 1)


def ods_f(thresholds: int = 99, tolerance: float = 0.0075, kind: str = 'sigmoid') -> HostSums:
  """The best F over one threshold of the whole split, 'ods_f'; NaN where there is no true edge.

  Args:
    thresholds: how many, at k / (thresholds + 1).
    tolerance: distance of a match as a share of the image's diagonal.
    kind: 'sigmoid'.

  Example:
    >>> metric = ods_f(thresholds=9)
    >>> edge = np.eye(12, dtype=np.float32)[None]                        # [1, 12, 12]: the diagonal
    >>> metric.compute(metric.update(metric.init(), 8 * edge - 4, {'label': edge, 'mask': np.ones(1, bool)}))
    {'ods_f': 1.0}
  """
  check_kind(kind, ('sigmoid',), 'ods_f')
  check_whole(thresholds, 1, 'thresholds', 'ods_f')
  check_positive(tolerance, 'tolerance', 'ods_f')
  levels = np.arange(1, thresholds + 1) / (thresholds + 1)

  def sums(p, label, mask):
    label = label.reshape(label.shape[:3])
    p = p.reshape(label.shape)
    mask = np.broadcast_to(align_mask(mask, label), label.shape) & (label >= 0)
    return sum((_counts(*image, levels, tolerance) for image in zip(p, label > 0, mask)), np.zeros((thresholds, 3)))

  best = lambda sums: f_score(*sums.T).max() if sums[0, 2] else float('nan')
  return HostSums(MetricSpec('ods_f', True, (0, 1)), sums, best, (thresholds, 3), lambda o: probabilities(o, kind))


def boundary_f(tolerance: float = 0.0075, kind: str = 'softmax') -> HostSums:
  """Boundary F of segmentations, 'boundary_f'.

  Classes count that have a boundary in the truth or in the prediction of an image; images without any are left out.

  Args:
    tolerance: distance of a match as a share of the image's diagonal.
    kind: 'softmax' (logits [B, H, W, C]), 'sigmoid' ([B, H, W], two classes) or 'ordinal'; labels int [B, H, W], < 0 =
      ignored: neither that pixel nor the border to it is a boundary.

  Example:
    >>> metric = boundary_f(tolerance=0.1)                               # of a diagonal of 11.3: one pixel
    >>> truth = np.repeat([0, 0, 0, 1, 1, 1, 1, 1], 8).reshape(1, 8, 8)
    >>> logits = np.eye(2, dtype=np.float32)[np.roll(truth, 1, axis=1)]  # one row lower, and wrong in the first row
    >>> state = metric.update(metric.init(), logits, {'label': truth, 'mask': np.ones(1, bool)})
    >>> round(metric.compute(state)['boundary_f'], 4)                    # class 0: F = 1; class 1: P = 1/2, R = 1
    0.8333
  """
  check_kind(kind, ('softmax', 'sigmoid', 'ordinal'), 'boundary_f')
  check_positive(tolerance, 'tolerance', 'boundary_f')

  def sums(said, label, mask):
    mask = np.broadcast_to(align_mask(mask, label), label.shape) & (label >= 0)
    scores = [score for image in zip(said, label, mask) for score in _boundary_score(*image, tolerance)]
    return np.array([sum(scores), _SCALE * len(scores)])

  mean = lambda sums: sums[0] / sums[1] if sums[1] else float('nan')
  return HostSums(MetricSpec('boundary_f', True, (0, 1)), sums, mean, (2,), lambda o: predictions(o, kind))


def _counts(p: np.ndarray, edge: np.ndarray, known: np.ndarray, levels: np.ndarray, tolerance: float) -> np.ndarray:
  """(matched, predicted, true) of one image at every level: [T, 3]."""
  distance = tolerance * np.hypot(*p.shape)
  true = thin(edge & known)
  rows, found, row = [], None, (0, 0, 0)
  for level in levels:
    now = (p >= level) & known
    if found is None or not np.array_equal(now, found):     # nothing new between two levels
      found, lines = now, thin(now)
      row = (match(lines, true, distance), lines.sum(), true.sum())
    rows.append(row)
  return np.array(rows, float)


def _boundary_score(said: np.ndarray, label: np.ndarray, known: np.ndarray, tolerance: float) -> list[int]:
  """[the mean F over classes of one image, in units of 1 / _SCALE], or [] where there is no boundary."""
  from scipy.ndimage import distance_transform_edt

  distance, scores = tolerance * np.hypot(*label.shape), []
  for c in np.union1d(label[known], said[known]):
    lines = [_boundary(classes == c, known) for classes in (said, label)]
    if any(line.any() for line in lines):
      far = [distance_transform_edt(~line) if line.any() else np.full(line.shape, np.inf) for line in lines]
      precision, recall = (np.mean(far[1 - i][line] <= distance) if line.any() else 0.0
                           for i, line in enumerate(lines))
      scores.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
  return [round(_SCALE * np.mean(scores))] if scores else []


def _boundary(inside: np.ndarray, known: np.ndarray) -> np.ndarray:
  """Known pixels inside with a known 4-neighbour outside; the image's border is none."""
  n, _, e, _, s, _, w, _ = _neighbours(known & ~inside)
  return known & inside & (n | e | s | w)


def _neighbours(x: np.ndarray | jax.Array) -> list[np.ndarray]:
  """x seen one pixel to the north, north-east, east, … north-west: eight [H, W], False beyond the border."""
  padded, (h, w) = np.pad(x, 1), x.shape
  shifts = ((-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1))
  return [padded[1 + dy:1 + dy + h, 1 + dx:1 + dx + w] for dy, dx in shifts]
