"""Trains arms: one compiled program a method and bed, whatever the learning rate, the loss weights and the seed.

A rule says how one step is made: `rule(problem) -> (init, step)`,

    init(params, batch) -> state
    step(params, state, inputs) -> (params, state, losses [T])

and a `Trainer` puts the whole training, `lax.scan` over steps, under one `jax.jit`. Runs of the same seed share
initialisation and data order, whatever the rule. Runs are lanes of a vmap; on a CPU there is one lane, since batched
matrix products are slower there than one run after another, and under vmap `lax.cond` pays for both branches.
"""
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.studies.beds.base import Bed, as_batch
from mtjax.objective import Objective, stream_key

EVALUATED = 5_000  # rows at a time
WATCH_EVERY = 10


class Setting(NamedTuple):
  """What one run is trained with.

  Attributes:
    learning_rate: of Adam at the first step.
    weights: [T], factors of the losses.
    seed: of initialisation, order and draws.
  """

  learning_rate: float
  weights: tuple[float, ...]
  seed: int


class Inputs(NamedTuple):
  """What a rule sees of one step.

  Attributes:
    batch: of the training split.
    validation: of the validation split; None where the trainer was not asked for it.
    rng: of the run.
    step: int32.
    epoch_end: bool.
  """

  batch: Any
  validation: Any
  rng: jax.Array
  step: jax.Array
  epoch_end: jax.Array


@dataclasses.dataclass(frozen=True)
class Problem:
  """What a rule is made for.

  Attributes:
    bed: the test bed.
    objective: the losses of all its tasks, or of some.
    weights: [T], factors of the losses.
    schedule: the learning rate by step.
  """

  bed: Bed
  objective: Objective
  weights: jax.Array
  schedule: Callable[[Any], Any]

  @property
  def num_tasks(self) -> int:
    """T."""
    return len(self.objective.tasks)

  def losses(self, params: Any, inputs: Inputs) -> jax.Array:
    """The weighted losses of the step's batch, [T]."""
    return self.weights * self.objective(params, inputs.batch, inputs.rng, inputs.step).values


Rule = Callable[[Problem], tuple[Callable, Callable]]


class Result(NamedTuple):
  """What one run gave.

  Attributes:
    metrics: {split: {task: {metric: value}}}.
    losses: {task: training loss}, mean over the last epoch.
    extra: what `watch` and `measure` gave.
  """

  metrics: dict[str, dict[str, dict[str, float]]]
  losses: dict[str, float]
  extra: dict[str, float]


