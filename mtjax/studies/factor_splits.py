"""Compositional generalisation: train on factor combinations, test on an unseen one.

Cai et al., "On the Compositional Generalization of Multimodal LLMs for Medical Imaging" (Med-MAT), 2024,
https://arxiv.org/abs/2412.20070.

A combination is a tuple of one element a factor, such as (modality, area, task). For a target that is held out:

    related      a smallest set of other combinations whose elements together cover all of the target's
    unrelated    combinations that share no element with the target; as many rows
    gain         accuracy on the target trained on related - trained on unrelated

More than the paper's code: all smallest covers are enumerated, and both sides have the same number of rows, spread
evenly over their combinations, so that size does not pass for composition.
"""
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtjax.studies import intervals

Combination = tuple[Any, ...]


class Split(NamedTuple):
  """One held-out combination, and what to train on.

  Attributes:
    target: the combination held out.
    related, unrelated: combinations.
    target_rows, related_rows, unrelated_rows: indices into the table; the last two equally many.
  """

  target: Combination
  related: tuple[Combination, ...]
  unrelated: tuple[Combination, ...]
  target_rows: np.ndarray
  related_rows: np.ndarray
  unrelated_rows: np.ndarray


def minimal_covers(target: Combination, combinations: Sequence[Combination]) -> Iterator[tuple[Combination, ...]]:
  """The smallest sets of combinations other than the target whose elements cover it, one after another.

  Example:
    >>> grid = [(m, t) for m in 'AB' for t in 'xy']
    >>> list(minimal_covers(('A', 'x'), grid))
    [(('A', 'y'), ('B', 'x'))]
  """
  shares = {other: frozenset(i for i, (a, b) in enumerate(zip(target, other)) if a == b)
            for other in combinations if other != target}
  useful = [other for other, shared in shares.items() if shared]
  for size in range(1, len(target) + 1):
    covers = (chosen for chosen in itertools.combinations(useful, size)
              if len(frozenset().union(*(shares[other] for other in chosen))) == len(target))
    first = next(covers, None)
    if first is not None:
      yield first
      yield from covers
      return


def factor_splits(table: Sequence[Mapping[str, Any]] | Mapping[str, Sequence[Any]], factors: Sequence[str], *,
                  covers: int | None = 1, rows: int | None = None, seed: int = 0) -> list[Split]:
  """Every combination of the table held out in turn; those without a cover, or without a control, are left out.

  Args:
    table: rows {factor: element}, or columns {factor: [N]}.
    factors: the names of the factors, at least two.
    covers: smallest covers to keep of each target, drawn without replacement; None = all.
    rows: the most rows a side; None = as many as the smaller side has.
    seed: of all draws.

  Example:
    >>> table = [dict(modality=m, task=t) for m in 'ABC' for t in 'xyz' for _ in range(4)]
    >>> split = factor_splits(table, ['modality', 'task'])[0]
    >>> split.target, split.related, len(split.related_rows) == len(split.unrelated_rows)
    (('A', 'x'), (('A', 'z'), ('C', 'x')), True)
  """
  if len(factors) < 2 or len(set(factors)) < len(factors):
    raise ValueError(f'factors must be at least two different names, got {list(factors)}.')
  if covers is not None and covers < 1 or rows is not None and rows < 1:
    raise ValueError(f'covers and rows must be None or at least 1, got {covers!r} and {rows!r}.')
  names = list(table) if isinstance(table, Mapping) else list(table[0]) if len(table) else []
  if missing := [name for name in factors if name not in names]:
    raise ValueError(f"The table has no factor '{missing[0]}'; it has {', '.join(map(repr, names))}.")
  keys = list(zip(*(table[name] for name in factors))) if isinstance(table, Mapping) else [
    tuple(row[name] for name in factors) for row in table]
  where: dict[Combination, list[int]] = {}
  for i, key in enumerate(keys):
    where.setdefault(tuple(key), []).append(i)
  rng = np.random.default_rng(seed)
  splits = []
  for target in where:
    apart = [other for other in where if not any(a == b for a, b in zip(target, other))]
    found = list(minimal_covers(target, list(where)))
    if not apart or not found:
      continue
    kept = range(len(found)) if covers is None else rng.choice(len(found), min(covers, len(found)), replace=False)
    for index in sorted(kept):
      related = found[index]
      control = [apart[i] for i in sorted(rng.choice(len(apart), min(len(related), len(apart)), replace=False))]
      sides = [_spread([rng.permutation(where[other]) for other in side]) for side in (related, control)]
      size = min(len(sides[0]), len(sides[1]), rows or len(keys))
      splits.append(Split(target, related, tuple(control), np.array(where[target]),
                          *(np.sort(side[:size]) for side in sides)))
  if not splits:
    raise ValueError('No combination of the table has both a cover by others and combinations that share no element '
                     'with it: the grid is too small or too empty.')
  return splits


def cg_gain(related: Sequence[float], unrelated: Sequence[float], chance: Sequence[float] | float = 0.0, *,
            kind: str = 'expanded', level: float = 0.95, draws: int = 5000, seed: int = 0) -> intervals.Estimate:
  """acc(related) - acc(unrelated), mean over targets, with a bootstrap over targets that keeps the pairs.

  Args:
    related, unrelated: [targets], accuracies.
    chance: of guessing, [targets] or one for all; accuracies become (acc - chance) / (1 - chance).
    kind, level, draws, seed: as of `intervals.interval`; 'percentile' is the plain paired bootstrap.

  Example:
    >>> print(f'{cg_gain([0.8, 0.7, 0.9], [0.6, 0.6, 0.6]).value:.2f}')
    0.20
  """
  related, unrelated, chance = (np.asarray(x, float) for x in (related, unrelated, chance))
  if related.shape != unrelated.shape or related.ndim != 1:
    raise ValueError(f'related and unrelated must be [targets] alike, got {related.shape} and {unrelated.shape}.')
  if not ((chance >= 0) & (chance < 1)).all():
    raise ValueError(f'chance must be in [0, 1), got {chance}.')
  return intervals.estimate((related - unrelated) / (1 - chance), kind, level, draws, seed)


def _spread(groups: Sequence[np.ndarray]) -> np.ndarray:
  """Indices of all groups in turn, so that any beginning has equally many of each as long as they last."""
  return np.array([index for together in itertools.zip_longest(*groups) for index in together if index is not None])
