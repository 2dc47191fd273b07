"""A trace of some steps by JAX's profiler: what host and device did when, for TensorBoard, XProf or Perfetto.

  config.profile = dict(start=20, steps=5)      the updates 20 … 24, counted from 0 as in the rest of a run

writes `DIR/profile/plugins/profile/<time>/<host>.xplane.pb`; of several hosts each writes its own, in
`DIR/profile/host_<number>/`. Steps that are traced are slower, and the device is waited for at both ends. A run that
goes on from a checkpoint inside of the window traces what is left of it.
"""
import logging
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from mtjax.config import check_keys

log = logging.getLogger('mtjax')


def check_profile(spec: Mapping[str, Any], total: int) -> None:
  """Raises ValueError unless `spec` is empty or a window within the `total` steps of a run."""
  if not isinstance(spec, Mapping):
    raise ValueError(f"'profile' must be a dict, e.g. dict(start=20, steps=5), or {{}} for none; got {spec!r}.")
  if not spec:
    return
  check_keys(spec, ('start', 'steps'), 'profile')
  for field, least in (('start', 0), ('steps', 1)):
    value = spec.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
      raise ValueError(f"'profile.{field}' must be a whole number >= {least}, got {value!r}.")
  if spec['start'] + spec['steps'] > total:
    raise ValueError(f"'profile' = {dict(spec)} ends behind the last of the run's {total} steps; "
                     f'start + steps can be {total} at most.')


class Trace:
  """Traces a window of steps: `with Trace(spec, workdir) as trace: … trace.at(updates made, state) … `.

  Args:
    spec: dict(start, steps), or {} for none.
    workdir: of the run. Raises ValueError where there is a window and no workdir.
  """

  def __init__(self, spec: Mapping[str, int], workdir: str | os.PathLike | None):
    if spec and workdir is None:
      raise ValueError("'profile' writes into the run's workdir, which this run has not: build(config, workdir).")
    self._start = spec['start'] if spec else -1
    self._end = spec['start'] + spec['steps'] if spec else -1
    self._active = False
    self._folder = None
    if spec:
      own = f'host_{jax.process_index()}' if jax.process_count() > 1 else ''
      self._folder = pathlib.Path(workdir) / 'profile' / own

  def at(self, done: int, state: Any) -> bool:
    """Begins or ends the trace, if it is time to; whether it did (which takes time).

    Args:
      done: updates made.
      state: what the last of them returned.
    """
    inside = self._start <= done < self._end
    if inside == self._active:
      return False
    if self._active:
      self._stop(state)
      return True
    jax.block_until_ready(state)
    jax.profiler.start_trace(str(self._folder))
    self._active = True
    return True

  def __enter__(self) -> 'Trace':
    return self

  def __exit__(self, *_) -> None:
    if self._active:
      self._stop(None)

  def _stop(self, state: Any) -> None:
    jax.block_until_ready(state)
    jax.profiler.stop_trace()
    self._active = False
    log.info('Profile: %s', self._folder)