class Trainer:
  """Trains and evaluates runs of one rule on one bed: `trainer(settings) -> results`.

  Args:
    bed: where.
    rule: how a step is made.
    tasks: the names of those that are trained; None = all.
    validation: whether the rule looks at a batch of the validation split too.
    splits: what is evaluated after the last step.
    watch: (problem, params, inputs) -> {name: scalar} before every tenth step; the means are reported.
    measure: (problem, params, {split: batch}) -> {name: scalar} after the last step.
    lanes: runs at a time; None = 1 on a CPU, 32 elsewhere.
  """

  def __init__(self, bed: Bed, rule: Rule, *, tasks: Sequence[str] | None = None,
               validation: bool = False, splits: Sequence[str] = ('validation', 'test'),
               watch: Callable | None = None, measure: Callable | None = None, lanes: int | None = None):
    self.bed, self.objective = bed, bed.objective_of(tuple(tasks or bed.tasks))
    self._rule, self._validation, self._splits = rule, validation, tuple(splits)
    self._watch, self._measure = watch or (lambda *_: {}), measure or (lambda *_: {})
    self._lanes = lanes or (1 if jax.default_backend() == 'cpu' else 32)
    self._data = {split: {name: jnp.asarray(x) for name, x in columns.items()} for split, columns in bed.splits.items()}
    self._run = jax.jit(self._one if self._lanes == 1 else jax.vmap(self._one, (None, 0, 0, 0, 0, 0)))

  def __call__(self, settings: Sequence[Setting]) -> list[Result]:
    """The results in the order of the settings."""
    found = []
    for start in range(0, len(settings), self._lanes):
      own = list(settings[start:start + self._lanes])
      arguments = [self._arguments(setting) for setting in own + own[-1:] * (self._lanes - len(own))]
      if self._lanes == 1:
        found.append(self._result(*jax.device_get(self._run(self._data, *arguments[0]))))
        continue
      outputs = jax.device_get(self._run(self._data, *(np.stack(column) for column in zip(*arguments))))
      found.extend(self._result(*jax.tree.map(lambda x, i=i: x[i], outputs)) for i in range(len(own)))
    return found

  @property
  def num_compiled(self) -> int:
    """How many programs were compiled."""
    return self._run._cache_size()

  def _arguments(self, setting: Setting) -> list[np.ndarray]:
    order = self.bed.order(setting.seed)
    held_out = self.bed.order(setting.seed, 'validation') if self._validation else np.zeros((len(order), 0), np.int32)
    return [np.float32(setting.learning_rate), np.asarray(setting.weights, np.float32), np.int32(setting.seed), order,
            held_out]

  def _one(self, data, learning_rate, weights, seed, order, held_out):
    """One run: outputs of the heads {split: {task: [N, …]}}, losses of the last epoch [T], what was measured."""
    rng, steps = jax.random.key(seed), len(order)
    problem = Problem(self.bed, self.objective, weights, schedule(learning_rate, steps, self.bed.decay))
    init, step = self._rule(problem)
    batch = functools.partial(take, data, self.objective)
    params = self.objective.init(stream_key(rng, 'params'), batch('train', order[0]))

    def body(carry, xs):
      params, state = carry
      rows, held_rows, now = xs
      inputs = Inputs(batch('train', rows), batch('validation', held_rows) if self._validation else None,
                      stream_key(rng, 'train'), now, (now + 1) % self.bed.steps_per_epoch == 0)
      watched = jax.eval_shape(lambda: self._watch(problem, params, inputs))
      seen = jax.lax.cond(now % WATCH_EVERY == 0, lambda: self._watch(problem, params, inputs),
                          lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), watched))
      params, state, losses = step(params, state, inputs)
      return (params, state), (losses, seen)

    now = jnp.arange(steps, dtype=jnp.int32)
    (params, _), (losses, seen) = jax.lax.scan(body, (params, init(params, batch('train', order[0]))),
                                               (order, held_out, now))
    extra = jax.tree.map(lambda x: x.sum() / -(-steps // WATCH_EVERY), seen)
    whole = {split: as_batch(columns, self.objective.tasks) for split, columns in data.items()}
    extra |= self._measure(problem, params, whole)
    outputs = {split: evaluate(self.objective, params, data[split]) for split in self._splits}
    return outputs, losses[-min(self.bed.steps_per_epoch, steps):].mean(0), extra

  def _result(self, outputs, losses, extra) -> Result:
    metrics = {split: score(self.objective, found, self.bed.splits[split]) for split, found in outputs.items()}
    return Result(metrics, dict(zip(self.objective.tasks, losses.tolist())),
                  {name: float(value) for name, value in extra.items()})


def schedule(learning_rate: Any, steps: int, decay: str) -> Callable[[Any], Any]:
  """The learning rate by step: 'cosine' from the given one to 0, or 'constant'."""
  if decay == 'constant':
    return lambda count: learning_rate
  if decay != 'cosine':
    raise ValueError(f"decay must be 'cosine' or 'constant', got {decay!r}.")
  return lambda count: learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * count / steps))


def take(data: Mapping[str, Any], objective: Objective, split: str, rows: jax.Array) -> Any:
  """Some rows of a split, as a batch."""
  return as_batch({name: x[rows] for name, x in data[split].items()}, objective.tasks)


