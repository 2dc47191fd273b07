"""Configs as data: components by name, keys that must exist, differences between two configs.

A component is `dict(name='vit', **kwargs)`. Its name is looked up in the table of its kind, or imported when it is
written 'package.module:Class', so that users extend mtjax without editing it.
"""
import difflib
import importlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_collections


def did_you_mean(name: str, known: Iterable[str]) -> str:
  """The hint of an error about an unknown name: the nearest known one, if any, and all of them."""
  known = sorted(map(str, known))
  near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
  return (f'Did you mean {near[0]!r}? ' if near else '') + f'Known: {", ".join(known) or "none"}.'


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
  """Raises ValueError for the first key of `given` that is not `known`, naming the nearest one that is."""
  known = list(known)
  for key in given:
    if key not in known:
      full = f'{where}.{key}' if where else key
      raise ValueError(f'Unknown config key {full!r}. {did_you_mean(key, known)}')


class Registry:
  """The components of one kind: {name: 'package.module:attribute'}, imported when asked for.

  Args:
    kind: the word for it in error messages, e.g. 'encoder'.
    entries: where each name lives.
  """

  def __init__(self, kind: str, entries: Mapping[str, str]):
    self.kind = kind
    self.entries = dict(entries)

  def __iter__(self):
    return iter(self.entries)

  def lookup(self, name: str) -> Callable[..., Any]:
    """The factory called `name`. Raises ValueError for a name that is neither known nor importable."""
    if not isinstance(name, str):
      raise ValueError(f'A {self.kind} is named by a string, got {name!r}. Known: {", ".join(sorted(self.entries))}.')
    target = self.entries.get(name, name)
    if ':' not in target:
      raise ValueError(f'Unknown {self.kind} {name!r}. {did_you_mean(name, self.entries)} '
                       f"Your own is written 'package.module:Name'.")
    module, attribute = target.split(':', 1)
    try:
      return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
      if name in self.entries:
        raise
      raise ValueError(f'The {self.kind} {name!r} cannot be imported: {error}.') from error

  def build(self, spec: Mapping[str, Any] | str, where: str, **context: Any) -> Any:
    """Calls the factory that `spec` names with the rest of `spec` as keywords.

    Args:
      spec: dict(name=…, **kwargs), or the name alone.
      where: the config path of `spec`, for errors.
      **context: further keywords, given by the framework rather than by the user.
    """
    spec = {'name': spec} if isinstance(spec, str) else to_dict(spec)
    if 'name' not in spec:
      raise ValueError(f"'{where}' needs a name. Known: {', '.join(sorted(self.entries))}.")
    factory = self.lookup(spec.pop('name'))
    accepted = keywords(factory)
    if accepted is not None:
      check_keys(spec, [key for key in accepted if key not in context], where)
    try:
      inspect.signature(factory).bind(**spec, **context)
    except TypeError as error:
      raise ValueError(f"'{where}' is incomplete: {error}.") from error
    return factory(**spec, **context)


def keywords(factory: Callable[..., Any]) -> list[str] | None:
  """The keyword arguments that `factory` takes; None when it takes any."""
  parameters = inspect.signature(factory).parameters
  if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
    return None
  return [name for name in parameters if name not in ('self', 'parent', 'name')]


def to_dict(config: Any) -> Any:
  """ConfigDict -> plain dicts, lists and scalars (what JSON holds)."""
  if isinstance(config, ml_collections.ConfigDict):
    config = config.to_dict()
  if isinstance(config, Mapping):
    return {str(key): to_dict(value) for key, value in config.items()}
  if isinstance(config, (list, tuple)):
    return [to_dict(value) for value in config]
  return config


def flatten(config: Any, prefix: str = '') -> dict[str, Any]:
  """{dotted field: value}, with empty dicts kept as values."""
  config = to_dict(config)
  flat: dict[str, Any] = {}
  for key, value in config.items():
    path = f'{prefix}.{key}' if prefix else key
    if isinstance(value, dict) and value:
      flat |= flatten(value, path)
    else:
      flat[path] = value
  return flat


def differences(old: Any, new: Any) -> list[str]:
  """One line a field in which two configs differ: 'optimizer.lr: 0.1 -> 0.2'."""
  old, new = flatten(json.loads(json.dumps(to_dict(old)))), flatten(json.loads(json.dumps(to_dict(new))))
  absent = '(absent)'
  return [f'{key}: {old.get(key, absent)!r} -> {new.get(key, absent)!r}'
          for key in sorted({*old, *new}) if old.get(key, absent) != new.get(key, absent)]
