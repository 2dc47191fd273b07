"""The training loop: one file, read from top to bottom.

Per step: the next batch, one compiled update. The host reads nothing back except at log, evaluation and checkpoint
steps, so dispatch stays ahead of the device. What happens at a step depends on its number alone; so a resumed run
does what an uninterrupted one does.
"""
import ctypes
import dataclasses
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from mtjax.data.streams import Batches, Stream
from mtjax.parallel import batch_sharding, host_rows, hosts, put_batch, put_everywhere
from mtjax.training.checkpoints import Checkpoints
from mtjax.training.engine import diagnostics
from mtjax.training.gradients import Engine
from mtjax.training.profile import Trace
from mtjax.training.program import Program, compile_ahead
from mtjax.training.state import TrainState, eval_params
from mtjax.training.throughput import Meter
from mtjax.training.writers import MetricWriter, progress

log = logging.getLogger('mtjax')


@dataclasses.dataclass(frozen=True)
class Stage:
  """A stretch of training with its own data, trainable parameters and optimizer.

  Attributes:
    name: for the log.
    start, end: steps; the stage makes updates start … end - 1.
    streams: {name: stream} it trains on.
    trainable: {path: bool}.
    task_weights: [T], factors of the total loss.
    engine: what makes one update of the tasks' gradients; None = the gradient of the plain weighted sum.
    schedule: the learning rate as a function of the step within the stage.
    enter: the state at the end of the stage before -> the state at the start of this one.
    update: (state, batch, rng) -> state, compiled; the state is donated. Runs that differ in their seeds share it.
    evaluate: (params, split) -> {'eval/…': value}.
    rng: of dropout and of whatever the method draws.
  """

  name: str
  start: int
  end: int
  streams: Mapping[str, Stream]
  trainable: Mapping[str, bool]
  task_weights: np.ndarray
  schedule: Callable[[Any], Any]
  enter: Callable[[TrainState], TrainState]
  update: Callable[[TrainState, Any, jax.Array], TrainState]
  evaluate: Callable[[Any, str], dict[str, float]]
  rng: jax.Array
  engine: Engine | None = None

  def step(self, state: TrainState, batch: Any) -> TrainState:
    """One update with the stage's own key; the state is donated."""
    return self.update(state, batch, self.rng)

  def compile_ahead(self, state: TrainState, batch: Any, mesh: Mesh) -> Program:
    """Compiles `update`, once: the first `step` with arguments like these finds it compiled."""
    return compile_ahead(self.update, state, batch, self.rng, devices=mesh.size)

  def batches(self, first: int, sharding: Sharding, ahead: bool = True) -> Iterator[Any]:
    """This host's training batches from step `first` on.

    Args:
      first: step.
      sharding: how they will lie on the devices.
      ahead: made ahead of time, by a thread.
    """
    rows = {name: host_rows(stream.batch_size, sharding) for name, stream in self.streams.items()}
    batches = Batches(self.streams, self.end, rows, self.validation)
    return batches.iterate(first) if ahead else (batches[step] for step in range(first, self.end))

  @property
  def max_bad(self) -> int | None:
    """Steps at which one task's gradient may be not finite (it is left out then); None = a run stops at the first."""
    return self.engine.options.max_bad if self.engine else None

  @property
  def validation(self) -> bool:
    """Whether a step looks at a batch of the validation split too."""
    return self.engine is not None and self.engine.aggregator.observes == 'validation_losses'


@dataclasses.dataclass(frozen=True)
class Settings:
  """When what happens; numbers are steps.

  Attributes:
    log_every, eval_every, checkpoint_every: periods; the last step of a stage does all three.
    best: the validation metric that chooses the best checkpoint, 'eval/…'.
    best_mode: 'min' or 'max'.
  """

  log_every: int
  eval_every: int
  checkpoint_every: int
  best: str
  best_mode: str

  def due(self, step: int, stage: Stage, stopping: bool = False) -> set[str]:
    """What follows step `step`: 'log', 'eval', 'save'."""
    last = step == stage.end
    periods = {'log': self.log_every, 'eval': self.eval_every, 'save': self.checkpoint_every}
    return {what for what, period in periods.items() if step % period == 0 or last or (stopping and what == 'save')}


class NonFiniteLoss(FloatingPointError):
  """A loss or the gradient became NaN or infinite; the text names step and task."""


