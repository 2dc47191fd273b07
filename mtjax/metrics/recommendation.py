"""Metrics of ranked lists, cut at k: NDCG, hit rate, recall, precision, reciprocal rank, average precision.

Järvelin & Kekäläinen, "Cumulated Gain-Based Evaluation of IR Techniques", ACM TOIS 20, 2002; Voorhees, TREC-8, 1999.
Of one list with P positives at ranks r = 1, 2, … of the items by falling score:

    HR@k = 1[min r <= k]       Recall@k = #{r <= k} / P       Precision@k = #{r <= k} / k
    MRR@k = 1 / min r if min r <= k, else 0
    NDCG@k = sum_{r <= k} 1 / log2(r + 1)  /  sum_{i <= min(P, k)} 1 / log2(i + 1)
    AP@k = sum_{r <= k} precision@r  /  min(P, k)     or     /  #{r <= k}

each averaged over the lists that have a positive. Precision divides by k also where a list is shorter.
outputs: scores [B, I] of I items, in any unit. label: int [B], the one positive, or [B, I], positive where > 0. A mask
[B, I] takes items out of a list; so does a score of -inf put them last (items of the history).
Ties are pessimistic: among items of one score the negatives come first, so that constant scores do not look perfect.
"""
import jax
import jax.numpy as jnp

from mtjax.metrics.base import Batch, Mean, MetricSpec, check_choice, check_whole
from mtjax.metrics.decode import check_kind

_KINDS = ('softmax', 'sigmoid', 'identity')


def relevance(scores: jax.Array, positive: jax.Array, listed: jax.Array, k: int) -> tuple[jax.Array, jax.Array]:
  """(hits [B, min(I, k)], P [B]): whether the items at ranks 1 … k are positive, and how many are in all.

  scores, positive (bool), listed (bool: what is not takes no rank): [B, I].
  """
  positive = positive & listed
  order = jnp.lexsort((positive, -scores.astype(jnp.float32), ~listed), axis=-1)   # the last key counts first
  return jnp.take_along_axis(positive, order, axis=-1)[:, :k].astype(jnp.float32), positive.sum(-1)


def ndcg(k: int = 10, kind: str = 'softmax') -> Mean:
  """Normalised discounted cumulated gain with gains 0 and 1, 'ndcg@<k>'; the ideal list has min(P, k) positives.

  Example:
    >>> metric = ndcg(k=10)
    >>> batch = {'label': np.array([2]), 'mask': np.ones(1, bool)}         # the one positive is at rank 3: 1 / log2(4)
    >>> metric.compute(metric.update(metric.init(), np.array([[0.9, 0.8, 0.7, 0.1]]), batch))
    {'ndcg@10': 0.5}
  """
  def value(hits, total):
    discount = 1 / jnp.log2(jnp.arange(hits.shape[1]) + 2.0)
    ideal = jnp.where(jnp.arange(hits.shape[1])[None] < total[:, None], discount[None], 0).sum(-1)
    return (hits * discount[None]).sum(-1) / jnp.maximum(ideal, 1e-9)

  return _AtK('ndcg', k, kind, value)


def hit_rate(k: int = 10, kind: str = 'softmax') -> Mean:
  """The share of lists with a positive among the first k, 'hr@<k>'."""
  return _AtK('hr', k, kind, lambda hits, total: hits.max(-1))


def recall_at_k(k: int = 10, kind: str = 'softmax') -> Mean:
  """The share of a list's P positives that are among its first k, 'recall@<k>'."""
  return _AtK('recall', k, kind, lambda hits, total: hits.sum(-1) / jnp.maximum(total, 1))


def precision_at_k(k: int = 10, kind: str = 'softmax') -> Mean:
  """The positives among the first k, divided by k, 'precision@<k>'."""
  return _AtK('precision', k, kind, lambda hits, total: hits.sum(-1) / k)


def mrr(k: int = 10, kind: str = 'softmax') -> Mean:
  """The reciprocal of the first positive's rank, 0 beyond k, 'mrr@<k>'."""
  return _AtK('mrr', k, kind, lambda hits, total: (hits / (jnp.arange(hits.shape[1]) + 1.0)[None]).max(-1))


def map_at_k(k: int = 10, denominator: str = 'min(P, k)', kind: str = 'softmax') -> Mean:
  """Mean average precision, 'map@<k>'.

  Args:
    k: where lists are cut.
    denominator: of a list's sum of precisions: 'min(P, k)', so that a missed positive costs (RecBole), or 'hits', the
      positives among the first k (torchmetrics): never below the other, and often several times it.
    kind: the head's.

  Example:
    >>> metric = map_at_k(k=2, denominator='hits')
    >>> batch = {'label': np.array([[0, 1, 1]]), 'mask': np.ones(1, bool)}     # positives at ranks 2 and 3
    >>> metric.compute(metric.update(metric.init(), np.array([[0.9, 0.8, 0.7]]), batch))
    {'map@2': 0.5}
  """
  check_choice(denominator, ('min(P, k)', 'hits'), 'denominator', 'map_at_k')

  def value(hits, total):
    precision = jnp.cumsum(hits, axis=-1) / (jnp.arange(hits.shape[1]) + 1.0)[None]
    most = hits.sum(-1) if denominator == 'hits' else jnp.minimum(total, k)
    return (hits * precision).sum(-1) / jnp.maximum(most, 1)

  return _AtK('map', k, kind, value)


class _AtK(Mean):
  """The mean over lists of value(hits [B, min(I, k)], P [B]) -> [B]; lists without a positive are left out."""

  def __init__(self, name: str, k: int, kind: str, value):
    check_kind(kind, _KINDS, name)
    check_whole(k, 1, 'k', name)
    super().__init__(MetricSpec(f'{name}@{k}', True, (0, 1)), lambda values, _: values)
    self._k, self._value = k, value

  def update(self, state: dict, outputs: jax.Array, batch: Batch) -> dict:
    """Adds the lists of a batch."""
    scores, label, mask = (jnp.asarray(x) for x in (outputs, batch['label'], batch['mask']))
    positive = label[:, None] == jnp.arange(scores.shape[1])[None] if label.ndim == 1 else label > 0
    listed = jnp.broadcast_to(mask.reshape(len(mask), -1), scores.shape)
    hits, total = relevance(scores, positive, listed, self._k)
    values = jnp.where(jnp.isnan(jnp.where(listed, scores, 0)).any(-1), jnp.nan, self._value(hits, total))
    return super().update(state, values, {'label': total, 'mask': total > 0})
