"""What metrics are made of.

A metric is an object with

  init() -> state                          of no rows
  update(state, outputs, batch) -> state   pure and jit-able; batch = {'label': [B, …], 'mask': bool [B] or [B, …]}
  merge(a, b) -> state                     of both together: associative, so that hosts and batches form any tree
  compute(state) -> {name: float}          on the host; NaN where it is not defined (no row, one class only)

`outputs` are a head's raw outputs; `kind` says how to read them (`mtjax.metrics.decode`). `specs` says what the numbers
mean; `columns` names what a metric reads of a batch besides its label. Three families: `Mean` keeps sums on the device;
`HostSums` keeps sums too, of what only the host can make; `Collected` keeps every row, since it needs their order or a
denominator of all of them.
"""
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Batch = Mapping[str, jax.Array]
_LOW = 20        # bits of the lower word of a count
_ROWS = 1024     # float32 sums of more entries than this are compensated


@dataclasses.dataclass(frozen=True)
class MetricSpec:
  """What a number means.

  Attributes:
    name: as in 'eval/<task>/<name>'.
    higher_is_better: its direction; None for a number that is no score, such as the size of a bin.
    range: (lowest, highest) possible value.
    primary: whether its task is judged by it; a `Collection` says so of its first number.
    null_value: what a predictor that knows nothing gets; None where that depends on the data.
  """

  name: str
  higher_is_better: bool | None
  range: tuple[float, float]
  primary: bool = False
  null_value: float | None = None

  def to_json(self) -> dict[str, Any]:
    """All but the name, as JSON holds it: an unbounded end of the range is None."""
    facts = {field: value for field, value in dataclasses.asdict(self).items() if field != 'name'}
    return facts | {'range': [float(end) if math.isfinite(end) else None for end in self.range]}


class Mean:
  """The mean of a quantity over all known entries; sums are compensated, so that one batch or many give the same.

  Args:
    spec: name and direction.
    values: (outputs, label, *columns) -> array whose leading axes are those of the mask.
    finish: applied to the mean on the host, e.g. a square root.
    counts: (outputs, label, *columns) -> bool, of the shape of the values: which entries count besides the mask.
    columns: what `values` and `counts` read of a batch besides its label.
  """

  collects = False

  def __init__(self, spec: MetricSpec, values: Callable[..., jax.Array], finish: Callable[[float], float] = float,
               counts: Callable[..., jax.Array] | None = None, columns: tuple[str, ...] = ()):
    self.specs, self.columns = (spec,), tuple(columns)
    self._values, self._finish, self._counts = values, finish, counts

  def init(self) -> dict[str, jax.Array]:
    """Sum, what rounding has cut off from it, and the number of entries."""
    return {'sum': jnp.zeros(()), 'rest': jnp.zeros(()), 'n': count(jnp.zeros((), jnp.int32))}

  def update(self, state: dict, outputs: jax.Array, batch: Batch) -> dict:
    """Adds the entries of a batch."""
    read = [jnp.asarray(outputs), jnp.asarray(batch['label']), *(jnp.asarray(batch[name]) for name in self.columns)]
    values = self._values(*read)
    mask = jnp.broadcast_to(align_mask(batch['mask'], values), values.shape)
    if self._counts is not None:
      mask = mask & self._counts(*read)
    total, rest = _sum(jnp.where(mask, values, 0).astype(jnp.float32))
    return self.merge(state, {'sum': total, 'rest': rest, 'n': count(jnp.sum(mask, dtype=jnp.int32))})

  def merge(self, a: dict, b: dict) -> dict:
    """Two sums as one (Knuth's two-sum keeps the rounding error)."""
    total, lost = two_sum(a['sum'], b['sum'])
    return {'sum': total, 'rest': a['rest'] + b['rest'] + lost, 'n': add_counts(a['n'], b['n'])}

  def compute(self, state: dict) -> dict[str, float]:
    """{name: mean}; NaN without entries."""
    n = int(read_count(state['n']))
    mean = (float(state['sum']) + float(state['rest'])) / n if n else float('nan')
    return {self.specs[0].name: float(self._finish(mean))}


class Collected:
  """A quantity of all rows together, computed on the host in float64.

  Args:
    spec: name and direction.
    value: (outputs [N, …], label [N, …], mask [N] or [N, …], *columns), numpy arrays of all rows -> the value.
    prepare: (outputs) -> what is kept of them, e.g. predictions in place of logits.
    columns: what `value` reads of a batch besides its label.
  """

  collects = True

  def __init__(self, spec: MetricSpec, value: Callable[..., float],
               prepare: Callable[[jax.Array], jax.Array] = lambda outputs: outputs, columns: tuple[str, ...] = ()):
    self.specs, self.columns = (spec,), tuple(columns)
    self._value, self._prepare = value, prepare

  def init(self) -> tuple:
    """No rows: a state is a tuple of chunks."""
    return ()

  def update(self, state: tuple, outputs: jax.Array, batch: Batch) -> tuple:
    """Appends the rows of a batch."""
    return (*state, (self._prepare(outputs), *(batch[name] for name in ('label', 'mask', *self.columns))))

  def merge(self, a: tuple, b: tuple) -> tuple:
    """The chunks of both."""
    return (*a, *b)

  def compute(self, state: tuple) -> dict[str, float]:
    """{name: value}; NaN without rows, or where the quantity is not defined."""
    if not state:
      return {self.specs[0].name: float('nan')}
    outputs, label, mask, *columns = (np.concatenate([np.asarray(part) for part in parts]) for parts in zip(*state))
    value = self._value(outputs, label, mask, *columns) if mask.any() else float('nan')
    return {self.specs[0].name: float(value)}


