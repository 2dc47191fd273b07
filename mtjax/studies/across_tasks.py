"""Many tasks and few runs: interquartile mean, optimality gap, performance profile, probability of improvement.

Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice", NeurIPS 2021,
https://arxiv.org/abs/2108.13264.

x: [..., N, M], normalised scores of N runs on M tasks, more is better.

    iqm                             mean of the middle half of all N M values
    optimality_gap                  gamma - mean(min(x, gamma))
    performance_profile(tau)        mean 1[x > tau]
    probability_of_improvement      mean_m P(X_m > Y_m) + P(X_m = Y_m) / 2

Intervals: `intervals.stratified`, runs drawn anew within each task. Unlike the authors' library the draws come from a
generator with a seed, and where both arms have the same seeds their pairs are kept.
"""
from collections.abc import Callable, Sequence

import numpy as np

from mtjax.studies import intervals
from mtjax.studies.aggregates import cube
from mtjax.studies.intervals import Estimate
from mtjax.studies.score_frame import ScoreFrame, directions


def iqm(values: np.ndarray) -> np.ndarray:
  """[..., N, M] -> [...]; a quarter of the values, rounded down, is cut off at either end.

  Example:
    >>> float(iqm([[0.0, 1.0], [2.0, 3.0]]))
    1.5
  """
  values = _flat(values)
  cut = values.shape[-1] // 4
  return np.sort(values, axis=-1)[..., cut:values.shape[-1] - cut].mean(-1)


def median(values: np.ndarray) -> np.ndarray:
  """The median over tasks of the mean over runs: [..., N, M] -> [...]."""
  return np.median(np.asarray(values, float).mean(-2), axis=-1)


def mean(values: np.ndarray) -> np.ndarray:
  """[..., N, M] -> [...]."""
  return _flat(values).mean(-1)


def optimality_gap(values: np.ndarray, gamma: float = 1.0) -> np.ndarray:
  """How far the scores are from gamma, what is above it counting as gamma: [..., N, M] -> [...]."""
  return gamma - np.minimum(_flat(values), gamma).mean(-1)


def performance_profile(values: np.ndarray, tau: Sequence[float]) -> np.ndarray:
  """The share of runs and tasks that score above each tau: [..., N, M], [K] -> [..., K]."""
  ordered, tau = np.sort(_flat(values), axis=-1), np.asarray(tau, float)
  count = ordered.shape[-1]
  rows = ordered.reshape(-1, count)
  above = np.stack([count - np.searchsorted(row, tau, side='right') for row in rows]) / count
  return above.reshape(*ordered.shape[:-1], len(tau))


def profile_band(values: np.ndarray, tau: Sequence[float], level: float = 0.95, draws: int = 2000,
                 seed: int = 0) -> np.ndarray:
  """The interval of the profile at each tau by itself: [N, M], [K] -> [2, K]."""
  found = [intervals.stratified(values, lambda x, t=t: performance_profile(x, [t])[..., 0], 'expanded', level, draws,
                                seed) for t in tau]
  if None in found:
    raise ValueError('A band needs at least two runs and finite scores.')
  return np.array(found).T


def probability_of_improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Of a run of x over a run of y on the same task, mean over tasks: [..., N, M], [..., K, M] -> [...]."""
  x, y = np.asarray(x, float), np.asarray(y, float)
  if x.shape[-1] != y.shape[-1]:
    raise ValueError(f'x and y must have the same tasks, got {x.shape[-1]} and {y.shape[-1]}.')
  pairs = x[..., :, None, :], y[..., None, :, :]
  return (np.greater(*pairs) + 0.5 * np.equal(*pairs)).mean((-3, -2, -1))


def improvement(x: np.ndarray, y: np.ndarray, level: float = 0.95, draws: int = 2000, seed: int = 0) -> Estimate:
  """The probability of improvement with its interval; runs of x and y are paired: both [N, M]."""
  x, y = np.asarray(x, float), np.asarray(y, float)
  if x.shape != y.shape:
    raise ValueError(f'x and y must be paired runs x tasks, got shapes {x.shape} and {y.shape}.')
  statistic = lambda both: probability_of_improvement(both[..., 0], both[..., 1])
  found = intervals.stratified(np.stack([x, y], -1), statistic, 'expanded', level, draws, seed)
  return Estimate(float(probability_of_improvement(x, y)), found, len(x))


def across_tasks(frame: ScoreFrame, statistic: Callable[[np.ndarray], np.ndarray] = iqm, *, split: str = 'test',
                 kind: str = 'expanded', level: float = 0.95, draws: int = 2000, seed: int = 0) -> dict[str, Estimate]:
  """{arm: a statistic over runs x tasks with its stratified interval}, of a frame of normalised scores."""
  if not all(directions(frame.where(split=split)).values()):
    raise ValueError('Scores must be such that more is better in all of them: see `aggregates.normalised`.')
  values, _ = cube(frame, split)
  return {arm: Estimate(float(statistic(own)), intervals.stratified(own, statistic, kind, level, draws, seed), len(own))
          for arm, own in zip(frame.where(split=split).unique('arm'), values)}


def _flat(values: np.ndarray) -> np.ndarray:
  values = np.asarray(values, float)
  if values.ndim < 2:
    raise ValueError(f'values must be runs x tasks, [..., N, M]; got shape {values.shape}.')
  return values.reshape(*values.shape[:-2], -1)
