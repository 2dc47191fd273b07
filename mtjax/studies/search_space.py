"""The space of a sweep: {dotted config field: the values it may take}.

`Choice` is a list of values, `Uniform` an interval. Both turn a value into a number and back (`encode`, `decode`), and
say how many there are. Values are plain Python, so that what a JSON file gives back is what was written.
"""
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

_KINDS = {bool: 'bool', int: 'number', float: 'number', str: 'str', list: 'list', tuple: 'list', dict: 'dict'}


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of some values, without an order; a list or tuple in a space means this.

  Attributes:
    values: plain Python values (bool, int, float, str, list, tuple, dict), all of one kind, no two alike.
  """

  values: Sequence[Any]

  def __post_init__(self):
    if not isinstance(self.values, (list, tuple)) or not self.values:
      raise ValueError(f'A choice takes a list of values, at least one; got {self.values!r}.')
    for value in self.values:
      _check_plain(value)
    kinds = sorted({_KINDS[type(value)] for value in self.values})
    if len(kinds) > 1:
      raise ValueError(f'The values of a choice must be of one kind, got {" and ".join(kinds)} in {self.values!r}.')
    keys = [key(value) for value in self.values]
    if twice := [value for value, key in zip(self.values, keys) if keys.count(key) > 1]:
      raise ValueError(f'The value {twice[0]!r} occurs twice in {self.values!r}.')

  def __str__(self):
    return ', '.join(map(text, self.values))

  @property
  def size(self) -> int:
    """How many values."""
    return len(self.values)

  def encode(self, value: Any) -> int | None:
    """The index of a value; None for what is not among them."""
    keys = [key(own) for own in self.values]
    return keys.index(key(value)) if key(value) in keys else None

  def decode(self, code: int) -> Any:
    """The value at an index."""
    return self.values[code]


@dataclasses.dataclass(frozen=True)
class Uniform:
  """A number from an interval, both ends included.

  Numbers that are not whole are rounded to four digits (in a narrow interval to more, about a ten-thousandth of it),
  so that the names of arms are short and exact.

  Attributes:
    low, high: the ends.
    log: uniform in the logarithm.
    integer: whole numbers only.
  """

  low: float
  high: float
  log: bool = False
  integer: bool = False

  def __post_init__(self):
    for name in ('low', 'high'):
      value = getattr(self, name)
      if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f'Uniform needs a finite {name}, a plain Python number; got {value!r}.')
      if self.integer and value != int(value):
        raise ValueError(f'Uniform of integers needs a whole {name}, got {value!r}.')
      object.__setattr__(self, name, int(value) if self.integer else float(value))
    if self.low >= self.high:
      raise ValueError(f'Uniform needs low < high, got {self.low!r} and {self.high!r}.')
    if self.log and self.low <= 0:
      raise ValueError(f'Uniform with log=True needs low > 0, got {self.low!r}.')

  def __str__(self):
    notes = [note for note, on in (('log', self.log), ('integer', self.integer)) if on]
    return ', '.join([f'{self.low} to {self.high}', *notes])

  @property
  def size(self) -> float:
    """How many values; infinite for numbers that are not whole."""
    return self.high - self.low + 1 if self.integer else math.inf

  def encode(self, value: Any) -> float | None:
    """The number; None for what does not lie in the interval."""
    if type(value) not in (int, float) or not self.low <= value <= self.high or self.integer and value != int(value):
      return None
    return int(value) if self.integer else float(value)

  def decode(self, code: float) -> float:
    """The number, rounded."""
    if self.integer:
      return int(code)
    narrow = 0.9 * max(abs(self.low), abs(self.high)) / (self.high - self.low)
    digits = 4 + max(0, math.ceil(math.log10(narrow)))
    return min(max(float(f'{code:.{digits}g}'), self.low), self.high)


def check_space(space: Mapping[str, Any]) -> dict[str, Choice | Uniform]:
  """The space with its lists as choices.

  Raises:
    ValueError: it is empty, a field is no dotted name or inside another one, or its values are not what they may be.
  """
  if not isinstance(space, Mapping) or not space:
    raise ValueError(f'A space is {{config field: values}} with at least one field, got {space!r}.')
  found = {}
  for field, values in space.items():
    if not isinstance(field, str) or not all(field.split('.')):
      raise ValueError(f"A field of a space is written with dots, such as 'optimizer.lr'; got {field!r}.")
    if inside := [other for other in space if other != field and str(other).startswith(f'{field}.')]:
      raise ValueError(f'The space has {field!r} and {inside[0]!r}, of which one is inside the other.')
    try:
      found[field] = values if isinstance(values, (Choice, Uniform)) else Choice(values)
    except ValueError as error:
      raise ValueError(f'{field}: {error}') from error
  return found


def _check_plain(value: Any) -> None:
  """Raises ValueError for what a JSON file would not give back."""
  if type(value) in (list, tuple):
    for item in value:
      _check_plain(item)
  elif type(value) is dict and all(type(key) is str for key in value):
    for item in value.values():
      _check_plain(item)
  elif type(value) not in _KINDS or type(value) is dict or type(value) is float and not math.isfinite(value):
    known = ', '.join(kind.__name__ for kind in _KINDS)
    raise ValueError(f'A value of a space must be plain Python ({known}) and finite; got {value!r}, of type '
                     f'{type(value).__name__}. Of an array give .tolist().')


def key(value: Any) -> str:
  """Equal for values that a JSON file cannot tell apart, such as a list and a tuple."""
  return json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)


def text(value: Any) -> str:
  """A value in the name of an arm."""
  return key(value) if isinstance(value, (list, tuple, dict)) else str(value)
