"""Sweeps: the arms of a study as a grid over config fields, or proposed one by one by a search.

A space is {dotted config field: values}; an arm is {field: value}, the overrides of a config.

    grid        the product of lists
    random      every arm drawn from the space, whatever the others gave
    bayesian    the tree-structured Parzen estimator over all fields jointly: of candidates drawn from l, the density of
                the best arms so far, the one with the largest l(x) / g(x), g that of the others. Bergstra et al., 2011,
                https://papers.nips.cc/paper/4443-algorithms-for-hyper-parameter-optimization; Falkner et al., 2018,
                https://arxiv.org/abs/1807.01774, for the joint densities

`Search.propose` is a pure function of what was tried, so a sweep that was killed goes on with the arms it would have
had. The samplers are those of optuna (extra `sweep`); its Gaussian processes are not here, since they need PyTorch.
What was tried is handed to a new sampler each time, seeded by the search's seed and the number of arms: a proposal
takes as long as one, not as all before it.
"""
import contextlib
import dataclasses
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mtjax.config import did_you_mean
from mtjax.studies.search_space import Choice, Uniform, check_space, text

METHODS = ('random', 'bayesian', 'grid')
STARTUP = 10  # arms at random before the first from a density; a third of a small search
ATTEMPTS = 32  # draws in a row that were tried before, of the method and then of chance, before one is looked for
Overrides = dict[str, Any]


def grid(space: Mapping[str, Sequence[Any]]) -> dict[str, Overrides]:
  """{arm's name: overrides}, the product of the lists; the last field changes fastest.

  Args:
    space: {dotted field: list of values}.

  Raises:
    ValueError: an empty space, a field that is not a list, or two arms of one name.

  Example:
    >>> list(grid({'optimizer.lr': [1e-3, 1e-2], 'encoder.width': [32, 64]}))
    ['lr=0.001, width=32', 'lr=0.001, width=64', 'lr=0.01, width=32', 'lr=0.01, width=64']
  """
  space = check_space(space)
  for field, values in space.items():
    if isinstance(values, Uniform):
      raise ValueError(f'A grid takes lists of values; {field!r} is {values!r}, which is for a search.')
  arms: dict[str, Overrides] = {}
  for point in itertools.product(*(choice.values for choice in space.values())):
    overrides = dict(zip(space, point))
    if (name := arm_name(overrides)) in arms:
      raise ValueError(f'Two arms of the grid would be called {name!r}.')
    arms[name] = overrides
  return arms


def arm_name(overrides: Mapping[str, Any]) -> str:
  """A name for an arm: the last part of each field and its value, more of the field where two would be alike.

  Args:
    overrides: {dotted field: value}; of none the name is 'base'.

  Example:
    >>> arm_name({'optimizer.lr': 0.001, 'encoder.width': 64})
    'lr=0.001, width=64'
    >>> arm_name({'encoder.width': 64, 'tasks.left.head.width': 32})
    'encoder.width=64, head.width=32'
  """
  parts = {field: field.split('.') for field in overrides}

  def short(field):
    for length in range(1, len(parts[field])):
      end = parts[field][-length:]
      if not any(other[-length:] == end for name, other in parts.items() if name != field):
        return '.'.join(end)
    return field

  return ', '.join(f'{short(field)}={text(value)}' for field, value in overrides.items()) or 'base'


