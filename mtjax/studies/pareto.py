"""The Pareto front, and the volume that it dominates.

p dominates q: p is at least as good in every objective and better in one. HV(P, r) = volume of the points between some
p in P and the reference r. Zitzler & Thiele, "Multiobjective Evolutionary Algorithms: A Comparative Case Study and the
Strength Pareto Approach", 1999, https://doi.org/10.1109/4235.797969.

points: [N, D], r: [D]; D = 2 by a sort, D = 3 by a sweep over the third objective. Equal points do not dominate each
other. The volume depends on the reference and on the scale of the objectives: print both, normalise by a baseline.
"""
from collections.abc import Sequence

import numpy as np

from mtjax.studies.score_frame import ScoreFrame, by_seed, directions


def non_dominated(points: np.ndarray, higher: Sequence[bool] | bool = False) -> np.ndarray:
  """Which points nothing dominates: [N, D] -> [N] bool.

  Example:
    >>> non_dominated([[1, 2], [2, 1], [2, 2]]).tolist()
    [True, True, False]
  """
  costs = _costs(points, higher)
  no_worse = (costs[:, None] <= costs[None]).all(-1)  # [N, N]: row against column
  better = (costs[:, None] < costs[None]).any(-1)
  return ~(no_worse & better).any(0)


def hypervolume(points: np.ndarray, reference: Sequence[float], higher: Sequence[bool] | bool = False) -> float:
  """The volume dominated with respect to a reference; points not better than it in every objective add nothing.

  Args:
    points: [N, 2] or [N, 3].
    reference: [D], worse than what should count.
    higher: [D] or one for all: whether more of it is better.

  Example:
    >>> hypervolume([[1, 2], [2, 1]], reference=[3, 3])
    3.0
  """
  costs = _costs(points, higher)
  worst = np.asarray(reference, float) * np.where(higher, -1.0, 1.0)
  if worst.shape != costs.shape[1:] or not np.isfinite(worst).all():
    raise ValueError(f'reference must be {costs.shape[1]} finite numbers, got {reference!r}.')
  costs = costs[(costs < worst).all(1)]
  if len(worst) == 2:
    return _area(costs, worst)
  if len(worst) != 3:
    raise ValueError(f'hypervolume is computed of 2 or 3 objectives, got {len(worst)}; for more there is moocore.')
  costs = costs[np.argsort(costs[:, 2], kind='stable')]
  tops = np.append(costs[1:, 2], worst[2])
  return float(sum((top - costs[i, 2]) * _area(costs[:i + 1, :2], worst[:2]) for i, top in enumerate(tops[:len(costs)])
                   if top > costs[i, 2]))


def pareto(frame: ScoreFrame, x: tuple[str, str], y: tuple[str, str], *,
           split: str = 'test') -> dict[str, tuple[float, float]]:
  """{arm: (x, y)} of the arms on the front of two (task, metric), by means over seeds; in the order of x."""
  higher = directions(frame.where(split=split))
  if unknown := [column for column in (x, y) if column not in higher]:
    raise ValueError(f"The frame has no {'/'.join(unknown[0])} on '{split}'.")
  tables = {arm: by_seed(frame, arm, split) for arm in frame.where(split=split).unique('arm')}
  arms = [arm for arm, table in tables.items() if x in table and y in table]
  if not arms:
    raise ValueError(f'No arm has both {"/".join(x)} and {"/".join(y)}.')
  means = np.array([[np.mean(list(tables[arm][column].values())) for column in (x, y)] for arm in arms])
  front = non_dominated(means, [higher[x], higher[y]])
  return {arms[i]: tuple(means[i].tolist()) for i in np.argsort(means[:, 0], kind='stable') if front[i]}


def _costs(points: np.ndarray, higher: Sequence[bool] | bool) -> np.ndarray:
  points = np.asarray(points, float)
  if points.ndim != 2 or not np.isfinite(points).all():
    raise ValueError(f'points must be finite, [N, D]; got shape {points.shape}.')
  return points * np.where(higher, -1.0, 1.0)


def _area(costs: np.ndarray, worst: np.ndarray) -> float:
  area, height = 0.0, worst[1]
  for x, y in costs[np.lexsort((costs[:, 1], costs[:, 0]))]:
    if y < height:
      area += (worst[0] - x) * (height - y)
      height = y
  return float(area)
