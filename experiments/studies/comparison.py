"""Trains the arms of a comparison on a bed and gathers one result: quality with intervals, cost beside it.

Every arm: Adam with cosine decay to 0 at the same number of steps, the same initialisation and data order per seed,
the learning rate chosen from the bed's grid by delta_m on validation (mean over seeds; some beds tune on one seed), the
last step evaluated on the test split. delta_m is the mean over tasks of the percentage by which the primary metric is
worse than that of single-task training with the same encoder, budget and tuning, paired by seed: lower is better. An
arm with `draws` tries, at the learning rate so chosen, so many random weights from the simplex per learning rate.
Cost: time of a step as a ratio to the plain step (gradient of the sum, Adam) in the same process, alternating rounds.

It resumes: an arm that finished is not trained again.
"""
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.studies import beds, cells, harness, rules, stats
from experiments.studies.arms import Arm
from experiments.studies.beds.base import Bed
from experiments.studies.cells import Study
from experiments.studies.harness import Setting, Trainer
from mtjax.config import did_you_mean


@dataclasses.dataclass(frozen=True)
class Plan:
  """How arms are trained.

  Attributes:
    seeds: all of them.
    tune_seeds: those that choose the learning rate.
    learning_rates: the grid.
  """

  seeds: tuple[int, ...]
  tune_seeds: tuple[int, ...]
  learning_rates: tuple[float, ...]

  @classmethod
  def of(cls, bed: Bed) -> 'Plan':
    """That of a bed."""
    seeds = tuple(range(bed.seeds))
    return cls(seeds, seeds[:bed.tune_seeds], bed.learning_rates)

  def settings(self, bed: Bed) -> dict:
    """What a cell depends on."""
    return {'bed': bed.name, 'steps': bed.steps, 'batch_size': bed.batch_size, **dataclasses.asdict(self)}


def at_edge(learning_rate: float, plan: Plan) -> bool:
  """Whether the best of a grid is its first or last."""
  return len(plan.learning_rates) > 1 and learning_rate in (plan.learning_rates[0], plan.learning_rates[-1])


def ones(bed: Bed) -> tuple[float, ...]:
  """Equal weights."""
  return (1.0,) * bed.num_tasks


def simplex_draws(bed: Bed, count: int) -> list[tuple[float, ...]]:
  """Weights from the uniform distribution on the simplex, times T; the first of many are those of few."""
  draws = np.random.RandomState(0).dirichlet(np.ones(bed.num_tasks), count) * bed.num_tasks
  return [tuple(np.round(w, 6).tolist()) for w in draws]


def single_task(bed: Bed, plan: Plan) -> dict:
  """{'validation' | 'test': values [S, T]} of single-task training, each task with its own learning rate."""
  chosen, values, edge = {}, {'validation': [], 'test': []}, {}
  for task, metric, higher in harness.primary(bed):
    trainer = Trainer(bed, rules.plain, tasks=[task])
    read = lambda results, split, task=task, metric=metric: [r.metrics[split][task][metric] for r in results]
    found = {lr: trainer([Setting(lr, (1.0,), seed) for seed in plan.tune_seeds]) for lr in plan.learning_rates}
    means = {lr: np.mean(read(results, 'validation')) * (-1 if higher else 1) for lr, results in found.items()}
    best = min(means, key=lambda lr: means[lr] if np.isfinite(means[lr]) else np.inf)
    rest = trainer([Setting(best, (1.0,), seed) for seed in plan.seeds[len(plan.tune_seeds):]])
    for split in values:
      values[split].append(read([*found[best], *rest], split))
    chosen[task], edge[task] = best, at_edge(best, plan)
    print(f'  single task {task}: learning rate {best:g}, test {metric} {np.mean(values["test"][-1]):.4f}', flush=True)
  return {'learning_rate': chosen, 'at_edge': edge,
          **{split: np.array(columns).T.tolist() for split, columns in values.items()}}


