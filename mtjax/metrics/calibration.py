"""Expected calibration error.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599, equation 3.

    ECE = sum_k n_k / n |accuracy_k - confidence_k|,   bins (a, b] of equal width over the confidence max_c p_c
"""
import jax.numpy as jnp
import numpy as np

from mtjax.metrics.base import Batch, MetricSpec
from mtjax.metrics.decode import check_kind, probabilities


class Ece:
  """See the top of the file. Binary labels ('sigmoid'): confidence max(p, 1 - p), over all entries.

  Args:
    kind: 'softmax', 'sigmoid' or 'ordinal'.
    bins: how many, of equal width.
  """

  collects = False
  specs = (MetricSpec('ece', False, (0, 1)),)

  def __init__(self, kind: str = 'softmax', bins: int = 15):
    check_kind(kind, ('softmax', 'sigmoid', 'ordinal'), 'ece')
    if not isinstance(bins, int) or bins < 1:
      raise ValueError(f'ece needs bins >= 1, got {bins!r}.')
    self._kind, self._bins = kind, bins

  def init(self) -> dict:
    """Per bin: rows, right ones, and the sum of the confidence's distance from the bin's lower end."""
    counts = jnp.zeros(self._bins, jnp.int32)
    return {'n': counts, 'right': jnp.zeros(self._bins, jnp.int32), 'offset': jnp.zeros(self._bins)}

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
    part = {'n': member.sum(axes, dtype=jnp.int32), 'right': (member & right[..., None]).sum(axes, dtype=jnp.int32),
            'offset': jnp.where(member, offset[..., None], 0.0).sum(axes)}
    return self.merge(state, part)

  def merge(self, a: dict, b: dict) -> dict:
    """Bin by bin."""
    return {name: a[name] + b[name] for name in a}

  def compute(self, state: dict) -> dict[str, float]:
    """{'ece': value}; NaN without rows."""
    n, right, offset = (np.asarray(state[name], np.float64) for name in ('n', 'right', 'offset'))
    if not n.sum():
      return {'ece': float('nan')}
    confidence = offset + n * np.arange(self._bins) / self._bins
    return {'ece': float(np.abs(right - confidence).sum() / n.sum())}


def ece(kind: str = 'softmax', bins: int = 15) -> Ece:
  """Expected calibration error over `bins` bins of equal width."""
  return Ece(kind, bins)
