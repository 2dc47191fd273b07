"""What the weightings share: losses made safe, a parameter per task with its own optimizer, the end of an epoch.

T tasks; `active`: [T] bool. Losses must be positive for most methods. Below FLOOR they count as FLOOR, in values and in
weights, so that a loss of 0 (or less) gives a finite update instead of NaN.
"""
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from mtjax.optim import base
from mtjax.optim._checks import check_number

FLOOR = 1e-12


def clean(losses: jax.Array, active: jax.Array) -> jax.Array:
  """Losses in float32 or more, 1 for inactive tasks (whatever stood there, also NaN).  [T]"""
  losses = jnp.asarray(losses)
  losses = losses.astype(jnp.promote_types(losses.dtype, jnp.float32))
  return jnp.where(active, losses, jnp.ones((), losses.dtype))


def losses_of(info: base.Info, name: str) -> jax.Array:
  """The cleaned losses of a step."""
  if info.losses is None:
    raise ValueError(f'{name} weighs losses: pass losses=[T] to update.')
  return clean(info.losses, info.mask)


def validation_losses_of(info: base.Info, name: str) -> tuple[jax.Array, jax.Array]:
  """(validation losses [T], which were measured [T] bool): those of active tasks that are finite; the others are 1."""
  if info.validation_losses is None:
    raise ValueError(f'{name} looks at losses on held-out batches: pass validation_losses=[T] to update (NaN for a '
                     'task without one at this step).')
  measured = info.mask & jnp.isfinite(info.validation_losses)
  return clean(info.validation_losses, measured), measured


def at_least(x: jax.Array, low: float = FLOOR) -> jax.Array:
  """max(x, low) whose gradient is 1 everywhere, so that f(at_least(x)) has the slope f'(max(x, low))."""
  return jnp.where(x < low, low + (x - jax.lax.stop_gradient(x)), x)


def weighted_sum(w: jax.Array, losses: jax.Array) -> jax.Array:
  """sum_t w_t l_t with w held constant."""
  return jnp.sum(jax.lax.stop_gradient(w) * losses)


def keep(active: jax.Array, new: Any, old: Any) -> Any:
  """`new` in the rows of active tasks, `old` in the others: trees of [T, ...], in the dtypes of `old`."""
  def pick(x, y):
    return jnp.where(active.reshape(-1, *[1] * (y.ndim - 1)), x.astype(y.dtype), y)

  return jax.tree.map(pick, new, old)


def check_vector(value: float | Sequence[float], name: str, field: str) -> float | tuple[float, ...]:
  """A finite number, or one a task."""
  if not hasattr(value, '__len__'):
    check_number(value, name, field)
    return value
  values = tuple(float(x) for x in value)
  if not values or not all(map(math.isfinite, values)):
    raise ValueError(f'{name}: {field} must be a finite number or one a task, got {value!r}.')
  return values


def vector(value: float | tuple[float, ...], num_tasks: int, name: str, field: str) -> jax.Array | float:
  """What `check_vector` let through, after checking that there is one a task."""
  if not isinstance(value, tuple):
    return value
  if len(value) != num_tasks:
    raise ValueError(f'{name}: {field} has {len(value)} entries {list(value)}, but there are {num_tasks} tasks.')
  return jnp.asarray(value)


def parameter_optimizer(learning_rate: optax.ScalarOrSchedule, optimizer: optax.GradientTransformation | None,
                        name: str, eps: float = 1e-8) -> optax.GradientTransformation:
  """Adam at `learning_rate`, or what the user gave in its place."""
  if optimizer is None:
    if not callable(learning_rate):
      check_number(learning_rate, name, 'learning_rate', 0)
    return optax.adam(learning_rate, eps=eps)
  if not (hasattr(optimizer, 'init') and hasattr(optimizer, 'update')):
    raise ValueError(f'{name}: optimizer must be an optax transform such as optax.sgd(0.1), got {optimizer!r}.')
  return optimizer


def init_each(optimizer: optax.GradientTransformation, parameter: jax.Array) -> Any:
  """The state of `optimizer`, one for each entry of a vector [T]: tasks that rest keep theirs, with its step count."""
  return jax.vmap(optimizer.init)(parameter)


def train_each(optimizer: optax.GradientTransformation, gradient: jax.Array, opt_state: Any, parameter: jax.Array,
               active: jax.Array) -> tuple[jax.Array, Any]:
  """One step of the entries of active tasks: (parameter [T], opt_state)."""
  gradient = jnp.where(active, gradient, 0).astype(parameter.dtype)
  updates, new = jax.vmap(optimizer.update)(gradient, opt_state, parameter)
  return keep(active, optax.apply_updates(parameter, updates), parameter), keep(active, new, opt_state)


def check_epochs(steps_per_epoch: int | None, name: str) -> None:
  """Raises ValueError unless it is None or a positive whole number."""
  if steps_per_epoch is not None and not (isinstance(steps_per_epoch, int) and steps_per_epoch >= 1):
    raise ValueError(f'{name}: steps_per_epoch must be a whole number >= 1 or None, got {steps_per_epoch!r}.')


def ends_epoch(info: base.Info, step: jax.Array, steps_per_epoch: int | None, name: str) -> jax.Array:
  """Whether this step (the first is 0) is the last one of its epoch."""
  if steps_per_epoch is not None:
    return (step + 1) % steps_per_epoch == 0
  if info.epoch_end is None:
    raise ValueError(f'{name} goes by epochs: give steps_per_epoch, or pass epoch_end to update (True at the last step '
                     'of an epoch).')
  return jnp.asarray(info.epoch_end, bool)