@dataclasses.dataclass(frozen=True)
class Search:
  """A sweep whose arms are proposed one by one.

  Attributes:
    space: {dotted field: list of values, Choice or Uniform}.
    num_arms: how many at most; of a grid it is its size, and may be left out.
    method: of METHODS.
    seed: of the draws.

  Example:
    >>> search = Search({'optimizer.lr': Uniform(1e-4, 1e-1, log=True), 'encoder.width': [32, 64]}, num_arms=20)
    >>> first = search.propose([], higher_is_better=True)
    >>> second = search.propose([(first, 0.91)], higher_is_better=True)
    >>> search.propose([(first, 0.91)], higher_is_better=True) == second != first
    True
  """

  space: Mapping[str, Any]
  num_arms: int | None = None
  method: str = 'random'
  seed: int = 0

  def __post_init__(self):
    if self.method not in METHODS:
      raise ValueError(f'Unknown method {self.method!r} of a search. {did_you_mean(self.method, METHODS)}')
    object.__setattr__(self, 'space', check_space(self.space))
    if self.method == 'grid':
      size = len(grid(self.space))
      if self.num_arms not in (None, size):
        raise ValueError(f'The grid has {size} arms, but num_arms is {self.num_arms!r}; leave it out.')
      object.__setattr__(self, 'num_arms', size)
    if type(self.num_arms) is not int or self.num_arms < 1:
      raise ValueError(f'A search needs num_arms >= 1, a whole number; got {self.num_arms!r}.')
    if type(self.seed) is not int or self.seed < 0:
      raise ValueError(f'A search needs a seed >= 0, a whole number; got {self.seed!r}.')

  @property
  def size(self) -> float:
    """How many arms the space has; infinite with a `Uniform` of numbers that are not whole."""
    return math.prod(dimension.size for dimension in self.space.values())

  def propose(self, tried: Sequence[tuple[Mapping[str, Any], float | None]],
              higher_is_better: bool) -> Overrides | None:
    """The next arm: the same for the same `tried`, and never one of them.

    Args:
      tried: (overrides, score) of all arms before, in their order; None or NaN = it failed.
      higher_is_better: of the scores.

    Returns:
      The overrides, or None when `num_arms` were tried or the space has no other.

    Raises:
      ValueError: something tried is no arm of the space.
      ImportError: optuna is not installed, and the search is no grid.
    """
    points = [self._encode(overrides) for overrides, _ in tried]
    if len(set(points)) >= min(self.num_arms, self.size):
      return None
    if self.method == 'grid':
      return next(arm for arm in grid(self.space).values() if self._encode(arm) not in points)
    scores = [score if score is not None and math.isfinite(score) else None for _, score in tried]
    for overrides in self._draws(points, scores, higher_is_better):
      if self._encode(overrides) not in points:
        return overrides
    return self._one_left(points)

  def _encode(self, overrides: Mapping[str, Any]) -> tuple:
    """An arm as a tuple of numbers."""
    if overrides.keys() != self.space.keys():
      raise ValueError(f'An arm of this search sets {", ".join(self.space)}; got {dict(overrides)!r}.')
    point = tuple(dimension.encode(overrides[field]) for field, dimension in self.space.items())
    for (field, dimension), code in zip(self.space.items(), point):
      if code is None:
        raise ValueError(f'An arm was tried with {field}={overrides[field]!r}, which is not in the space: {dimension}.')
    return point

  def _draws(self, points: Sequence[tuple], scores: Sequence[float | None], higher: bool) -> Iterator[Overrides]:
    """Arms of the sampler, which may have been tried."""
    optuna = _import_optuna()
    with _quiet(optuna):
      distributions = {field: _distribution(optuna, dimension) for field, dimension in self.space.items()}
      study = optuna.create_study(direction='maximize' if higher else 'minimize')
      if self.method == 'bayesian':
        study.add_trials([
          optuna.trial.create_trial(
            params=dict(zip(self.space, point)), distributions=distributions, value=score,
            state=optuna.trial.TrialState.FAIL if score is None else optuna.trial.TrialState.COMPLETE)
          for point, score in zip(points, scores)])
    for attempt in range(2 * ATTEMPTS):
      with _quiet(optuna):
        study.sampler = self._sampler(optuna, self._seed(points, attempt), attempt < ATTEMPTS)
        trial = study.ask(distributions)
        study.tell(trial, state=optuna.trial.TrialState.FAIL)  # its score is not known here
      yield {field: dimension.decode(trial.params[field]) for field, dimension in self.space.items()}

  def _sampler(self, optuna: Any, seed: int, informed: bool) -> Any:
    if self.method == 'random' or not informed:
      return optuna.samplers.RandomSampler(seed=seed)
    startup = min(STARTUP, math.ceil(self.num_arms / 3))
    return optuna.samplers.TPESampler(seed=seed, multivariate=True, n_startup_trials=startup)

  def _seed(self, points: Sequence[tuple], attempt: int) -> int:
    return int(np.random.SeedSequence([self.seed, len(points), attempt]).generate_state(1)[0])

  def _one_left(self, points: Sequence[tuple]) -> Overrides | None:
    """The first arm that was not tried, counted from a random one on; of a space that can be counted."""
    if math.isinf(self.size):
      return None
    start = self._seed(points, 2 * ATTEMPTS)
    return next(arm for arm in map(self._nth, range(start, start + len(points) + 1)) if self._encode(arm) not in points)

  def _nth(self, index: int) -> Overrides:
    """The arm at an index (modulo the size) of a space that can be counted."""
    arm = {}
    for field, dimension in self.space.items():
      index, code = divmod(index, dimension.size)
      arm[field] = dimension.decode(code if isinstance(dimension, Choice) else dimension.low + code)
    return arm


def _distribution(optuna: Any, dimension: Choice | Uniform) -> Any:
  if isinstance(dimension, Choice):
    return optuna.distributions.CategoricalDistribution(tuple(range(dimension.size)))
  kind = optuna.distributions.IntDistribution if dimension.integer else optuna.distributions.FloatDistribution
  return kind(dimension.low, dimension.high, log=dimension.log)


def _import_optuna() -> Any:
  try:
    import optuna
  except ImportError as error:
    raise ImportError("Searches draw their arms with optuna, which is not installed: "
                      "pip install 'mtjax[sweep]'.") from error
  return optuna


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
  """Neither optuna's log nor its notes on what is experimental."""
  level = optuna.logging.get_verbosity()
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')
      yield
  finally:
    optuna.logging.set_verbosity(level)
