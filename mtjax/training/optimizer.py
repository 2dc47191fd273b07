"""Optimizers by config: any optax optimizer by name, a schedule, clipping, weight decay by path patterns.

  config.optimizer = dict(name='adamw', lr=1e-3, schedule=dict(name='cosine', warmup_steps=500), clip_norm=1.0,
                          weight_decay=1e-2, decay=[r'kernel$'], b2=0.98)
"""
import inspect
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import optax

from mtjax import optim, tree
from mtjax.config import Registry, check_keys, did_you_mean, keywords, to_dict

SCHEDULES = ('constant', 'linear', 'cosine', 'exponential', 'inverse_sqrt', 'piecewise')
_ARGUMENT_OF_PARAMS = ('mask', 'learning_rate', 'weight_decay')


def make_schedule(lr: float, steps: int, *, name: str = 'constant', warmup_steps: float = 0, final: float = 0.0,
                  rate: float | None = None, boundaries: Mapping[str, float] | None = None) -> optax.Schedule:
  """The learning rate as a function of the step, after a linear warm-up from 0.

  Args:
    lr: the peak.
    steps: length of the stage; the decay ends there.
    name: 'constant', 'linear' or 'cosine' (from the peak to `final` * lr), 'exponential' (to `rate` * lr at the end),
      'inverse_sqrt' (lr * sqrt(warmup / step)), 'piecewise' (times each factor of `boundaries` from that step on).
    warmup_steps: steps of the warm-up, 0 <= warmup_steps < steps; a fraction below 1 is a share of `steps`, so that it
      follows when they are changed.
    final: for 'linear' and 'cosine'.
    rate: for 'exponential', > 0.
    boundaries: for 'piecewise', {step: factor}.
  """
  if name not in SCHEDULES:
    raise ValueError(f"Unknown schedule {name!r} in 'optimizer.schedule'. {did_you_mean(name, SCHEDULES)}")
  if 0 < warmup_steps < 1:
    warmup_steps = min(round(warmup_steps * steps), steps - 1)
  if not 0 <= warmup_steps < steps or warmup_steps != int(warmup_steps):
    raise ValueError(f"'optimizer.schedule.warmup_steps' must be in 0 … steps - 1 = {steps - 1} (or a share "
                     f'of the steps, below 1), got {warmup_steps}.')
  rest = steps - warmup_steps
  if name == 'linear':
    decay = optax.linear_schedule(lr, final * lr, rest)
  elif name == 'cosine':
    decay = optax.cosine_decay_schedule(lr, rest, alpha=final)
  elif name == 'exponential':
    if rate is None or rate <= 0:
      raise ValueError(f"'optimizer.schedule.rate' must be > 0, got {rate}.")
    decay = optax.exponential_decay(lr, rest, rate)
  elif name == 'inverse_sqrt':
    start = max(warmup_steps, 1)
    decay = lambda step: lr * (start / (start + jnp.maximum(step, 0))) ** 0.5  # it is called before its time, too
  elif name == 'piecewise':
    if not boundaries:
      raise ValueError("'optimizer.schedule.boundaries' must name at least one step, e.g. {'1000': 0.1}.")
    decay = optax.piecewise_constant_schedule(lr, {int(k) - warmup_steps: v for k, v in boundaries.items()})
  else:
    decay = optax.constant_schedule(lr)
  if not warmup_steps:
    return decay
  return optax.join_schedules([optax.linear_schedule(0.0, lr, warmup_steps), decay], [warmup_steps])


