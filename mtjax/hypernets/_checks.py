"""Checks of hyper-parameters that the hypernetworks share."""
from typing import Any


def sizes(generator: Any, *fields: str) -> None:
  """Raises ValueError unless these fields are integers >= 1."""
  for field in fields:
    value = getattr(generator, field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
      raise ValueError(f'{type(generator).__name__} has {field}={value!r}; allowed is an integer >= 1.')


def no_common(generator: Any, method: Any) -> None:
  """Raises ValueError for a method that has parameters of all tasks."""
  if method.common:
    raise ValueError(f'{type(method).__name__} has parameters of all tasks ({", ".join(sorted(method.common))}), which '
                     f'{type(generator).__name__} does not generate.')
