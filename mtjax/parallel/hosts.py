"""Agreement between the processes of a run, in words rather than arrays.

Messages go through the store of JAX's coordination service, not through the devices: waiting may take as long as the
other's work does, in any thread, and a dead process is an error instead of a silent wait. Every function is called by
all processes in the same order, and with one process returns at once.
"""
import contextlib
import itertools
import json
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

DAY = 86_400
_numbers = itertools.count()
_ERRORS = {error.__name__: error for error in (ValueError, TypeError, FileNotFoundError, RuntimeError)}


class LostHost(RuntimeError):
  """Another process did not answer."""


def count() -> int:
  """How many processes there are. Unlike `jax.process_count`, starts no device where it is the only one."""
  return jax.process_count() if jax.distributed.is_initialized() else 1


def is_first() -> bool:
  """Whether this process writes what is written once: logs, metrics, reports."""
  return count() == 1 or jax.process_index() == 0


def wait(what: str, seconds: float = DAY) -> None:
  """Until all processes have got here. Raises LostHost when they don't, or one is dead."""
  if count() > 1:
    with _asked(what):
      _client().wait_at_barrier(f'mtjax/{next(_numbers)}/{what}', int(1000 * seconds))


def farewell(seconds: float) -> None:
  """Until all processes say that they fail, wherever they are in their work. Raises LostHost."""
  with _asked('failing'):
    _client().wait_at_barrier('mtjax/failing', int(1000 * seconds))


def gather(value: Any, what: str, seconds: float = DAY) -> list[Any]:
  """Every process's value (JSON), in the order of the processes."""
  if count() == 1:
    return [value]
  key = f'mtjax/{next(_numbers)}/{what}'
  with _asked(what):
    _client().key_value_set(f'{key}/{jax.process_index()}', json.dumps(value))
    return [json.loads(_client().blocking_key_value_get(f'{key}/{number}', int(1000 * seconds)))
            for number in range(jax.process_count())]


def on_first(function: Callable[[], Any], what: str, seconds: float = DAY) -> Any:
  """`function()` on the first process alone: all get its result (JSON), or raise its error.

  Example:
    >>> on_first(lambda: 1 + 1, 'a sum')
    2
  """
  if count() == 1:
    return function()
  key = f'mtjax/{next(_numbers)}/{what}'
  if is_first():
    try:
      value = function()
    except Exception as error:
      _client().key_value_set(key, json.dumps({'error': type(error).__name__, 'text': str(error)}))
      raise
    _client().key_value_set(key, json.dumps({'value': value}))
    return value
  with _asked(what):
    answer = json.loads(_client().blocking_key_value_get(key, int(1000 * seconds)))
  if 'error' in answer:
    raise _ERRORS.get(answer['error'], RuntimeError)(answer['text'])
  return answer['value']


@contextlib.contextmanager
def first_goes_first(what: str) -> Iterator[None]:
  """The block runs on the first process, then on the others: what it prepares on a shared disk they find there.

  If it fails on the first, it is not run on the others, which raise the same error.
  """
  if not is_first():
    on_first(lambda: None, what)
    yield
    return
  failed = []
  try:
    yield
  except Exception as error:
    failed.append(error)
    raise
  finally:
    if count() > 1:
      with contextlib.suppress(Exception) if failed else contextlib.nullcontext():
        on_first(lambda: _raise(failed), what)


def see(path: pathlib.Path, seconds: float = 60) -> None:
  """Raises ValueError, on all processes, unless all see what the first has written.

  Args:
    path: of a file.
    seconds: what a shared disk may take to show it.
  """
  end = time.monotonic() + seconds
  while count() > 1 and not path.exists() and time.monotonic() < end:
    time.sleep(0.5)
  if count() > 1 and not all(seen := gather(path.exists(), 'a file')):
    raise ValueError(f'Host {seen.index(False)} does not see {path}, which host 0 has written: its folder must be on '
                     'a disk that all hosts share, under the same name.')


@contextlib.contextmanager
def _asked(what: str) -> Iterator[None]:
  try:
    yield
  except jax.errors.JaxRuntimeError as error:
    raise LostHost(f'Waiting for the other hosts ({what}): {error}') from error


def _client() -> Any:
  from jax._src import distributed  # JAX has no public door to the store of its coordination service

  return distributed.global_state.client


def _raise(errors: list[Exception]) -> None:
  for error in errors:
    raise error