def train_arm(bed: Bed, arm: Arm, plan: Plan, baseline: dict) -> dict:
  """Tunes on validation, trains all seeds with what was chosen, measures the cost."""
  trainer = Trainer(bed, arm.rule, validation=arm.validation, watch=arm.watch)
  higher = [more for _, _, more in harness.primary(bed)]
  tuned = len(plan.tune_seeds)
  trials = []

  def attempt(learning_rate, weights):
    results = trainer([Setting(learning_rate, weights, seed) for seed in plan.tune_seeds])
    deltas = stats.delta_m(harness.primary_values(bed, results, 'validation'), baseline['validation'][:tuned], higher)
    mean = float(deltas.mean())
    trials.append({'learning_rate': learning_rate, 'weights': weights, 'validation_delta_m': mean, 'results': results})

  def best():
    return min(trials, key=lambda t: t['validation_delta_m'] if np.isfinite(t['validation_delta_m']) else np.inf)

  for learning_rate in plan.learning_rates:
    attempt(learning_rate, ones(bed))
  learning_rate = best()['learning_rate']
  for weights in simplex_draws(bed, arm.draws * len(plan.learning_rates)):
    attempt(learning_rate, weights)
  chosen = best()
  rest = [Setting(chosen['learning_rate'], chosen['weights'], seed) for seed in plan.seeds[tuned:]]
  results = [*chosen['results'], *trainer(rest)]
  if not np.isfinite(harness.primary_values(bed, results, 'test')).all():
    raise FloatingPointError('Training diverged at the chosen learning rate, in some seed.')
  test = {task: {metric: [r.metrics['test'][task][metric] for r in results] for metric in metrics}
          for task, metrics in results[0].metrics['test'].items()}
  return {
    'learning_rate': learning_rate, 'weights': chosen['weights'],
    'at_edge': at_edge(learning_rate, plan),
    'trials': [{key: value for key, value in trial.items() if key != 'results'} for trial in trials], 'test': test,
    'primary': harness.primary_values(bed, results, 'test').tolist(), 'training_losses': [r.losses for r in results],
    'programs_compiled': trainer.num_compiled,
    'watched': {name: [r.extra[name] for r in results] for name in results[0].extra},
    'cost': harness.time_ratio(bed, arm.rule, rules.plain, validation=arm.validation)}


def collect(study: Study, bed: Bed, plan: Plan, arms: Mapping[str, Arm], single: dict, found: dict[str, dict]) -> dict:
  """The result of a bed: statistics over the cells of its arms."""
  tasks = harness.primary(bed)
  higher = [more for _, _, more in tasks]
  finished = {name: cell for name, cell in found.items() if cell['status'] == 'finished'}
  changes = {name: stats.change(cell['primary'], single['test'], higher) for name, cell in finished.items()}
  deltas = {name: change.mean(1) for name, change in changes.items()}
  versus = {name: compared(name, arms[name], deltas) for name in finished}
  roles = {role for entries in versus.values() for role in entries}
  adjusted = {role: stats.holm({name: entries[role]['p'] for name, entries in versus.items() if role in entries})
              for role in roles}
  entries = {}
  for name, cell in found.items():
    entry = entries[name] = {'status': cell['status'], 'kind': arms[name].kind, 'commit': cell['commit']}
    if cell['status'] != 'finished':
      entry['error'] = cell['error']
      continue
    entry |= {key: cell[key] for key in ('learning_rate', 'weights', 'at_edge', 'cost', 'programs_compiled')}
    entry['validation_delta_m'] = {f'{t["learning_rate"]:g}': round(t['validation_delta_m'], 3)
                                   for t in cell['trials'][:len(plan.learning_rates)]}
    entry['test'] = {task: {metric: stats.summary(values) for metric, values in metrics.items()}
                     for task, metrics in cell['test'].items()}
    entry['watched'] = {metric: stats.summary(values) for metric, values in cell.get('watched', {}).items()}
    entry['delta_m'] = stats.summary(deltas[name])
    entry['iqm'] = stats.middle(changes[name])
    entry['versus'] = {role: {**pair, 'p_holm': adjusted[role][name],
                              'verdict': stats.verdict(pair, adjusted[role][name]),
                              'holds': stats.holds(pair, adjusted[role][name], arms[name].claims.get(role, 'better'))}
                       for role, pair in versus[name].items()}
  return {
    **study.provenance(len(plan.seeds)), 'claim': study.claim, 'bed': bed.name,
    'settings': {
      **plan.settings(bed), 'epochs': bed.steps / bed.steps_per_epoch,
      'optimizer': 'Adam, cosine decay to 0' if bed.decay == 'cosine' else 'Adam, constant learning rate',
      'selection': f'learning rate by delta_m on validation, mean over {len(plan.tune_seeds)} seed(s); last step; '
                   'the test split chooses nothing',
      'delta_m': 'mean over tasks of 100 (-1)^higher (M - S) / |S| of the primary metrics, paired by seed with '
                 'single-task training S; lower is better. One metric a task, so both conventions agree.',
      'intervals': '95 %: Student t over seeds for means and paired differences, stratified bootstrap, '
                   'expanded, for the interquartile mean over seeds and tasks',
      'p': 'paired t-test over seeds, Holm over the arms of the bed; p_sign_flip is the exact sign-flip test, not '
           'adjusted',
      'cost': 'time of a step over the time of the plain step, median of alternating rounds, one run, one process',
      'note': bed.note},
    'tasks': {task: {'metric': metric, 'higher_is_better': more} for task, metric, more in tasks},
    'single_task': {'learning_rate': single['learning_rate'], 'at_edge': single['at_edge'],
                    'test': {task: stats.summary(np.array(single['test'])[:, t]) for t, (task, _, _) in
                             enumerate(tasks)}},
    'arms': entries}


