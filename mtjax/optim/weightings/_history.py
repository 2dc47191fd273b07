"""Windows of past values, one a task, in arrays of fixed shape, and the slope of what is in them.

    slope = sum_i (x_i - mean x) (y_i - mean y) / sum_i (x_i - mean x)^2,    x: the step of each value

Shapes: N values a task, `values` [T, N]; the k-th value of a task lies at k mod N, so that the oldest gives way.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import stacked
from mtjax.optim.weightings._common import keep


class Window(NamedTuple):
  """The last N values of each task.

  Attributes:
    values: [T, N].
    count: [T] int32, how many came so far.
  """
  values: jax.Array
  count: jax.Array


def empty(num_tasks: int, length: int) -> Window:
  """A window of T x N without values."""
  return Window(jnp.zeros((num_tasks, length)), jnp.zeros(num_tasks, jnp.int32))


def push(window: Window, new: jax.Array, chosen: jax.Array) -> Window:
  """Adds a value [T] to the chosen tasks [T] bool."""
  slot = jax.nn.one_hot(window.count % window.values.shape[1], window.values.shape[1], dtype=bool)
  values = jnp.where(slot, new[:, None].astype(window.values.dtype), window.values)
  return keep(chosen, Window(values, window.count + 1), window)


def ages(window: Window) -> tuple[jax.Array, jax.Array]:
  """(how many steps before the latest each value came [T, N], which hold a value [T, N] bool)."""
  length = window.values.shape[1]
  age = (window.count[:, None] - 1 - jnp.arange(length, dtype=jnp.int32)[None]) % length
  return age, age < jnp.minimum(window.count, length)[:, None]


def latest(window: Window) -> jax.Array:
  """The last value of each task [T], 0 where there is none."""
  age, filled = ages(window)
  return jnp.sum(jnp.where(filled & (age == 0), window.values, 0), axis=1)


def mean_size(window: Window) -> jax.Array:
  """The mean of |value| over each task's window [T], 0 where there is none."""
  _, filled = ages(window)
  return jnp.sum(jnp.where(filled, jnp.abs(window.values), 0), axis=1) / jnp.maximum(jnp.sum(filled, axis=1), 1)


def slopes(window: Window, without_zeros: bool = False) -> jax.Array:
  """The least-squares slope over each task's window [T]; 0 with fewer than two values."""
  age, used = ages(window)
  if without_zeros:
    used = used & (window.values != 0)
  count = jnp.maximum(jnp.sum(used, axis=1, keepdims=True), 1).astype(window.values.dtype)

  def centred(x):
    x = x.astype(window.values.dtype)
    return jnp.where(used, x - jnp.sum(jnp.where(used, x, 0), axis=1, keepdims=True) / count, 0)

  x = centred(-age)
  spread = jnp.sum(x * x, axis=1)
  return jnp.sum(x * centred(window.values), axis=1) / jnp.where(spread > 0, spread, 1)


def relative(values: jax.Array, active: jax.Array) -> jax.Array:
  """T a_t / sum_i |a_i| over the active tasks, 0 for the others, and all 0 where all a are.  [T] -> [T]"""
  values = jnp.where(active, values, 0)
  total = jnp.sum(jnp.abs(values))
  return jnp.sum(active, dtype=values.dtype) * values / jnp.where(total > 0, total, 1)


def uniform_until(ready: jax.Array, w: jax.Array, active: jax.Array) -> jax.Array:
  """Equal shares for the active tasks that are not ready; the ready ones divide the rest as w (of sum 1) says.  [T]"""
  shares = stacked.equal_shares(active, w.dtype)
  return jnp.where(active & ready, w * jnp.sum(jnp.where(ready, shares, 0)), shares)
