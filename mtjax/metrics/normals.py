"""Angular errors of surface normals.

Fouhey et al., "Data-Driven 3D Primitives for Single Image Understanding", ICCV 2013, section 5; Eigen & Fergus, ICCV
2015, https://arxiv.org/abs/1411.4734, table 3.

    angle = acos(clip(n^ . n, -1, 1)) in degrees, n^ and n of length 1;   its mean, its median, shares below a threshold

outputs and label: [B, H, W, 3] of any length; a prediction of length 0 is 90 degrees off. Valid are pixels that the
mask allows and whose true normal has a length > 0. (Elsewhere validity is 'the sum of the components is not 0', which
drops legal normals.) The angle is computed as 2 atan2(|n^ - n|, |n^ + n|): the same, but exact near 0 and 180 degrees,
where the arc cosine in float32 is off by hundredths. An even number of pixels has the mean of the two middle ones as
median.
"""
import jax
import jax.numpy as jnp
import numpy as np

from mtjax.metrics.base import Batch, Collected, Mean, MetricSpec, align_mask, check_positive
from mtjax.metrics.decode import check_kind


def angles(said: jax.Array, normal: jax.Array) -> jax.Array:
  """Degrees between vectors [..., 3] and [..., 3] -> [...] float32."""
  said, normal = _unit(said), _unit(normal)
  apart, along = jnp.linalg.norm(said - normal, axis=-1), jnp.linalg.norm(said + normal, axis=-1)
  return jnp.degrees(2 * jnp.arctan2(apart, along))


def mean_angle(kind: str = 'identity') -> Mean:
  """Mean angular error in degrees over all valid pixels of the split.

  Example:
    >>> metric = mean_angle()
    >>> truth = np.array([[[0.0, 0, 1], [0, 0, 1], [0, 0, 0]]])     # [1, 3, 3]; the last pixel has no normal
    >>> batch = {'label': truth, 'mask': np.ones(1, bool)}
    >>> metric.compute(metric.update(metric.init(), np.array([[[0.0, 0, 2], [0, 0, -1], [1, 0, 0]]]), batch))
    {'mean_angle': 90.0}
  """
  check_kind(kind, ('identity',), 'mean_angle')
  return Mean(MetricSpec('mean_angle', False, (0, 180)), angles, counts=_valid)


def median_angle(kind: str = 'identity') -> Collected:
  """Median angular error in degrees over all valid pixels of the split."""
  check_kind(kind, ('identity',), 'median_angle')
  return _MedianAngle()


def angle_within(degrees: float = 11.25, kind: str = 'identity') -> Mean:
  """The share of valid pixels whose angular error is below `degrees`; named 'within_<degrees>'.

  Args:
    degrees: 11.25, 22.5 and 30 are usual.
    kind: 'identity'.

  Example:
    >>> angle_within(22.5).specs[0].name
    'within_22.5'
  """
  check_kind(kind, ('identity',), 'angle_within')
  check_positive(degrees, 'degrees', 'angle_within')
  near = lambda said, normal: angles(said, normal) < degrees
  return Mean(MetricSpec(f'within_{degrees:g}', True, (0, 1)), near, counts=_valid)


class _MedianAngle(Collected):
  """Keeps the angles only: a sixth of the vectors."""

  def __init__(self):
    middle = lambda angle, valid, mask: np.median(angle[valid].astype(np.float64)) if valid.any() else float('nan')
    super().__init__(MetricSpec('median_angle', False, (0, 180)), middle)

  def update(self, state: tuple, outputs: jax.Array, batch: Batch) -> tuple:
    """Appends the pixels of a batch."""
    valid = _valid(outputs, batch['label'])
    valid = valid & align_mask(batch['mask'], valid)
    return super().update(state, angles(outputs, batch['label']), {'label': valid, 'mask': valid})


def _unit(x: jax.Array) -> jax.Array:
  x = jnp.asarray(x, jnp.float32)
  length = jnp.linalg.norm(x, axis=-1, keepdims=True)
  return x / jnp.where(length > 0, length, 1)


def _valid(said: jax.Array, normal: jax.Array) -> jax.Array:
  return jnp.linalg.norm(jnp.asarray(normal, jnp.float32), axis=-1) > 0