class HostSums:
  """A quantity of sums over rows that only the host can make: rows wait in the state until it is merged.

  Args:
    spec: name and direction.
    sums: (outputs [B, …], label [B, …], mask [B, …]), numpy arrays -> array of `shape` that adds up over rows.
    value: (the sums of all rows) -> the value.
    shape: of the sums.
    prepare: (outputs) -> what is kept of them.
  """

  collects = True
  columns = ()

  def __init__(self, spec: MetricSpec, sums: Callable[..., np.ndarray], value: Callable[[np.ndarray], float],
               shape: tuple[int, ...], prepare: Callable[[jax.Array], jax.Array] = lambda outputs: outputs):
    self.specs = (spec,)
    self._sums, self._value, self._shape, self._prepare = sums, value, shape, prepare

  def init(self) -> dict[str, Any]:
    """The sums, and rows that are not in them yet."""
    return {'sums': np.zeros(self._shape), 'rows': ()}

  def update(self, state: dict, outputs: jax.Array, batch: Batch) -> dict:
    """Appends the rows of a batch."""
    return {'sums': state['sums'], 'rows': (*state['rows'], (self._prepare(outputs), batch['label'], batch['mask']))}

  def merge(self, a: dict, b: dict) -> dict:
    """The sums of both, with their rows; on the host."""
    return {'sums': self._total(a) + self._total(b), 'rows': ()}

  def compute(self, state: dict) -> dict[str, float]:
    """{name: value}; NaN where the quantity is not defined."""
    return {self.specs[0].name: float(self._value(self._total(state)))}

  def _total(self, state: dict) -> np.ndarray:
    rows = (self._sums(*(np.asarray(part) for part in chunk)) for chunk in state['rows'])
    return sum(rows, np.asarray(state['sums'], np.float64))


def count(n: jax.Array) -> dict[str, jax.Array]:
  """Whole numbers [...] int32 in two words, so that sums pass 2^31: a few thousand images have more pixels."""
  return {'high': n >> _LOW, 'low': n & ((1 << _LOW) - 1)}


def add_counts(a: dict, b: dict) -> dict:
  """The sum of two counts."""
  low = a['low'] + b['low']
  return {'high': a['high'] + b['high'] + (low >> _LOW), 'low': low & ((1 << _LOW) - 1)}


def read_count(n: dict) -> np.ndarray:
  """A count as int64, on the host."""
  return (np.asarray(n['high'], np.int64) << _LOW) + np.asarray(n['low'], np.int64)


def two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(a + b rounded, what rounding cut off)."""
  total = a + b
  kept = total - a
  return total, (a - (total - kept)) + (b - kept)


def align_mask(mask: Any, values: Any) -> Any:
  """A mask [B] (or of more axes) with trailing axes of size 1, so that it broadcasts against `values`.

  A mask of more axes than the values counts where all of its last axes do.
  """
  mask = jnp.asarray(mask)
  if mask.ndim > values.ndim:
    return mask.all(tuple(range(values.ndim, mask.ndim)))
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


def check_choice(value: Any, allowed: tuple, field: str, metric: str) -> None:
  """Raises ValueError unless `value` is one of `allowed`."""
  if value not in allowed:
    raise ValueError(f'{metric} has {field}={value!r}; allowed are {", ".join(map(repr, allowed))}.')


def check_whole(value: Any, minimum: int, field: str, metric: str) -> None:
  """Raises ValueError unless `value` is an integer >= minimum."""
  if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
    raise ValueError(f'{metric} has {field}={value!r}; allowed is an integer >= {minimum}.')


def check_positive(value: Any, field: str, metric: str) -> None:
  """Raises ValueError unless `value` is a finite number > 0."""
  if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 < value < math.inf:
    raise ValueError(f'{metric} has {field}={value!r}; allowed is a finite number > 0.')


def _sum(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  """(sum, what rounding cut off from it) of float32 [B, …]; within a row, halves are added by two-sums.

  Rows stay apart: folding over their axis would move data between the devices that hold them.
  """
  return (values.sum(), jnp.zeros(())) if values.size <= _ROWS else _long_sum(values)


@jax.jit
def _long_sum(values: jax.Array) -> tuple[jax.Array, jax.Array]:
  values = values.reshape(len(values), -1)
  rest = jnp.zeros(())
  while values.shape[1] > 1:
    half = values.shape[1] // 2
    total, lost = two_sum(values[:, :half], values[:, half:2 * half])
    values, rest = jnp.concatenate([total, values[:, 2 * half:]], axis=1), rest + lost.sum()
  return values.sum(), rest
