"""A study: a claim as code. Arms x seeds of one config, a metric, and when the claim holds.

    def get_study():
      return Study(
        claim='Sharing an encoder helps both digits.',
        config=joint.get_config(), arms={'joint': {}, 'single': single_task()}, seeds=10,
        metric='accuracy', verdict='joint > single')

An arm is what it changes in the config: {field: value}, where a dotted field ('optimizer.lr') sets one number and a
plain one ('encoder') replaces the whole component; or a function of the seed that gives such a dict, in which 'seed' is
what is trained with in place of the study's; or several runs which together are one arm (`Parts`, `single_task`). Arms
have the same seeds, and with a seed the same initialisation and order of data; their budget is the config's `steps`.
"""
import copy
import dataclasses
import functools
import importlib.util
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mtjax import experiment
from mtjax.config import did_you_mean, to_dict
from mtjax.data import configure
from mtjax.run import seeded
from mtjax.studies.search import Search
from mtjax.studies.verdict import Claim, claims_of

Overrides = Mapping[str, Any]
SELECTIONS = ('last', 'best')
SMOKE_STEPS, SMOKE_SEEDS, SMOKE_PARTS = 4, 2, 2


@dataclasses.dataclass(frozen=True)
class Parts:
  """An arm of several runs: {part: overrides}. In tables they are one arm, with a task a part.

  The task of a run that has one is called like the part, the tasks of others '<part>/<task>'. (Runs that have the same
  tasks share compiled programs.)
  """

  parts: Mapping[str, Overrides]


@dataclasses.dataclass(frozen=True)
class SingleTask:
  """An arm of one run a task; see `single_task`."""

  overrides: Overrides


def single_task(overrides: Overrides | None = None) -> SingleTask:
  """The baseline of multitask training: the same config, trained for each task alone, with the same steps.

  A task keeps its stream, its rows a step, its head and its loss weight; there is no conflict to resolve, so
  `aggregator` and `gradients` are left out. Of a mixture it gets its share of the rows, rounded.

  Args:
    overrides: what the arm changes besides.
  """
  return SingleTask(dict(overrides or {}))


Arm = Overrides | Parts | SingleTask | Callable[[int], Overrides]