def make_optimizer(spec: Any, params: tree.Tree, steps: int) -> tuple[optax.GradientTransformation, optax.Schedule]:
  """Config -> (optax transform, learning rate as a function of the step).

  Args:
    spec: dict(name, lr, schedule?, clip_norm?, weight_decay?, decay?, **arguments of the optax optimizer).
      name: any function of optax that takes a learning rate ('adamw', 'sgd', 'lion', 'optax.contrib:muon', …), 'tbgn'
        (`mtjax.optim.tbgn`, for one task a step), or 'package.module:function'.
      weight_decay: decoupled decay, >= 0, of the parameters whose path `decay` matches (default: all that end in
        'kernel' or 'embedding'). Optimizers that know no decay of their own ('sgd') get it added before them.
      clip_norm: bound on the global norm of the gradient.
    params: the trainable parameters.
    steps: length of the stage.
  """
  spec = to_dict(spec)
  name, lr = spec.pop('name', None), spec.pop('lr', None)
  factory = _lookup(name)
  if not isinstance(lr, (int, float)) or not lr > 0:
    raise ValueError(f"'optimizer.lr' must be a number > 0, got {lr!r}.")
  schedule_spec = spec.pop('schedule', {'name': 'constant'})
  if isinstance(schedule_spec, str):
    schedule_spec = {'name': schedule_spec}
  check_keys(schedule_spec, ('name', 'warmup_steps', 'final', 'rate', 'boundaries'), 'optimizer.schedule')
  schedule = make_schedule(lr, steps, **schedule_spec)
  clip_norm, weight_decay = spec.pop('clip_norm', None), spec.pop('weight_decay', None)
  decay = spec.pop('decay', None)
  accepted = keywords(factory) or []
  check_keys(spec, [key for key in accepted if key not in _ARGUMENT_OF_PARAMS]
             + ['lr', 'schedule', 'clip_norm', 'weight_decay', 'decay'], 'optimizer')

  chain = []
  if clip_norm is not None:
    if not clip_norm > 0:
      raise ValueError(f"'optimizer.clip_norm' must be > 0, got {clip_norm}. Leave it out for no clipping.")
    chain.append(optax.clip_by_global_norm(clip_norm))
  if weight_decay is not None:
    if weight_decay < 0:
      raise ValueError(f"'optimizer.weight_decay' must be >= 0, got {weight_decay}.")
    chosen = tree.select(decay, params) if decay is not None else {
      path: bool(tree.match([r'(kernel|embedding)$'], path)) for path in tree.flatten(params)}
    mask = tree.map_with_path(lambda path, _: chosen[path], params)
    if {'weight_decay', 'mask'} <= set(accepted):
      spec |= {'weight_decay': weight_decay, 'mask': mask}
    elif name == 'sgd':
      chain.append(optax.add_decayed_weights(weight_decay, mask))
    else:
      raise ValueError(f"optimizer {name!r} has no decoupled weight decay; use one that has: "
                       f'{", ".join(sorted(n for n in dir(optax) if _takes(n, "weight_decay", "mask")))}, sgd.')
  elif decay is not None:
    raise ValueError("'optimizer.decay' says which parameters decay, but 'optimizer.weight_decay' is not given.")
  elif 'weight_decay' in accepted:
    spec['weight_decay'] = 0.0  # nothing decays unless the config says so
  return optax.chain(*chain, factory(schedule, **spec)), schedule


def _lookup(name: str | None):
  if name == 'tbgn':  # the one optimizer of ours
    return optim.tbgn
  if isinstance(name, str) and ':' in name:
    return Registry('optimizer', {}).lookup(name)
  if not isinstance(name, str) or not _takes(name, 'learning_rate'):
    known = [n for n in dir(optax) if _takes(n, 'learning_rate')]
    raise ValueError(f"Unknown optimizer {name!r} in 'optimizer.name'. {did_you_mean(name, known)}")
  return getattr(optax, name)


def _takes(name: str, *arguments: str) -> bool:
  """Whether optax has an optimizer of this name whose parameters include `arguments`."""
  factory = getattr(optax, name, None)
  if name.startswith(('_', 'scale_by')) or not inspect.isfunction(factory):
    return False
  parameters = inspect.signature(factory).parameters
  return 'learning_rate' in parameters and next(iter(parameters)) == 'learning_rate' and {*arguments} <= {*parameters}
