"""A run: what `mtjax.experiment.build` makes of a config, and all that can be done with it."""
import contextlib
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mtjax import tree
from mtjax.config import differences, to_dict
from mtjax.data.streams import Stream
from mtjax.objective import Objective, stream_key
from mtjax.parallel import batch_sharding, host_rows, one_device, put_batch, replicated
from mtjax.prediction import Predictor
from mtjax.training.checkpoints import Checkpoints, Damaged
from mtjax.training.evaluation import Evaluator
from mtjax.training.loop import Keeper, Settings, Stage, train
from mtjax.training.state import TrainState, eval_params
from mtjax.training.writers import MetricWriter, read_metrics

log = logging.getLogger('mtjax')


class Run:
  """A multitask run. Built by `mtjax.experiment.build(config, workdir)`.

  Attributes:
    config: the whole config as plain data.
    mesh, streams, objective, stages, settings: what it was made into.
    workdir: its folder, or None.
  """

  def __init__(
    self, *, config: Mapping[str, Any], mesh: Mesh, streams: Mapping[str, Stream], objective: Objective,
    stages: Sequence[Stage], settings: Settings, evaluator: Evaluator, workdir: str | os.PathLike | None,
    command: str | None, init_fn: Callable[[jax.Array], TrainState], abstract_fn: Callable[[int], TrainState],
    sharding_table: str = '',
  ):
    self.config, self.mesh, self.streams, self.objective = config, mesh, dict(streams), objective
    self.stages, self.settings, self.stopped = tuple(stages), settings, False
    self.workdir = pathlib.Path(workdir) if workdir is not None else None
    self._evaluator, self._command = evaluator, command
    self._init_fn, self._abstract_fn, self._sharding_table = init_fn, abstract_fn, sharding_table
    if self.workdir is not None:
      self._claim_workdir()

  def init(self, *, quiet: bool = False) -> TrainState:
    """The state to go on from: the workdir's newest good checkpoint, else fresh parameters. The log says which.

    Args:
      quiet: fresh parameters are not worth a line.
    """
    restored = self.checkpoints.restore_latest(self._abstract) if self.checkpoints else None
    if restored is None:
      log.log(logging.DEBUG if quiet else logging.INFO, 'Fresh parameters from seed %d.', self.config['seed'])
      return self._init_fn(jax.device_put(jax.random.key(self.config['seed']), replicated(self.mesh)))
    state, data, _ = restored
    self._check_data(data)
    log.info('Restored step %d of %s.', int(state.step), self.workdir)
    return state

  def train(self, state: TrainState) -> tuple[TrainState, dict[str, float]]:
    """Trains to the end of the last stage. `state` is donated: use the one returned.

    Returns:
      (final state, validation metrics {'eval/<task>/<metric>': value}).
    """
    with self.recording(int(state.step)) as writer:
      state, metrics, self.stopped = train(
        state, self.stages, self.settings, task_names=list(self.objective.tasks), mesh=self.mesh, writer=writer,
        checkpoints=self.checkpoints, data_state=self._data_state)
    return state, metrics or self._last_metrics('validation')

  @contextlib.contextmanager
  def recording(self, step: int, share: float = 1.0) -> Iterator[MetricWriter | None]:
    """While it lasts, run.json says 'running'; then how it ended: 'finished', 'stopped' or 'failed', and why.

    Yields what writes the metrics from `step` on; None without a workdir, and on all hosts but the first.

    Args:
      step: where the run is.
      share: of the time, that is this run's.
    """
    started, writer = time.time(), None
    self._record(status='running', message='')
    if self.workdir is not None and jax.process_index() == 0:
      writer = MetricWriter(self.workdir, tensorboard=self.config['tensorboard'], resume_step=step)
    try:
      if self.workdir is not None and self._engines:
        self._record(gradients=self._engines)
      yield writer
    except KeyboardInterrupt:
      self._record(status='stopped', message='Interrupted.')
      raise
    except BaseException as error:
      self.mark_failed(error)
      raise
    finally:
      if writer is not None:
        writer.close()
      if self.checkpoints:
        self.checkpoints.wait()
    seconds = self._recorded().get('seconds', 0.0) + share * (time.time() - started)
    self._record(status='stopped' if self.stopped else 'finished', seconds=round(seconds, 1))

  def mark_failed(self, error: BaseException) -> None:
    """Says in run.json that the run failed, and why."""
    self._record(status='failed', message=f'{type(error).__name__}: {error}')

  def keeper(self, writer: MetricWriter | None, checkpoints: Any = None) -> Keeper:
    """What looks after this run beside its updates, for whoever makes the updates; see `mtjax.together`.

    Args:
      writer: of `recording`.
      checkpoints: what saves in place of the run's own.
    """
    saver = self.checkpoints if checkpoints is None else checkpoints
    return Keeper(self.settings, list(self.objective.tasks), self.mesh, writer, saver, self._data_state)

  def with_seed(self, seed: int, workdir: str | os.PathLike | None = None, device: jax.Device | None = None) -> 'Run':
    """The same run from another seed, of parameters, draws and data order; data and compiled programs are shared.

    Args:
      seed: see `seeded`.
      workdir: of the new run.
      device: where it is; None = where this one is.
    """
    if device is not None and self.mesh.size > 1:
      raise ValueError(f'A run on {self.mesh.size} devices cannot be moved to one: build it with mesh=dict(data=1).')
    mesh = self.mesh if device is None else one_device(device)
    key = jax.device_put(stream_key(jax.random.key(seed), 'train'), replicated(mesh))
    evaluator = self._evaluator.on(mesh)
    of = functools.cache(lambda stream: dataclasses.replace(stream, sampler=stream.sampler.with_seed(seed)))
    streams = {name: of(stream) for name, stream in self.streams.items()}
    stages = [dataclasses.replace(stage, streams={name: of(stream) for name, stream in stage.streams.items()}, rng=key,
                                  evaluate=evaluator) for stage in self.stages]
    return Run(config=seeded(self.config, seed), mesh=mesh, streams=streams, objective=self.objective, stages=stages,
               settings=self.settings, evaluator=evaluator, workdir=workdir, command=self._command,
               init_fn=self._init_fn, abstract_fn=self._abstract_fn)

  def evaluate(self, state: TrainState, split: str = 'test', *, record: bool = True) -> dict[str, float]:
    """Every task's metrics with counts: {'eval/<task>/<metric>': value}.

    Args:
      state: whose parameters (their moving average where there is one).
      split: 'train', 'validation' or 'test'.
      record: with a workdir, whether to write a line to its metrics.jsonl (once a step and split).
    """
    metrics, step = self._evaluator(eval_params(state), split), int(state.step)
    if record and self.workdir is not None and jax.process_index() == 0:
      lines = read_metrics(self.workdir)
      if not any(line['step'] == step and line.get('split') == split and 'eval/loss' in line for line in lines):
        with MetricWriter(self.workdir, tensorboard=self.config['tensorboard']) as writer:
          writer.write(step, split, metrics)
    return metrics

  def predict(self, state: TrainState, inputs: Any, *, stream: str | None = None,
              task: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Every task's outputs on inputs of one's own: {task: {'prediction': …, 'probabilities': …}}.

    Args:
      state: whose parameters.
      inputs: array [N, …], or a dict of arrays where the encoder reads several columns.
      stream: whose tasks; by default those of every stream whose inputs look like these.
      task: the task of each row, where rows are for one each; a task's outputs are then those of its 'rows'.
    """
    return self.predictor(eval_params(state), inputs, stream, task=task)

  def restore(self, checkpoint: str | int = 'last') -> TrainState:
    """A checkpoint of the workdir: 'last', 'best' (on validation), or a step."""
    if self.checkpoints is None:
      raise ValueError('This run has no workdir, so it has no checkpoints.')
    steps = self.checkpoints.steps
    if not steps:
      raise ValueError(f'There is no checkpoint in {self.checkpoints.directory}. Train first.')
    if checkpoint == 'last':
      return self.checkpoints.restore_latest(self._abstract)[0]
    if checkpoint == 'best':
      best = self.checkpoints.meta(steps[-1])['best']
      if best is None:
        raise ValueError('No evaluation has been made yet, so there is no best checkpoint.')
      checkpoint = best['step']
    if not str(checkpoint).isdigit() or int(checkpoint) not in steps:
      raise ValueError(f"checkpoint must be 'last', 'best' or one of {steps}, got {checkpoint!r}.")
    try:
      return self.checkpoints.restore(int(checkpoint), self._abstract)[0]
    except Damaged as error:
      raise ValueError(f'The checkpoint of step {checkpoint} is damaged: {error}. There are also those of steps '
                       f'{[step for step in steps if step != int(checkpoint)]}.') from error

  def report(self, state: TrainState | None = None) -> pathlib.Path:
    """Writes DIR/report.html; with `state`, sample predictions on the test split are drawn anew."""
    from mtjax.studies.run_report import write_run_report  # plotting only when asked for

    if self.workdir is None:
      raise ValueError('A report is made of the files of a workdir, which this run has not: build(config, workdir).')
    samples = self.predictor.samples(eval_params(state)) if state is not None else None
    if samples is not None:
      (self.workdir / 'samples.json').write_text(json.dumps(samples))
    return write_run_report(self.workdir, samples=samples)

  def batch(self, step: int) -> dict[str, Any]:
    """The training batch of a step, on the devices, as it goes into the objective."""
    rows = {name: host_rows(stream.batch_size) for name, stream in self.streams.items()}
    batch = {name: stream.train_batch(step, rows[name]) for name, stream in self.streams.items()}
    return put_batch(batch, batch_sharding(self.mesh))

  def describe(self) -> str:
    """What is printed at start: streams, tasks, parameters."""
    shapes = self._abstract_fn(0).params
    trainable = self.stages[0].trainable
    tasks = tree.align([('task', 'stream', 'label', 'head', 'weight', 'metrics'), *(
      (t.name, t.stream, t.label, type(t.head).__name__, f'{t.weight:g}', ', '.join(t.metrics.names))
      for t in self.objective.tasks.values())])
    parameters = tree.table(shapes, {'trained': lambda path, _: 'yes' if trainable[path] else 'no'})
    learnt, _ = tree.partition(shapes, trainable)
    totals = f'{tree.count(shapes):,} parameters, {tree.count(learnt):,} trained'
    engines = [f'stage {name}: {facts["description"]}' for name, facts in self._engines.items()]
    sharding = [f'mesh {dict(self.mesh.shape)}', self._sharding_table] if self._sharding_table else []
    return '\n\n'.join([*(s.describe() for s in self.streams.values()), tasks, parameters, totals, *sharding, *engines])

  @functools.cached_property
  def checkpoints(self) -> Checkpoints | None:
    """The workdir's checkpoints; None without a workdir."""
    if self.workdir is None:
      return None
    return Checkpoints(self.workdir / 'checkpoints', self.config['keep_checkpoints'])

  @functools.cached_property
  def predictor(self) -> Predictor:
    """Outputs per task, decoded."""
    return Predictor(self.objective, self.streams, self.mesh)

  @functools.cached_property
  def _engines(self) -> dict[str, dict[str, str]]:
    """{stage: facts of its gradient engine}, of the stages that have one."""
    shapes, found = self._abstract_fn(0).params, {}
    for stage in self.stages:
      if stage.engine is not None:
        example = {name: stream.train_batch(0) for name, stream in stage.streams.items()}
        found[stage.name] = stage.engine.facts(shapes, example)
    return found

  def _abstract(self, meta: Mapping[str, Any]) -> TrainState:
    shapes = self._abstract_fn(meta['stage'])
    if self.mesh.size > 1:
      return shapes
    sharding = replicated(self.mesh)  # the run may lie on another device than the one that it was built for
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)

  # --- the workdir's files

  def _claim_workdir(self) -> None:
    """Writes config.json, or refuses a workdir that holds another config."""
    path = self.workdir / 'config.json'
    if path.exists():
      changed = differences(json.loads(path.read_text()), self.config)
      if changed:
        raise ValueError(f'{self.workdir} was made with another config. Use another workdir, or undo the difference in'
                         + ''.join(f'\n  {line}' for line in changed))
      return
    if jax.process_index() == 0:
      self.workdir.mkdir(parents=True, exist_ok=True)
      _write_json(path, to_dict(self.config))
      _write_json(self.workdir / 'data.json', self._data_description())

  def _data_description(self) -> dict[str, Any]:
    return {name: {'source': ', '.join(d.name for d in stream.data_sets.values()),
                   'version': ', '.join(d.version for d in stream.data_sets.values()),
                   'splits': {split: {'rows': stream.num_rows(split), 'fingerprint': stream.fingerprint(split)}
                              for split in ('train', 'validation', 'test')}}
            for name, stream in self.streams.items()}

  def _data_state(self, stage: Stage, step: int) -> dict[str, Any]:
    return {'position': step, 'fingerprints': {n: s.fingerprint('train') for n, s in stage.streams.items()}}

  def _check_data(self, data: Mapping[str, Any]) -> None:
    for name, fingerprint in data['fingerprints'].items():
      now = {s.fingerprint('train') for stage in self.stages for n, s in stage.streams.items() if n == name}
      if fingerprint not in now:
        raise ValueError(f"The training data of stream '{name}' changed since the checkpoint was made (fingerprint "
                         f'{fingerprint}, now {", ".join(sorted(now))}), so the run cannot go on as it began.')

  def _recorded(self) -> dict[str, Any]:
    path = self.workdir / 'run.json' if self.workdir else None
    return json.loads(path.read_text()) if path and path.exists() else {}

  def _record(self, **fields: Any) -> None:
    if self.workdir is None or jax.process_index() > 0:
      return
    device = jax.devices()[0]
    learnt, _ = tree.partition(self._abstract_fn(0).params, self.stages[0].trainable)
    facts = {
      'started': datetime.datetime.now().isoformat(timespec='seconds'),
      'command': self._command or 'from Python: mtjax.experiment.build(config, workdir)',
      'versions': {'python': platform.python_version(),
                   **_versions('mtjax', 'jax', 'flax', 'optax', 'orbax-checkpoint')},
      'device': f'{device.device_kind} x {self.mesh.size}',
      'parameters': tree.count(self._abstract_fn(0).params),
      'trainable': tree.count(learnt),
      'metrics': {task.name: {spec.name: spec.to_json() for spec in task.metrics.specs}
                  for task in self.objective.tasks.values()},
    }
    _write_json(self.workdir / 'run.json', {**facts, **self._recorded(), **fields})

  def _last_metrics(self, split: str) -> dict[str, float]:
    lines = [line for line in read_metrics(self.workdir) if line.get('split') == split] if self.workdir else []
    return {k: v for k, v in lines[-1].items() if k.startswith('eval/')} if lines else {}


def seeded(config: Mapping[str, Any], seed: int) -> dict[str, Any]:
  """The config with one seed in all places: parameters and draws (`seed`), data order (`data.seed`, also of stages)."""
  config = to_dict(config)
  stages = [{**stage, 'data': {**stage['data'], 'seed': seed}} if 'data' in stage else stage
            for stage in config.get('stages', ())]
  return {**config, 'seed': seed, 'data': {**config['data'], 'seed': seed}, 'stages': stages}


def _versions(*names: str) -> dict[str, str]:
  """Of the installed ones; mtjax itself may be used from a folder without being installed."""
  versions = {}
  for name in names:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
      versions[name] = importlib.metadata.version(name)
  return versions


def _write_json(path: pathlib.Path, value: Any) -> None:
  temporary = path.with_suffix('.tmp')
  temporary.write_text(json.dumps(value, indent=2))
  temporary.replace(path)
