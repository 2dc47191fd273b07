"""`config.aggregator`, `config.sharpness` and `config.gradients` -> the gradient engine.

Which fields there are, `mtjax.experiment.default_config` says.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mtjax import optim
from mtjax.config import Registry, check_keys, keywords
from mtjax.training.engine.options import Options
from mtjax.training.gradients import Engine, losses_and_grads

AGGREGATORS = Registry('aggregator', {name: f'mtjax.optim:{name}' for name in (
  # by the Gramian or the stacked gradients
  'aligned_mtl', 'cagrad', 'config', 'cr_mogm', 'db_mtl', 'dualproj', 'excess_mtl', 'fairgrad', 'graddrop', 'gradvac',
  'imtl_g', 'krum', 'm_config', 'mgda', 'mgda_ub', 'moco', 'modo', 'nash_mtl', 'pcd', 'pcgrad', 'rotograd', 'sdmgrad',
  'trimmed_mean', 'upgrad',
  # by the losses
  'coba', 'cosmos', 'dwa', 'ew', 'famo', 'geometric', 'gls', 'gradnorm', 'imtl_l', 'linear_scalarisation', 'pbi', 'rlw',
  'scale_invariant', 'self_paced', 'si', 'stch', 'tchebycheff', 'uncertainty', 'unmixed', 'uw')})
SHARPNESS = Registry('sharpness', {name: f'mtjax.optim:{name}' for name in (
  'asam', 'fsam', 'ftl', 'gsam', 'looksam', 'sam')})


def make_engine(objective: Any, aggregator: dict[str, Any], sharpness: dict[str, Any], gradients: dict[str, Any], *,
                trainable: Mapping[str, bool], weights: Any, schedule: Callable, steps_per_epoch: int) -> Engine | None:
  """The gradient engine of a stage; None where the loss is a plain weighted sum.

  Args:
    objective: with `tasks`.
    aggregator, sharpness, gradients: the config's fields of these names.
    trainable: {path: bool}.
    weights: [T], factors of the losses.
    schedule: the learning rate as a function of the step.
    steps_per_epoch: of the longest stream.
  """
  check_keys(gradients, Options.__dataclass_fields__, 'gradients')
  options = Options(**{name: tuple(value) if isinstance(value, list) else value for name, value in gradients.items()})
  method = dict(aggregator)
  if not method:
    if sharpness.get('name') == 'ftl':
      raise ValueError("'sharpness' is ftl, which aggregates; name an 'aggregator', e.g. dict(name='pcgrad').")
    needless = [name for name in gradients if name not in ('accumulate', 'chunk', 'max_bad')]
    if needless:
      raise ValueError(f"'gradients.{needless[0]}' says how task gradients are resolved, but no 'aggregator' is given.")
    if not sharpness:
      return None
    method = {'name': 'linear_scalarisation'}
  aggregator = _aggregator(method, 'aggregator', list(objective.tasks), steps_per_epoch)
  if 'at' not in gradients:
    options = dataclasses.replace(options, at=aggregator.at)
  return losses_and_grads(objective, aggregator, trainable=trainable, task_weights=weights, options=options,
                          sharpness=_sharpness(sharpness, aggregator, len(weights), schedule))


def _sharpness(spec: Mapping[str, Any], aggregator: optim.Aggregator, num_tasks: int, schedule: Callable) -> Any:
  """A sharpness-aware transform by config; None where there is none."""
  if not spec:
    return None
  if spec.get('name') == 'ftl':
    return SHARPNESS.build(spec, 'sharpness', aggregator=aggregator, num_tasks=num_tasks)
  follow = 'learning_rate' in (keywords(SHARPNESS.lookup(spec.get('name'))) or ()) and 'rho_max' in spec
  return SHARPNESS.build(spec, 'sharpness', **({'learning_rate': schedule} if follow else {}))


def _aggregator(method: Mapping[str, Any], where: str, tasks: Sequence[str], steps_per_epoch: int) -> optim.Aggregator:
  """A method by config; it may wrap another one, and its preferences may go by the names of the tasks."""
  method = dict(method)
  for field in ('preference', 'weights', 'sampling'):
    if isinstance(method.get(field), dict):
      check_keys(method[field], tasks, f'{where}.{field}')
      missing = [name for name in tasks if name not in method[field]]
      if missing:
        raise ValueError(f"'{where}.{field}' has no entry for task {missing[0]!r}. Tasks: {', '.join(tasks)}.")
      method[field] = [method[field][name] for name in tasks]
    if isinstance(method.get(field), list) and len(method[field]) != len(tasks):
      raise ValueError(f"'{where}.{field}' has {len(method[field])} entries, but there are {len(tasks)} tasks: "
                       f'{", ".join(tasks)}.')
  inner = method.pop('aggregator', None)
  context = {} if inner is None else {
    'aggregator': _aggregator(inner, f'{where}.aggregator', tasks, steps_per_epoch)}
  accepted = keywords(AGGREGATORS.lookup(method.get('name'))) or ()
  if 'steps_per_epoch' in accepted:
    method.setdefault('steps_per_epoch', steps_per_epoch)
  return AGGREGATORS.build(method, where, **context)
