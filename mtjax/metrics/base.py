"""What metrics are made of.

A metric is an object with

  init() -> state                          of no rows
  update(state, outputs, batch) -> state   pure and jit-able; batch = {'label': [B, …], 'mask': bool [B] or [B, …]}
  merge(a, b) -> state                     of both together: associative
  compute(state) -> {name: float}          on the host; NaN where it is not defined (no row, one class only)

`outputs` are a head's raw outputs; `kind` says how to read them (`mtjax.metrics.decode`). Two families: `Mean` keeps
sums on the device; `Collected` keeps every row, since it needs their order or a denominator of all of them.
"""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class MetricSpec:
  """What a number means.

  Attributes:
    name: as in 'eval/<task>/<name>'.
    higher_is_better: its direction.
    range: (lowest, highest) possible value.
    null_value: what a predictor that knows nothing gets; None where that depends on the data.
  """

  name: str
  higher_is_better: bool
  range: tuple[float, float]
  null_value: float | None = None


class Mean:
  """The mean of a quantity over all known entries; sums are compensated, so that one batch or many give the same.

  Args:
    spec: name and direction.
    values: (outputs, label) -> array whose leading shape is that of the mask.
    finish: applied to the mean on the host, e.g. a square root.
  """

  collects = False

  def __init__(self, spec: MetricSpec, values: Callable[[jax.Array, jax.Array], jax.Array],
               finish: Callable[[float], float] = float):
    self.specs = (spec,)
    self._values, self._finish = values, finish

  def init(self) -> dict[str, jax.Array]:
    """Sum, what rounding has cut off from it, and the number of entries."""
    return {'sum': jnp.zeros(()), 'rest': jnp.zeros(()), 'n': jnp.zeros((), jnp.int32)}

  def update(self, state: dict, outputs: jax.Array, batch: Batch) -> dict:
    """Adds the entries of a batch."""
    values = self._values(jnp.asarray(outputs), jnp.asarray(batch['label']))
    mask = jnp.broadcast_to(align_mask(batch['mask'], values), values.shape)
    part = {'sum': jnp.sum(jnp.where(mask, values, 0), dtype=jnp.float32), 'rest': jnp.zeros(()),
            'n': jnp.sum(mask, dtype=jnp.int32)}
    return self.merge(state, part)

  def merge(self, a: dict, b: dict) -> dict:
    """Two sums as one (Knuth's two-sum keeps the rounding error)."""
    total = a['sum'] + b['sum']
    kept = total - a['sum']
    lost = (a['sum'] - (total - kept)) + (b['sum'] - kept)
    return {'sum': total, 'rest': a['rest'] + b['rest'] + lost, 'n': a['n'] + b['n']}

  def compute(self, state: dict) -> dict[str, float]:
    """{name: mean}; NaN without entries."""
    n = int(state['n'])
    mean = (float(state['sum']) + float(state['rest'])) / n if n else float('nan')
    return {self.specs[0].name: float(self._finish(mean))}


class Collected:
  """A quantity of all rows together, computed on the host in float64.

  Args:
    spec: name and direction.
    value: (outputs [N, …], label [N, …], mask [N] or [N, …]), numpy arrays of all rows -> the value.
    prepare: (outputs) -> what is kept of them, e.g. predictions in place of logits.
  """

  collects = True

  def __init__(self, spec: MetricSpec, value: Callable[[np.ndarray, np.ndarray, np.ndarray], float],
               prepare: Callable[[jax.Array], jax.Array] = lambda outputs: outputs):
    self.specs = (spec,)
    self._value, self._prepare = value, prepare

  def init(self) -> tuple:
    """No rows: a state is a tuple of chunks."""
    return ()

  def update(self, state: tuple, outputs: jax.Array, batch: Batch) -> tuple:
    """Appends the rows of a batch."""
    return (*state, (self._prepare(outputs), batch['label'], batch['mask']))

  def merge(self, a: tuple, b: tuple) -> tuple:
    """The chunks of both."""
    return (*a, *b)

  def compute(self, state: tuple) -> dict[str, float]:
    """{name: value}; NaN without rows, or where the quantity is not defined."""
    if not state:
      return {self.specs[0].name: float('nan')}
    outputs, label, mask = (np.concatenate([np.asarray(chunk[i]) for chunk in state]) for i in range(3))
    value = self._value(outputs, label, mask) if mask.any() else float('nan')
    return {self.specs[0].name: float(value)}


def align_mask(mask: Any, values: Any) -> Any:
  """A mask [B] (or of more axes) with trailing axes of size 1, so that it broadcasts against `values`."""
  mask = jnp.asarray(mask)
  return mask.reshape(*mask.shape, *[1] * (values.ndim - mask.ndim))


def columns(values: np.ndarray, label: np.ndarray, mask: np.ndarray):
  """Per output column (values [N], label [N]) of the known rows; arrays of [N] are one column."""
  mask = np.broadcast_to(mask.reshape(*mask.shape, *[1] * (label.ndim - mask.ndim)), label.shape)
  shape = (len(label), -1)
  for v, y, m in zip(values.reshape(shape).T, label.reshape(shape).T, mask.reshape(shape).T):
    yield v[m], y[m]


def nan_mean(values: list[float]) -> float:
  """The mean of those that are defined; NaN when none is."""
  defined = [value for value in values if not np.isnan(value)]
  return float(np.mean(defined)) if defined else float('nan')