class StopRequest:
  """Turns SIGTERM and Ctrl-C into a flag that the loop reads between steps: `with StopRequest() as stop: … if stop: …`.

  A second Ctrl-C interrupts at once. Of several hosts one alone may be told to stop, and all have to stop after the
  same step: JAX's coordination service, which sees SIGTERM itself, chooses it, and `after(step)` is then true on all.

  Attributes:
    signal: name of the signal that came here; None = none.
  """

  def __init__(self):
    self.signal: str | None = None
    self._previous: dict[int, Any] = {}

  def __enter__(self) -> 'StopRequest':
    numbers = (signal.SIGINT,) if hosts.count() > 1 else (signal.SIGTERM, signal.SIGINT)
    if threading.current_thread() is threading.main_thread():  # only there may handlers be set
      self._previous = {number: signal.signal(number, self._on_signal) for number in numbers}
    return self

  def __exit__(self, *_) -> None:
    for number, handler in self._previous.items():
      signal.signal(number, handler)

  def __bool__(self) -> bool:
    return self.signal is not None

  def _on_signal(self, number: int, _) -> None:
    if self and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = signal.Signals(number).name
    if hosts.count() > 1:
      os.kill(os.getpid(), signal.SIGTERM)  # what the coordination service listens to

  def after(self, step: int) -> bool:
    """Whether to stop after this step: the same on all hosts, each of which asks after every step."""
    if hosts.count() > 1 and jax.config.jax_enable_preemption_service:
      from jax.experimental import multihost_utils  # here, because a run of one host needs none of it

      return multihost_utils.reached_preemption_sync_point(step)
    return bool(self)

  @property
  def why(self) -> str:
    """What was asked for, for the log."""
    return self.signal or 'SIGTERM'


def train(
  state: TrainState,
  stages: Sequence[Stage],
  settings: Settings,
  *,
  task_names: Sequence[str],
  mesh: Mesh,
  writer: MetricWriter | None = None,
  checkpoints: Checkpoints | None = None,
  data_state: Callable[[Stage, int], dict[str, Any]] = lambda stage, step: {},
  meter: Meter | None = None,
  trace: Trace | None = None,
) -> tuple[TrainState, dict[str, float], bool]:
  """Runs what is left of the stages.

  Args:
    state: where to begin; donated.
    stages: all of them, also those already done.
    settings: periods and the choice of the best checkpoint.
    task_names: [T], in the order of the losses.
    mesh: where batches go.
    writer: gets the metrics; None = nobody.
    checkpoints: None = none are made.
    data_state: (stage, step) -> the `data` item of a checkpoint.
    meter: of the speed; None = one of its own.
    trace: of some steps, by JAX's profiler.

  Returns:
    (final state, the last validation metrics, whether SIGTERM or Ctrl-C ended it early).

  Raises:
    NonFiniteLoss: names step and task; the last good checkpoint stays.
  """
  keeper = Keeper(settings, task_names, mesh, writer, checkpoints, data_state, meter)
  total, trace = stages[-1].end, trace or Trace({}, None)
  with StopRequest() as stop, trace, \
       progress(total, initial=int(state.step), enabled=None if hosts.is_first() else False) as bar:
    for index, stage in enumerate(stages):
      if int(state.step) >= stage.end:
        continue

      # --- enter the stage: parameters go on, the optimizer starts afresh
      if index and int(state.step) == stage.start:
        log.info('Stage %s: steps %d to %d.', stage.name, stage.start, stage.end)
        state = stage.enter(state)

      # --- data, from the position that the step says
      first, sharding = int(state.step), batch_sharding(mesh)
      batches = stage.batches(first, sharding)
      keeper.start_clock(first)

      # --- the loop
      for step in range(first + 1, stage.end + 1):
        batch = put_batch(next(batches), sharding)
        if step == first + 1:
          keeper.meter.enter(stage.name, stage.streams, stage.compile_ahead(state, batch, mesh))
          trace.at(first, state)
        state = stage.step(state, batch)
        if trace.at(step, state):
          keeper.start_clock(step)
        bar.update()
        if step == first + 1:
          jax.block_until_ready(state)  # or else the clock would count it among the steps that follow
          return_memory()
          keeper.start_clock(step)
        stopping = stop.after(step)
        if settings.due(step, stage, stopping):
          state = keeper(state, stage, index, step, stopping)
          bar.set_postfix(keeper.losses, refresh=False)
        if stopping:
          log.warning('%s: stopped at step %d. The same command goes on from there.', stop.why, step)
          return state, keeper.metrics, True
  return state, keeper.metrics, False


