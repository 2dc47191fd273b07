"""Errors of depth maps.

Eigen et al., "Depth Map Prediction from a Single Image using a Multi-Scale Deep Network", NeurIPS 2014, section 4,
https://arxiv.org/abs/1406.2283.

    abs = mean |d^ - d|,   rel = mean |d^ - d| / d,   RMSE = sqrt(mean (d^ - d)^2),
    delta_k = share of max(d^ / d, d / d^) < 1.25^k

d: true depth, d^: prediction, both [B, H, W] (or with a last axis of 1). Means are over all valid pixels of the split,
the root of the RMSE being taken once, not image by image. Valid are pixels that the mask allows and where d > 0 is
finite: sensors write 0 where they see nothing. A prediction <= 0 is outside every threshold.
"""
import math

import jax
import jax.numpy as jnp

from mtjax.metrics.base import Mean, MetricSpec, check_whole
from mtjax.metrics.decode import check_kind


def depth_abs(kind: str = 'identity') -> Mean:
  """Mean absolute error over valid pixels.

  Example:
    >>> metric = depth_abs()
    >>> batch = {'label': np.array([[2.0, 4.0, 0.0]]), 'mask': np.ones(1, bool)}    # the last pixel has no depth
    >>> metric.compute(metric.update(metric.init(), np.array([[3.0, 4.0, 9.0]]), batch))
    {'depth_abs': 0.5}
  """
  return _error('depth_abs', kind, lambda said, depth: jnp.abs(said - depth))


def depth_rel(kind: str = 'identity') -> Mean:
  """Mean absolute error relative to the true depth, over valid pixels."""
  return _error('depth_rel', kind, lambda said, depth: jnp.abs(said - depth) / depth)


def depth_rmse(kind: str = 'identity') -> Mean:
  """Root of the mean squared error over all valid pixels of the split."""
  return _error('depth_rmse', kind, lambda said, depth: jnp.square(said - depth), math.sqrt)


def depth_delta(k: int = 1, kind: str = 'identity') -> Mean:
  """The share of valid pixels whose ratio to the true depth is below 1.25^k, either way up; named 'delta_<k>'.

  Args:
    k: 1, 2 and 3 are usual.
    kind: 'identity'.

  Example:
    >>> metric = depth_delta(k=1)
    >>> batch = {'label': np.array([[1.0, 1.0, 1.0, 1.0]]), 'mask': np.ones(1, bool)}
    >>> metric.compute(metric.update(metric.init(), np.array([[1.2, 1.25, 0.9, 0.5]]), batch))   # 1.25 is not < 1.25
    {'delta_1': 0.5}
  """
  check_kind(kind, ('identity',), 'depth_delta')
  check_whole(k, 1, 'k', 'depth_delta')

  def near(said, depth):
    said, depth = _pair(said, depth)
    return (said > 0) & (jnp.maximum(said / depth, depth / said) < 1.25 ** k)

  return Mean(MetricSpec(f'delta_{k}', True, (0, 1)), near, counts=_valid)


def _error(name, kind, error, finish=float) -> Mean:
  check_kind(kind, ('identity',), name)
  return Mean(MetricSpec(name, False, (0, math.inf)), lambda said, depth: error(*_pair(said, depth)), finish, _valid)


def _pair(said: jax.Array, depth: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Both in float32 and of one shape; invalid depths are 1, so that nothing is divided by 0."""
  said = said.reshape(depth.shape).astype(jnp.float32)
  return said, jnp.where(_valid(said, depth), depth, 1).astype(jnp.float32)


def _valid(said: jax.Array, depth: jax.Array) -> jax.Array:
  return (depth > 0) & jnp.isfinite(depth)
