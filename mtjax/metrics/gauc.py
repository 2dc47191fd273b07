"""GAUC: the AUC within groups (of a user's impressions), averaged.

Zhou et al., "Deep Interest Network for Click-Through Rate Prediction", KDD 2018, section 6.3,
https://arxiv.org/abs/1706.06978.

    GAUC = sum_u w_u AUC_u / sum_u w_u   over groups with both classes,   w_u = impressions (DIN) or positives (RecBole)

scores, label, group: [N]. AUC_u by the rank sum with average ranks: ties count one half. The two weightings are
different numbers.
"""
import numpy as np

from mtjax.metrics.base import Collected, MetricSpec, check_choice
from mtjax.metrics.decode import check_kind

WEIGHTS = ('impressions', 'positives')


def grouped_auc(scores: np.ndarray, label: np.ndarray, group: np.ndarray, weights: str = 'impressions') -> float:
  """GAUC of scores, labels (positive where true) and group ids, all [N]; NaN where no group has both classes."""
  order = np.lexsort((scores, group))
  scores, positive, group = scores[order], label[order].astype(bool), group[order]
  starts = np.append(True, group[1:] != group[:-1])                    # of groups
  u = np.cumsum(starts) - 1                                            # [N] which group
  first = np.flatnonzero(starts)
  ties = np.cumsum(starts | np.append(True, scores[1:] != scores[:-1])) - 1
  place = np.arange(len(scores)) - first[u] + 1.0                      # rank within the group, were there no ties
  rank = (np.bincount(ties, place) / np.bincount(ties))[ties]
  n, n_pos = np.bincount(u), np.bincount(u, positive)
  both = (n_pos > 0) & (n_pos < n)
  if not both.any():
    return float('nan')
  above = np.bincount(u, rank * positive) - n_pos * (n_pos + 1) / 2    # pairs in order
  area = above[both] / (n_pos * (n - n_pos))[both]
  return float(np.average(area, weights=(n if weights == 'impressions' else n_pos)[both]))


def gauc(group: str, weights: str = 'impressions', kind: str = 'sigmoid') -> Collected:
  """AUC within groups, averaged over those with both classes.

  Args:
    group: the batch's column of group ids [B], e.g. users.
    weights: 'impressions' (rows of a group) or 'positives'.
    kind: 'sigmoid' (logits and labels [B]) or 'softmax' (two classes).

  Example:
    >>> metric = gauc(group='user')
    >>> batch = {'label': np.array([0, 1, 1, 0, 1]), 'mask': np.ones(5, bool), 'user': np.array([7, 7, 7, 3, 3])}
    >>> logits = np.array([0.0, 1.0, 2.0, 5.0, 4.0])         # AUC 1 of 3 rows, AUC 0 of 2
    >>> metric.compute(metric.update(metric.init(), logits, batch))
    {'gauc': 0.6}
  """
  check_kind(kind, ('sigmoid', 'softmax'), 'gauc')
  check_choice(weights, WEIGHTS, 'weights', 'gauc')
  if not isinstance(group, str) or not group:
    raise ValueError(f'gauc has group={group!r}; allowed is the name of a column.')

  def value(outputs, label, mask, groups):
    if kind == 'softmax':
      if outputs.ndim != 2 or outputs.shape[1] != 2:
        raise ValueError(f'gauc is of two classes, got outputs of shape {list(outputs.shape)}.')
      outputs = outputs[:, 1].astype(np.float64) - outputs[:, 0]
    keep = mask.reshape(len(mask), -1).all(1)
    outputs, label, groups = (x.reshape(len(keep))[keep] for x in (outputs, label, groups))
    return grouped_auc(outputs, label > 0, groups, weights)

  return Collected(MetricSpec('gauc', True, (0, 1), null_value=0.5), value, columns=(group,))