class Cell(NamedTuple):
  """One run of a study.

  Attributes:
    arm, part, seed: which; `part` is '' where the arm is one run.
    config: whole, with the seed in it.
  """

  arm: str
  part: str
  seed: int
  config: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Study:
  """See the top of the file.

  Attributes:
    claim: in words, what is to be shown.
    arms: {name: what it changes}; see above.
    seeds: how many (0, 1, …), or which. At least six, that every test can find something.
    metric: of the verdict: 'accuracy' (mean over the tasks that have it), 'left/accuracy', 'delta_m' (percent better
      than the baseline), or None: the mean over tasks of each one's first metric.
    verdict: when the claim holds: 'a > b' (a is better), a claim or a list of claims of `mtjax.studies.verdict`
      (all must hold), or a function of the ScoreFrame that gives True, False or None. None or 'better': the first arm
      is better than every other one.
    config: what all arms start from, or 'FILE.py[:arg]' with its get_config(); None = the defaults of
      `mtjax.experiment.default_config`, and arms bring the rest.
    baseline: what Δm is relative to: an arm, or {arm: its baseline}. None = the single-task arm, where there is one.
    selection: 'last', the last step; or 'best', the checkpoint that `config.best` chose on validation.
    split: on which the verdict is: 'test'.
    search: arms found by a search over config fields, tried one after the other; see `mtjax.studies.search`. The best
      of them on validation is then the arm '(chosen)'.
    title: of the report.
    paper: a key of `mtjax.papers.PAPERS`, whose claim it is.
    smoke: further overrides of a smoke run, such as smaller data.
  """

  claim: str
  arms: Mapping[str, Arm]
  seeds: int | Sequence[int] = 6
  metric: str | None = None
  verdict: 'str | Claim | Sequence[Claim] | Callable | None' = None
  config: Any = None
  baseline: str | Mapping[str, str] | None = None
  selection: str = 'last'
  split: str = 'test'
  search: Search | None = None
  title: str = ''
  paper: str | None = None
  smoke: Overrides = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not isinstance(self.claim, str) or not self.claim.strip():
      raise ValueError(f"'claim' must say in words what is to be shown, got {self.claim!r}.")
    if not isinstance(self.arms, Mapping) or not (self.arms or self.search):
      raise ValueError(f"'arms' must be {{name: overrides}} with at least one, got {self.arms!r}.")
    for name, arm in self.arms.items():
      if not isinstance(name, str) or not name.strip() or ';' in name:
        raise ValueError(f"An arm's name is text without ';', got {name!r}.")
      if not isinstance(arm, (Mapping, Parts, SingleTask)) and not callable(arm):
        raise ValueError(f"Arm '{name}' must be overrides {{field: value}}, a function of the seed, Parts or "
                         f'single_task(), got {arm!r}.')
    if self.selection not in SELECTIONS:
      raise ValueError(f"'selection' must be {' or '.join(map(repr, SELECTIONS))}, got {self.selection!r}; what is "
                       'chosen is chosen on validation.')
    if self.split not in ('test', 'validation'):
      raise ValueError(f"'split' must be 'test' or 'validation', got {self.split!r}.")
    if self.paper is not None:
      from mtjax.papers import PAPERS

      if self.paper not in PAPERS:
        raise ValueError(f"'paper' is {self.paper!r}. {did_you_mean(self.paper, PAPERS)}")
    for arm, base in self.baselines().items():
      for name in (arm, base):
        if name not in self.arms and not self.search:
          raise ValueError(f"'baseline' names the arm {name!r}. {did_you_mean(name, self.arms)}")
    _ = self.seed_list()
    if not self.search:
      for claim in claims_of(self.verdict, list(self.arms)):
        for name in claim.arms:
          if name not in self.arms:
            raise ValueError(f"'verdict' names the arm {name!r}. {did_you_mean(name, self.arms)}")

  def seed_list(self) -> list[int]:
    """The seeds."""
    seeds = list(range(self.seeds)) if isinstance(self.seeds, int) else list(self.seeds)
    if not seeds or len(set(seeds)) < len(seeds) or not all(isinstance(s, int) and s >= 0 for s in seeds):
      raise ValueError(f"'seeds' must be how many, or different whole numbers >= 0, got {self.seeds!r}.")
    return seeds

  def baselines(self) -> dict[str, str]:
    """{arm: what its Δm is relative to}."""
    if isinstance(self.baseline, Mapping):
      return dict(self.baseline)
    single = [name for name, arm in self.arms.items() if isinstance(arm, SingleTask)]
    base = self.baseline or (single[0] if len(single) == 1 else None)
    return {} if base is None else {arm: base for arm in self.arms if arm != base}

  def for_smoke(self) -> 'Study':
    """A few steps, two seeds and at most two parts of every arm."""
    arms = {name: Parts(dict(list(arm.parts.items())[:SMOKE_PARTS])) if isinstance(arm, Parts) else arm
            for name, arm in self.arms.items()}
    search = self.search
    if search is not None and search.method != 'grid':
      search = dataclasses.replace(search, num_arms=min(search.num_arms, SMOKE_PARTS))
    return dataclasses.replace(self, arms=arms, seeds=self.seed_list()[:SMOKE_SEEDS], search=search)

  def cells(self, arm: str, seeds: Sequence[int], overrides: Arm | None = None, smoke: bool = False) -> Iterator[Cell]:
    """The runs of one arm.

    Args:
      arm: its name.
      seeds: which.
      overrides: of an arm that is not in `arms`, such as a search's.
      smoke: for a few steps each.
    """
    given = self.arms[arm] if overrides is None else overrides
    for seed in seeds:
      own = given(seed) if callable(given) else given
      trained = own.get('seed', seed) if isinstance(own, Mapping) else seed
      for part, config in self._configs(own):
        yield Cell(arm, part, seed, self._finish(config, trained, smoke))

  @functools.cached_property
  def _base(self) -> Any:
    if not isinstance(self.config, str):
      return {} if self.config is None else self.config
    module, argument = load_file(self.config)
    if not hasattr(module, 'get_config'):
      raise ValueError(f"'config' is {self.config!r}, a file without get_config().")
    return module.get_config(argument) if argument else module.get_config()

  def _configs(self, arm: Overrides | Parts | SingleTask) -> Iterator[tuple[str, dict]]:
    base = to_dict(experiment.default_config()) | to_dict(self._base)
    base['tensorboard'], base['keep_checkpoints'] = False, 1
    if base['mesh'] == {'data': -1}:
      base['mesh'] = {'data': 1}  # seeds go side by side, each on one device
    if isinstance(arm, Parts):
      for part, overrides in arm.parts.items():
        yield part, override(base, overrides)
    elif isinstance(arm, SingleTask):
      config = override(base, arm.overrides)
      for task in config['tasks']:
        yield task, only_task(config, task)
    else:
      yield '', override(base, arm)

  def _finish(self, config: dict, seed: int, smoke: bool) -> dict:
    config = seeded(config, seed)
    if smoke:
      config = override(config, self.smoke)
      for field in ('log_every', 'eval_every', 'checkpoint_every', 'steps'):
        config[field] = SMOKE_STEPS
      config['stages'] = [{**stage, 'steps': 2} for stage in config['stages']]
    return config


