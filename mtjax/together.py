"""Runs that differ in nothing but their seeds, trained side by side by one compiled program.

    state_i <- update(state_i, batch_i, key_i)      for all runs i, step by step

On an accelerator the states are stacked and `update` is vmapped, as many runs at a time as fit the memory; runs are
dealt out over the devices. On CPUs every run keeps a (virtual) device of its own and the same compiled `update` is
dispatched to all of them: a batched convolution or matrix product is slower there than one after another, while two
devices keep two cores busy. Each run writes its own workdir as if it had been alone: metrics, checkpoints, status. One
whose loss is not finite fails alone, and the others go on. The speed that a run records is its share: the time of a
step is that of a step of all.
"""
import concurrent.futures
import functools
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mtjax.config import differences
from mtjax.parallel import batch_sharding, put_batch
from mtjax.run import Run, seeded
from mtjax.training.checkpoints import Checkpoints
from mtjax.training.loop import Keeper, NonFiniteLoss, StopRequest, return_memory
from mtjax.training.program import compile_ahead, held_bytes
from mtjax.training.state import TrainState
from mtjax.training.writers import progress

log = logging.getLogger('mtjax')

MEMORY_SHARE = 0.9  # of what a device has


class Outcome(NamedTuple):
  """How one run ended.

  Attributes:
    state: the final one; None of a run that failed.
    error: why it failed, or None.
  """

  state: TrainState | None
  error: Exception | None = None


def train_together(runs: Sequence[Run], *, vmapped: bool | None = None, title: str = '') -> list[Outcome]:
  """Trains runs to their end, each from where its workdir says; see the top of the file.

  Args:
    runs: made by `Run.with_seed` from one run, each on one device.
    vmapped: whether the runs of a device are stacked; None = on accelerators.
    title: of the progress bar.

  Returns:
    One outcome a run. After SIGTERM or Ctrl-C every run has saved, and says `stopped`.
  """
  _check(runs)
  vmapped = jax.default_backend() != 'cpu' if vmapped is None else vmapped
  states = [run.init(quiet=True) for run in runs]
  outcomes: dict[int, Outcome] = {}
  by_step: dict[int, list[int]] = {}
  for i, state in enumerate(states):  # after a kill, runs may have got to different checkpoints
    by_step.setdefault(int(state.step), []).append(i)
  for members in by_step.values():
    for wave in _waves(members, runs, states, vmapped):
      if not any(run.stopped for run in runs):
        outcomes |= _in_step([runs[i] for i in wave], [states[i] for i in wave], wave, vmapped, title)
  return [outcomes.get(i, Outcome(None)) for i in range(len(runs))]


def one_device_a_core(num_runs: int) -> None:
  """Makes a virtual CPU device of each core, for `num_runs` runs; to be called before JAX computes anything.

  With as many runs as cores, or more, each device works by itself: operations that are split over threads wait for one
  another. Nothing happens where the user has set the number of devices, or a backend is in use already.
  """
  flags = os.environ.get('XLA_FLAGS', '')
  if 'xla_force_host_platform_device_count' in flags:
    return
  try:
    jax.config.update('jax_num_cpu_devices', _cores())
  except RuntimeError:
    return
  if num_runs >= _cores() > 1 and 'xla_cpu_multi_thread_eigen' not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} --xla_cpu_multi_thread_eigen=false'.strip()


def spread_devices(number: int) -> list[jax.Device]:
  """The devices that `number` runs are dealt out to: on CPUs no more than there are cores."""
  devices = jax.local_devices()
  if devices[0].platform == 'cpu':
    devices = devices[:_cores()]
  return devices[:max(number, 1)]