class Keeper:
  """What happens to one run beside its updates: numbers are written, it is evaluated, checkpoints are made.

  Args:
    settings, task_names, mesh, writer, checkpoints, data_state, meter: as of `train`.

  Attributes:
    metrics: the last validation metrics.
    losses: {task: training loss} of the last log line.
    meter: of the speed.
  """

  def __init__(self, settings: Settings, task_names: Sequence[str], mesh: Mesh, writer: MetricWriter | None,
               checkpoints: Checkpoints | None, data_state: Callable[[Stage, int], dict[str, Any]],
               meter: Meter | None = None):
    self._settings, self._names, self._mesh = settings, list(task_names), mesh
    self._writer, self._checkpoints, self._data_state = writer, checkpoints, data_state
    self.metrics: dict[str, float] = {}
    self.losses: dict[str, float] = {}
    self.meter = meter or Meter(mesh)
    self.start_clock(0)

  def start_clock(self, step: int) -> None:
    """Speed is measured from here on."""
    self._clock, self._clock_step = time.perf_counter(), step

  def __call__(self, state: TrainState, stage: Stage, index: int, step: int, stopping: bool = False) -> TrainState:
    """All that is due after step `step` of stage number `index`; the state, its window empty where it was read.

    Raises NonFiniteLoss.
    """
    due, checkpoints = self._settings.due(step, stage, stopping), self._checkpoints
    _check_finite(state, self._names, checkpoints, stage.max_bad)
    if 'log' in due:
      values, state = _read_window(state, self._names, stage.task_weights, self._mesh)
      self.losses = {name: values[f'train/{name}/loss'] for name in self._names}
      for name in self._names:
        if masked := values.get(f'gradients/masked/{name}'):
          log.warning('Step %d: the gradient of task %r was not finite and was left out at %d of the last steps.',
                      step, name, masked)
      elapsed = time.perf_counter() - self._clock
      values['train/lr'] = float(stage.schedule(step - 1 - stage.start))
      values |= self.meter.window(step - self._clock_step, elapsed)
      _write(self._writer, step, 'train', values)

    improved = False
    if 'eval' in due:
      self.metrics = stage.evaluate(eval_params(state), 'validation')
      _write(self._writer, step, 'validation', self.metrics)
      improved = checkpoints is not None and _improved(self.metrics, self._settings, checkpoints.best)
      if improved:
        checkpoints.best = {'step': step, 'value': self.metrics[self._settings.best]}

    if checkpoints is not None and ('save' in due or improved):
      checkpoints.save(state, data=self._data_state(stage, step), meta={'stage': index})
    self.start_clock(step)  # what was spent here is not training time
    return state


def return_memory() -> None:
  """Gives the system back what the compiler has freed: the C library would keep it, some 60 to 100 MiB, for ever."""
  trim = getattr(ctypes.CDLL(None), 'malloc_trim', None) if sys.platform == 'linux' else None  # glibc has it
  if trim is not None:
    trim(0)


def _read_window(state: TrainState, names: Sequence[str], weights: np.ndarray, mesh: Mesh):
  """(training metrics since the last log step, the state with an empty window)."""
  window = jax.device_get(state.window)
  with np.errstate(invalid='ignore'):
    losses = np.where(window.losses.weights > 0, window.losses.sums / window.losses.weights, np.nan)
  values = {'train/loss': float(np.nansum(weights * losses))}
  values |= {f'train/{name}/loss': float(loss) for name, loss in zip(names, losses)}
  values['train/grad_norm'] = float(window.grad_norm / max(window.steps, 1))
  if window.diagnostics:
    values |= diagnostics.report(window.diagnostics, list(names))
  return values, state.replace(window=put_everywhere(jax.tree.map(np.zeros_like, window), mesh))


def _check_finite(state: TrainState, names: Sequence[str], checkpoints: Checkpoints | None,
                  max_bad: int | None) -> None:
  first_bad = np.asarray(jax.device_get(state.first_bad))
  if max_bad is not None:
    bad = np.asarray(jax.device_get(state.gradients.bad))
    if bad.max() > max_bad:
      raise NonFiniteLoss(f'The gradient of task {names[int(bad.argmax())]!r} was not finite at {bad.max()} steps; '
                          f"'gradients.max_bad' allows {max_bad}. Try a lower optimizer.lr, or look at the labels.")
  if (first_bad < 0).all():
    return
  step = int(first_bad[first_bad >= 0].min())
  tasks = [name for name, bad in zip(names, first_bad) if bad == step]
  what = f'loss of task {", ".join(map(repr, tasks))}' if tasks else 'gradient (all losses were finite)'
  kept = f' The last good checkpoint is of step {checkpoints.steps[-1]}.' if checkpoints and checkpoints.steps else ''
  raise NonFiniteLoss(f'The {what} is not finite at step {step}.{kept} '
                      f'Try a lower optimizer.lr or optimizer.clip_norm, or look at the labels.')


def _improved(metrics: Mapping[str, float], settings: Settings, best: Mapping[str, float] | None) -> bool:
  value = metrics[settings.best]
  if not np.isfinite(value):
    return False
  if best is None:
    return True
  return value < best['value'] if settings.best_mode == 'min' else value > best['value']


def _write(writer: MetricWriter | None, step: int, split: str, values: Mapping[str, float]) -> None:
  if writer is not None:
    writer.write(step, split, values)
