"""The likelihood of discrete survival times, some of them censored.

Singer & Willett, "It's About Time: Using Discrete-Time Survival Analysis to Study Duration and the Timing of Events",
Journal of Educational Statistics 18, 1993, https://doi.org/10.3102/10769986018002155; with networks: Gensheimer &
Narasimhan, "A scalable discrete-time survival model for neural networks", PeerJ 7, 2019,
https://arxiv.org/abs/1805.00917.

    h_k = P(event in interval k | none before) = sigmoid(outputs_k),   k = 0 … K - 1
    S_k = P(none in intervals 0 … k) = prod_{j <= k} (1 - h_j)
    loss = -sum_{j < k} log(1 - h_j) - e log h_k

A label is (k, e): k whole intervals were survived; e = 1: the event came in interval k; e = 0: no more is known
(censored; k = K: beyond the last interval).
Differs from Gensheimer & Narasimhan: an interval in which a row is censored says nothing, however late in it; there it
counts as survived from its middle on.
"""
import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def hazard_nll(outputs: jax.Array, label: jax.Array) -> jax.Array:
  """-log likelihood of a row, summed over its intervals.

  Args:
    outputs: log-odds of the hazards, [B, K].
    label: int [B, 2], (k, e) as above; `survival_intervals` makes them of times.

  Returns:
    [B] float32.

  Example:
    >>> half = jnp.zeros((3, 2))                                         # h = 1/2 in both intervals
    >>> nll = hazard_nll(half, jnp.array([[1, 1], [1, 0], [2, 0]]))      # 1/4, 1/2, 1/4
    >>> print(jnp.exp(-nll).round(4))
    [0.25 0.5  0.25]
  """
  if outputs.ndim != 2 or label.shape != (len(outputs), 2):
    raise ValueError(f'hazard_nll reads outputs [B, K] and labels [B, 2] (interval, event), but they have shapes '
                     f'{list(outputs.shape)} and {list(label.shape)}.')
  outputs = outputs.astype(jnp.float32)
  at, k, event = jnp.arange(outputs.shape[1])[None], label[:, :1], label[:, 1:] > 0
  survived = jnp.where(at < k, jax.nn.softplus(outputs), 0.0)
  came = jnp.where((at == k) & event, jax.nn.softplus(-outputs), 0.0)
  return jnp.sum(survived + came, axis=1)


def survival_curve(outputs: jax.Array) -> jax.Array:
  """S_k: log-odds of the hazards [..., K] -> [..., K] float32, falling with k.

  Example:
    >>> print(survival_curve(jnp.zeros(3)))
    [0.5   0.25  0.125]
  """
  return jnp.exp(-jnp.cumsum(jax.nn.softplus(outputs.astype(jnp.float32)), axis=-1))


def survival_intervals(time: np.ndarray, event: np.ndarray, ends: Sequence[float]) -> np.ndarray:
  """Labels of times, on the host.

  Args:
    time: [N] >= 0, of the event or of censoring.
    event: [N], 1 = the event came at `time`, 0 = it had not come until then.
    ends: of the K intervals, increasing and > 0; interval k holds the times in ends[k - 1] <= t < ends[k] (the first
      begins at 0).

  Returns:
    int32 [N, 2]; an event at or after the last end is beyond the horizon: (K, 0).

  Example:
    >>> survival_intervals(np.array([0.5, 1.5, 1.5, 9.0]), np.array([1, 1, 0, 1]), ends=(1.0, 2.0)).tolist()
    [[0, 1], [1, 1], [1, 0], [2, 0]]
  """
  ends, time, event = np.asarray(ends, np.float64), np.asarray(time), np.asarray(event)
  if ends.ndim != 1 or not len(ends) or not (np.diff(ends, prepend=0) > 0).all():
    raise ValueError(f'survival_intervals has ends={ends.tolist()}; allowed are increasing numbers > 0.')
  if not (time >= 0).all() or not np.isin(event, (0, 1)).all() or time.shape != event.shape:
    raise ValueError('survival_intervals reads times [N] >= 0 and events [N] of 0 and 1.')
  k = np.searchsorted(ends, time, side='right')
  return np.stack([k, (event > 0) & (k < len(ends))], axis=1).astype(np.int32)


@dataclasses.dataclass(frozen=True)
class SurvivalIntervals:
  """A format: columns of times and events -> labels of survival, int32 [N, 2], see `survival_intervals`.

  Args:
    time: the column of times [N] >= 0.
    event: the column of events [N], 1 = it came at that time, 0 = it had not come until then.
    ends: of the K intervals.
  """

  time: str
  event: str
  ends: Sequence[float]

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that are read."""
    return self.time, self.event

  def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The labels of `rows`."""
    return survival_intervals(np.asarray(rows[self.time]), np.asarray(rows[self.event]), self.ends)