def load_file(path: str) -> tuple[Any, str]:
  """(module, arg) of 'FILE.py' or 'FILE.py:arg'. Raises FileNotFoundError."""
  name, _, argument = path.partition('.py:')
  file = pathlib.Path(name if name.endswith('.py') else f'{name}.py')
  if not file.exists():
    raise FileNotFoundError(f'There is no file {str(file)!r}.')
  spec = importlib.util.spec_from_file_location(file.stem, file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module, argument


def override(config: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
  """The config with some fields set; dots lead into components and lists.

  Example:
    >>> override({'optimizer': {'name': 'adam', 'lr': 0.1}}, {'optimizer.lr': 0.01, 'steps': 5})
    {'optimizer': {'name': 'adam', 'lr': 0.01}, 'steps': 5}
  """
  config = copy.deepcopy(to_dict(config))
  for field, value in overrides.items():
    *parents, last = field.split('.')
    node = config
    for key in parents:
      node = node[int(key)] if isinstance(node, list) else node.setdefault(key, {})
      if not isinstance(node, (dict, list)):
        raise ValueError(f"The override '{field}' leads into {key!r}, which is {node!r} and has no fields.")
    node[int(last) if isinstance(node, list) else last] = to_dict(value)
  return config


def only_task(config: Mapping[str, Any], task: str) -> dict[str, Any]:
  """The config for one task alone; see `single_task`. Raises ValueError where that is not defined."""
  config = copy.deepcopy(to_dict(config))
  if any('data' in stage for stage in config.get('stages', ())):
    raise ValueError('single_task() does not know what a stage with data of its own means for one task: write the arm '
                     'as Parts({task: overrides}).')
  spec, data = config['tasks'][task], configure.complete(config['data'])
  stream = spec.get('stream') or (task if task in data['streams'] else next(iter(data['streams'])))
  own = config['data'] if 'streams' not in config['data'] else config['data']['streams'][stream]
  if 'streams' in config['data']:
    rows = data['streams'][stream]['batch_size']
    config['data'] = {**config['data'], 'streams': {stream: {**own, 'batch_size': rows}}}
    own = config['data']['streams'][stream]
  if 'mixture' in own:
    source = spec.get('rows', task)
    if source not in own['mixture']:
      raise ValueError(f"single_task() needs to know which rows of the mixture '{stream}' task '{task}' reads: give it "
                       f'rows=. Known: {", ".join(own["mixture"])}.')
    sampler = experiment.build(config).streams[stream].sampler
    share = sampler.slots[list(own['mixture']).index(source)] / sampler.slots.sum()
    own['batch_size'] = max(1, round(float(share) * data['streams'][stream]['batch_size']))
    own['mixture'] = {source: {key: value for key, value in own['mixture'][source].items() if key != 'weight'}}
    spec['rows'] = source
  config['stages'] = [{**{k: v for k, v in stage.items() if k not in ('aggregator', 'gradients')},
                       **({'weights': {k: v for k, v in stage['weights'].items() if k == task}}
                          if 'weights' in stage else {})} for stage in config.get('stages', ())]
  best = config.get('best', {})
  if best.get('metric', 'eval/loss') != 'eval/loss' and not best['metric'].startswith(f'eval/{task}/'):
    config['best'] = {'metric': 'eval/loss', 'mode': 'min'}
  return {**config, 'tasks': {task: spec}, 'aggregator': {}, 'gradients': {}}


def group_key(config: Mapping[str, Any]) -> str:
  """What the configs of runs have in common that can be trained together."""
  return json.dumps(seeded(config, 0), sort_keys=True, default=list)
