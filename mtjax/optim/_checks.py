"""Checks of hyper-parameters and of stacked gradients: what came, what is needed, what to do."""
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.config import did_you_mean


def check_preference(preference: Sequence[float] | None, name: str, num_tasks: int | None = None,
                     field: str = 'preference') -> tuple | None:
  """A preference (or what `field` is) per task as a tuple of floats.

  Raises ValueError when negative, not finite, all zero or not T long.
  """
  if preference is None:
    return None
  values = tuple(float(value) for value in preference)
  if not values or any(not math.isfinite(v) or v < 0 for v in values) or not any(values):
    raise ValueError(f'{name}: {field} must hold finite numbers >= 0, not all 0, got {list(values)}.')
  if num_tasks is not None and len(values) != num_tasks:
    raise ValueError(f'{name}: {field} has {len(values)} entries {list(values)}, but there are {num_tasks} tasks.')
  return values


def check_number(value: float, name: str, field: str, low: float = -math.inf, high: float = math.inf, *,
                 open_low: bool = False, open_high: bool = False) -> None:
  """Raises ValueError unless low <= value <= high (or < where that side is open); arrays pass, as injected ones."""
  if isinstance(value, jax.Array):
    return
  inside = isinstance(value, (int, float)) and math.isfinite(value)
  inside = inside and (low < value if open_low else low <= value) and (value < high if open_high else value <= high)
  if not inside:
    bounds = f'{"(" if open_low else "["}{low:g}, {high:g}{")" if open_high else "]"}'
    raise ValueError(f'{name}: {field} must be a finite number in {bounds}, got {value!r}.')


def check_sampling(sampling: Sequence[float], name: str, num_tasks: int | None = None) -> tuple:
  """Sampling ratios as a tuple of floats. Raises ValueError unless all are > 0, they sum to 1, and there are T."""
  values = tuple(float(value) for value in sampling)
  if not values or any(not math.isfinite(v) or v <= 0 for v in values) or abs(sum(values) - 1) > 1e-6:
    raise ValueError(f'{name}: sampling must hold a ratio > 0 a task, summing to 1, got {list(values)}.')
  if num_tasks is not None and len(values) != num_tasks:
    raise ValueError(f'{name}: sampling has {len(values)} entries {list(values)}, but there are {num_tasks} tasks.')
  return values


def check_count(value: int, name: str, field: str, low: int) -> None:
  """Raises ValueError unless value is a whole number >= low."""
  if not isinstance(value, int) or isinstance(value, bool) or value < low:
    raise ValueError(f'{name}: {field} must be a whole number >= {low}, got {value!r}.')


def check_choice(value: str, name: str, field: str, allowed: Sequence[str]) -> None:
  """Raises ValueError unless value is one of `allowed`."""
  if value not in allowed:
    raise ValueError(f'{name}: unknown {field} {value!r}. {did_you_mean(value, allowed)}')


def check_given(losses: jax.Array | None, name: str) -> jax.Array:
  """The losses; raises ValueError where a method needs them beside the gradients and they were not passed."""
  if losses is None:
    raise ValueError(f'{name} needs the losses too: pass losses=[T] to update.')
  return losses


def check_stacked(jac: Any, state: Any, params: Any, losses: jax.Array | None, name: str) -> int:
  """T, after checking that every leaf is [T, *shape]. Raises ValueError naming leaf, shape and T."""
  flat = tree.flatten(jac)
  if not flat:
    raise ValueError(f'{name}: the stacked gradients have no leaf.')
  if losses is not None and jnp.ndim(losses) != 1:
    raise ValueError(f'{name}: losses must be a vector [T], got shape {list(jnp.shape(losses))}.')
  own = [leaf.shape for leaf in jax.tree.leaves(params)]
  ndims = tuple(map(len, own)) or state.ndims
  if len(ndims) != len(flat):
    if ndims:
      raise ValueError(f'{name}: the stacked gradients have {len(flat)} leaves, the parameters {len(ndims)}.')
    ndims = tuple(leaf.ndim - 1 for leaf in flat.values())
  num_tasks = len(losses) if losses is not None else next(
    (leaf.shape[0] for leaf, ndim in zip(flat.values(), ndims) if leaf.ndim == ndim + 1 > 0), None)
  for (path, leaf), ndim, shape in zip(flat.items(), ndims, own or [None] * len(flat)):
    if leaf.ndim == ndim + 1 and leaf.shape[:1] == (num_tasks,) and (shape is None or leaf.shape[1:] == shape):
      continue
    wanted = '*shape' if shape is None else ', '.join(map(str, shape))
    hint = '' if leaf.ndim != ndim else (
      ' It has the shape of the parameter itself: the gradients look as if they were already summed over tasks. Stack '
      'them, e.g. by jax.jacrev of the vector of losses. (optax.MultiSteps around a stacked transform comes to this '
      'too, since its accumulator has the shape of the parameters: accumulate the stacked gradients before the '
      'transform, or set config.gradients.accumulate.)')
    raise ValueError(f'{name}: leaf {path!r} has shape {list(leaf.shape)}, but needs [T, {wanted}] with '
                     f'T = {num_tasks or "the number of tasks"}.{hint}')
  return num_tasks


def _ndims(params: Any) -> tuple[int, ...]:
  return tuple(jnp.ndim(leaf) for leaf in jax.tree.leaves(params))