def most_lanes(run: Run, state: TrainState, wanted: int, limit: int | None = None) -> int:
  """How many stacked runs fit the device, by what the compiler says that a step needs.

  Args:
    run: one of them.
    state: its state.
    wanted: how many there are.
    limit: bytes; None = what the device reports, and no limit where it reports nothing.
  """
  if limit is None:
    reported = (run.mesh.devices.flat[0].memory_stats() or {}).get('bytes_limit')
    limit = None if reported is None else int(MEMORY_SHARE * reported)
  lanes = wanted
  while lanes > 1 and limit is not None and _bytes(run, state, lanes) > limit:
    lanes = -(-lanes // 2)
  return lanes


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()


class _InTurn:
  """The checkpoints of a run, saved while training goes on, by the one thread that saves those of all runs.

  (The background threads of several Orbax managers get into each other's way.)
  """

  def __init__(self, checkpoints: Checkpoints, thread: concurrent.futures.Executor):
    self._checkpoints, self._thread, self._pending = checkpoints, thread, []
    self.best = checkpoints.best

  @property
  def steps(self) -> list[int]:
    """Of the checkpoints that are there."""
    return self._checkpoints.steps

  def save(self, state: TrainState, **items: Any) -> None:
    """Saves a copy, since the state will be donated."""
    while len(self._pending) > 1:
      self._pending.pop(0).result()
    copy, best = jax.tree.map(jnp.copy, state), self.best
    self._pending.append(self._thread.submit(self._save, copy, best, items))

  def finish(self) -> None:
    """Waits until all is saved; raises what went wrong."""
    while self._pending:
      self._pending.pop(0).result()

  def _save(self, state: TrainState, best: Any, items: dict[str, Any]) -> None:
    self._checkpoints.best = best
    self._checkpoints.save(state, **items)
    self._checkpoints.wait()


class _Block:
  """The runs that one call updates: one run, or several stacked.

  Attributes:
    runs: these.
    lanes: their numbers.
    state: theirs, stacked where there are several.
  """

  def __init__(self, runs: Sequence[Run], states: Sequence[TrainState], lanes: Sequence[int], stacked: bool):
    self.runs, self.lanes, self._stacked = list(runs), list(lanes), stacked
    self.state = _stack(states) if stacked else states[0]

  def enter(self, index: int, first: int) -> None:
    """Begins to read the data of a stage, and compiles its step."""
    stages = [run.stages[index] for run in self.runs]
    self._sharding = batch_sharding(self.runs[0].mesh)
    # Where runs keep all cores busy, a thread for each run's data takes from them more than it gives.
    self._batches = [stage.batches(first, self._sharding, ahead=self._stacked) for stage in stages]
    if self._stacked:
      self._rng, self._update = jnp.stack([stage.rng for stage in stages]), _vmapped(stages[0].update)
    else:
      self._rng, self._update = stages[0].rng, stages[0].update
    self._batch = self._next_batch()
    program = compile_ahead(self._update, self.state, self._batch, self._rng).share(len(self.runs))
    for run, stage in zip(self.runs, stages):
      run.meter.enter(stage.name, stage.streams, program)

  def step(self) -> None:
    """One update of all."""
    batch, self._batch = self._next_batch() if self._batch is None else self._batch, None
    self.state = self._update(self.state, batch, self._rng)

  def _next_batch(self):
    batches = [next(batches) for batches in self._batches]
    if self._stacked:
      return jax.device_put(jax.tree.map(lambda *x: np.stack(x), *batches), self.runs[0].mesh.devices.flat[0])
    return put_batch(batches[0], self._sharding)

  def states(self) -> list[TrainState]:
    """Of each run."""
    return _unstack(self.state, len(self.runs)) if self._stacked else [self.state]

  def set_states(self, states: Sequence[TrainState]) -> None:
    """The inverse of `states`."""
    self.state = _stack(states) if self._stacked else states[0]


def _in_step(runs, states, numbers, vmapped, title) -> dict[int, Outcome]:
  """{number: outcome} of runs that are all at the same step."""
  first, settings = int(states[0].step), runs[0].settings
  contexts = [run.recording(first, 1 / len(runs)) for run in runs]
  thread = concurrent.futures.ThreadPoolExecutor(1)
  savers = [_InTurn(run.checkpoints, thread) if run.checkpoints else None for run in runs]
  keepers = [run.keeper(context.__enter__(), saver) for run, context, saver in zip(runs, contexts, savers)]
  failed: dict[int, Exception] = {}
  blocks = list(_blocks(runs, states, vmapped))
  by_device = _by_device(blocks)
  step, error = first, None
  try:
    with StopRequest() as stop, progress(runs[0].stages[-1].end, initial=first) as bar, runs[0].trace() as trace, \
         concurrent.futures.ThreadPoolExecutor(len(by_device)) as pool:
      bar.set_description(title, refresh=False)
      for index, stage in enumerate(runs[0].stages):
        if step >= stage.end or len(failed) == len(runs):
          continue
        for block in blocks:
          if index and step == stage.start:
            block.set_states([run.stages[index].enter(state) for run, state in zip(block.runs, block.states())])
          block.enter(index, step)
        for keeper in keepers:
          keeper.start_clock(step)
        begin = step
        trace.at(begin, [block.state for block in blocks])
        for step in range(begin + 1, stage.end + 1):
          for block in blocks:
            block.step()
          if trace.at(step, [block.state for block in blocks]):
            for keeper in keepers:
              keeper.start_clock(step)
          bar.update()
          if step == begin + 1:
            jax.block_until_ready([block.state for block in blocks])
            return_memory()
            for keeper in keepers:
              keeper.start_clock(step)
          stopping = bool(stop)
          if settings.due(step, stage, stopping):
            list(pool.map(lambda own, at=(index, step, stopping): [_look_after(b, keepers, failed, *at) for b in own],
                          by_device))
            blocks = [block for block in blocks if not all(lane in failed for lane in block.lanes)]
            by_device = _by_device(blocks)
            if not blocks:
              break
          if stopping:
            log.warning('%s: stopped at step %d. The same command goes on from there.', stop.signal, step)
            for run in runs:
              run.stopped = True
            break
        if any(run.stopped for run in runs):
          break
    for saver in filter(None, savers):
      saver.finish()
  except BaseException as raised:
    error = raised
    raise
  finally:
    thread.shutdown()
    for lane, context in enumerate(contexts):
      own = error or failed.get(lane)
      context.__exit__(type(own) if own else None, own, own.__traceback__ if own else None)
  finals = {lane: state for block in blocks for lane, state in zip(block.lanes, block.states()) if lane not in failed}
  return {numbers[lane]: Outcome(finals.get(lane), failed.get(lane)) for lane in range(len(runs))}


def _look_after(block: _Block, keepers: Sequence[Keeper], failed: dict[int, Exception], index: int, step: int,
                stopping: bool) -> None:
  """What is due beside the updates, of every run of a block that has not failed."""
  states = block.states()
  for i, (lane, run) in enumerate(zip(block.lanes, block.runs)):
    if lane not in failed:
      try:
        states[i] = keepers[lane](states[i], run.stages[index], index, step, stopping)
      except NonFiniteLoss as error:
        log.warning('Seed %d failed, the others go on: %s', run.config['seed'], error)
        failed[lane] = error
  block.set_states(states)


def _blocks(runs: Sequence[Run], states: Sequence[TrainState], vmapped: bool) -> Iterator[_Block]:
  if not vmapped:
    yield from (_Block([run], [state], [i], False) for i, (run, state) in enumerate(zip(runs, states)))
    return
  by_device: dict[Any, list[int]] = {}
  for i, run in enumerate(runs):
    by_device.setdefault(run.mesh.devices.flat[0], []).append(i)
  for lanes in by_device.values():
    yield _Block([runs[i] for i in lanes], [states[i] for i in lanes], lanes, True)


def _by_device(blocks: Sequence[_Block]) -> list[list[_Block]]:
  """The blocks of each device together: devices evaluate beside each other."""
  found: dict[Any, list[_Block]] = {}
  for block in blocks:
    found.setdefault(block.runs[0].mesh.devices.flat[0], []).append(block)
  return list(found.values())


def _waves(members: Sequence[int], runs: Sequence[Run], states: Sequence[TrainState], vmapped: bool):
  """The members in parts that are trained one part after another."""
  if not vmapped:
    return [members]
  devices = len({runs[i].mesh.devices.flat[0] for i in members})
  first = members[0]
  size = devices * most_lanes(runs[first], states[first], -(-len(members) // devices))
  return [members[start:start + size] for start in range(0, len(members), size)]


@functools.lru_cache(8)
def _vmapped(update):
  return jax.jit(jax.vmap(update), donate_argnums=0)


@jax.jit
def _stack(states):
  return jax.tree.map(lambda *x: jnp.stack(x), *states)


@functools.partial(jax.jit, static_argnums=1)
def _unstack(state, number):
  return [jax.tree.map(lambda x, i=i: x[i], state) for i in range(number)]


def _bytes(run: Run, state: TrainState, lanes: int) -> int:
  """What a step of stacked runs needs."""
  stage = run.stages[0]
  batch = {name: stream.train_batch(0) for name, stream in stage.streams.items()}
  batch = (batch, batch) if stage.validation else batch
  stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((lanes, *x.shape), x.dtype), (state, batch, stage.rng))
  return held_bytes(_vmapped(stage.update).lower(*stacked).compile())


def _check(runs: Sequence[Run]) -> None:
  if not runs:
    raise ValueError('There are no runs to train.')
  for run in runs:
    if run.mesh.size > 1:
      raise ValueError(f'Runs are trained side by side on one device each, but one has {run.mesh.size}: '
                       'build it with mesh=dict(data=1).')
    if other := differences(seeded(runs[0].config, 0), seeded(run.config, 0)):
      raise ValueError(f'Runs trained side by side differ in nothing but their seeds; here also in {other[0]}.')
    if run.stages[0].update is not runs[0].stages[0].update:
      raise ValueError('Runs trained side by side share their programs: make them by run.with_seed(…).')