def compared(name: str, arm: Arm, deltas: Mapping[str, np.ndarray]) -> dict[str, dict]:
  """{role: the paired comparison of delta_m with the reference arm in this role, and its name}."""
  return {role: {'with': other, **stats.paired(deltas[name], deltas[other])} for role, other in arm.versus.items()
          if other in deltas and other != name}


def run(study: Study, bed: Bed, arms: Mapping[str, Arm], names: Sequence[str]) -> dict:
  """All cells that are missing, and the result of the bed."""
  plan = Plan.of(bed)
  settings = plan.settings(bed)
  single = study.cell(f'single_task/{bed.name}.json', settings, lambda: single_task(bed, plan))
  if single['status'] != 'finished':
    raise RuntimeError(f'Single-task training on {bed.name} failed: {single["error"]}')
  found, own = {}, {**settings, 'single_task': single['learning_rate']}
  for i, name in enumerate(names):
    cell = study.cell(f'{study.name}/{bed.name}/{cells.file_name(name)}', own,
                      functools.partial(train_arm, bed, arms[name], plan, single))
    found[name] = cell
    text = cell.get('error') or (f'learning rate {cell["learning_rate"]:g}, cost {cell["cost"]["time_ratio"]:.2f}, '
                                 f'delta_m {delta_of(bed, cell, single):+.2f} %')
    print(f'{bed.name} {i + 1}/{len(names)} {name}: {text} ({cell["seconds"]} s)', flush=True)
  return collect(study, bed, plan, arms, single, found)


def delta_of(bed: Bed, cell: dict, single: dict) -> float:
  """Mean delta_m of a cell on the test split."""
  higher = [more for _, _, more in harness.primary(bed)]
  return float(stats.delta_m(cell['primary'], single['test'], higher).mean())


def main(name: str, claim: str, doc: str, arms_of: Callable[[Bed], Mapping[str, Arm]], known: Sequence[str],
         argv: Sequence[str] | None = None) -> None:
  """The command line of a comparison.

  Args:
    name: of the study's module.
    claim: what it tests, in words.
    doc: its help.
    arms_of: bed -> {name: arm}.
    known: the beds it can be run on.
    argv: the arguments; None = those of the process.
  """
  def add(parser):
    parser.add_argument('--bed', required=True, choices=known, help='the bed')
    parser.add_argument('--methods', default='', help='only these arms, separated by semicolons; all by default')

  study, options = Study.parse(name, claim, doc, add, argv)
  bed = study.bed(beds.load(options.bed))
  arms = arms_of(bed)
  names = [method.strip() for method in options.methods.split(';') if method.strip()] or list(arms)
  for method in names:
    if method not in arms:
      raise ValueError(f'{bed.name} has no arm {method!r}. {did_you_mean(method, arms)}')
  print(study.write(f'{name}/{bed.name}.json', run(study, bed, arms, names)))