def evaluate(objective: Objective, params: Any, columns: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """{task: outputs of its head [N, …]} over a whole split."""
  num = len(next(iter(columns.values())))
  parts = [objective.outputs(params, as_batch({name: x[i:i + EVALUATED] for name, x in columns.items()},
                                              objective.tasks)) for i in range(0, num, EVALUATED)]
  return {name: jnp.concatenate([part[name] for part in parts]) for name in objective.tasks}


def score(objective: Objective, outputs: Mapping[str, np.ndarray], columns: Mapping[str, np.ndarray]):
  """{task: {metric: value}}; NaN where outputs are not finite."""
  found = {}
  for name, task in objective.tasks.items():
    label, y = columns[task.label], outputs[name]
    if not np.isfinite(y).all():
      found[name] = dict.fromkeys(task.metrics.names, float('nan'))
      continue
    view = {'label': label, 'mask': np.ones(len(label), bool)}
    found[name] = task.metrics.compute(task.metrics.update(task.metrics.init(), y, view))
  return found


def primary(bed: Bed) -> list[tuple[str, str, bool]]:
  """(task, its primary metric, whether more of it is better) of each task."""
  specs = {name: task.metrics.specs[0] for name, task in bed.tasks.items()}
  return [(name, spec.name, spec.higher_is_better) for name, spec in specs.items()]


def primary_values(bed: Bed, results: Sequence[Result], split: str) -> np.ndarray:
  """The primary metrics of runs, [S, T]."""
  return np.array([[result.metrics[split][task][metric] for task, metric, _ in primary(bed)] for result in results])


def time_ratio(bed: Bed, rule: Rule, plain: Rule, *, validation: bool = False, steps: int = 16,
               rounds: int = 9) -> dict[str, Any]:
  """What a step costs, beside the plain step of the same process; optimizer included, one run.

  Each program makes `steps` steps in one call (so that what is done every eighth step counts for an eighth). The two
  alternate, each called once untimed and then timed; the ratio is the median over rounds.
  """
  programs = {name: _program(bed, own, validation and name == 'rule', steps)
              for name, own in {'plain': plain, 'rule': rule}.items()}
  times: dict[str, list[float]] = {name: [] for name in programs}
  for _ in range(rounds):
    for name, (program, arguments) in programs.items():
      jax.block_until_ready(program(*arguments))
      start = time.perf_counter()
      jax.block_until_ready(program(*arguments))
      times[name].append((time.perf_counter() - start) / steps)
  ratios = [own / base for own, base in zip(times['rule'], times['plain'])]
  return {'time_ratio': statistics.median(ratios), 'range': [min(ratios), max(ratios)], 'rounds': rounds,
          'step_ms': 1e3 * statistics.median(times['rule']), 'plain_step_ms': 1e3 * statistics.median(times['plain'])}


def _program(bed: Bed, rule: Rule, validation: bool, steps: int):
  """(compiled program of some steps, its arguments)."""
  order, rng = bed.order(0, steps=steps), jax.random.key(0)
  problem = Problem(bed, bed.objective, jnp.ones(bed.num_tasks), schedule(1e-3, bed.steps, bed.decay))
  init, step = rule(problem)
  held_out = bed.order(0, 'validation', steps) if validation else np.zeros((steps, 0), np.int32)
  used = ('train', 'validation') if validation else ('train',)
  data = {split: {name: jnp.asarray(x) for name, x in bed.splits[split].items()} for split in used}
  first = take(data, bed.objective, 'train', order[0])
  params = bed.objective.init(rng, first)

  def run(data, params, state, order, held_out):
    def body(carry, xs):
      rows, held_rows, now = xs
      inputs = Inputs(take(data, bed.objective, 'train', rows),
                      take(data, bed.objective, 'validation', held_rows) if validation else None, rng, now,
                      (now + 1) % bed.steps_per_epoch == 0)
      params, state, losses = step(*carry, inputs)
      return (params, state), losses

    return jax.lax.scan(body, (params, state), (order, held_out, jnp.arange(steps, dtype=jnp.int32)))

  arguments = data, params, init(params, first), jnp.asarray(order), jnp.asarray(held_out)
  return jax.jit(run).lower(*arguments).compile(), arguments
