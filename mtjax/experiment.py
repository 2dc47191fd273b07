"""ConfigDict -> a run. The one place where config names meet classes.

  run = mtjax.experiment.build(config)
  state = run.init()
  state, metrics = run.train(state)
  run.evaluate(state)
"""
import functools
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from mtjax import tree
from mtjax.adapters import Spec
from mtjax.config import check_keys, did_you_mean, keywords, to_dict
from mtjax.data import configure
from mtjax.data.streams import Stream, labels_of
from mtjax.metrics.collection import Collection
from mtjax.objective import Objective, stream_key
from mtjax.parallel import batch_parts, make_mesh, partitions, replicated, rules, shardings
from mtjax.registries import ENCODERS, FORMATS, HEADS, LOSSES, METRICS, SOURCES
from mtjax.run import Run
from mtjax.tasks import Task
from mtjax.training.engine.configure import make_engine
from mtjax.training.evaluation import Evaluator
from mtjax.training.loop import Settings, Stage
from mtjax.training.optimizer import make_optimizer
from mtjax.training.state import init_state, make_train_step

_TASK_KEYS = ('label', 'head', 'loss', 'metrics', 'weight', 'stream', 'rows')
_STAGE_KEYS = ('name', 'steps', 'data', 'optimizer', 'aggregator', 'sharpness', 'gradients', 'frozen', 'weights')


def default_config() -> ml_collections.ConfigDict:
  """Every field of a run with its default.

  seed: of parameters and dropout.
  data: one stream (`name`, a data set of ours or 'tfds:…'; `config`, its variant; `splits`, TFDS expressions; `inputs`,
    the column(s) fed to the encoder; `format`, new columns; `batch_size`), or several: `streams={name: {…}}`. A stream
    is a mixture where it has `mixture={source: {name, …, weight}}` in place of `name`; with `temperature`, `maximum`
    (in place of weights), `unit` ('examples' or 'tokens'), `block_size`, and `unmixed=True` for batches of one source
    each (whose shares are then those of batches). `batch_size` is rows a step over all hosts;
    given beside `streams`, it is divided equally over those that have none of their own. Of all streams: `seed` of the
    order, `eval_batch_size`, `in_memory_mb` (splits below it are read into arrays; default 1024).
  tasks: {task: dict(label, head, loss?, metrics?, weight=1.0, stream?, rows?)}; `rows` is the source whose rows a task
    reads in a mixture. Their order is that of the losses; a ConfigDict sorts its keys. `metrics` is a list of names or
    of dict(name, …), see `mtjax.metrics`; the first is the task's primary one. What a metric reads besides the label
    (`dict(name='gauc', group='user')`) is a column of the stream, taken as labels are: -1 or NaN there becomes 0.
  encoder: dict(name, …); dict(name='hf', directory, …) = a Hugging Face checkpoint with its weights, a folder or
    'fetched:NAME', whose fields may be changed (pool, dropout_rate, remat, …).
  adapters: list of dict(site, match, method, bank?, start?, name?), what modifies the encoder, see
    `mtjax.adapters.spec`; or dict(rules=[…], trainable_base=[…]). `bank=dict(per='task')` has a set of parameters for
    each of the tasks. The encoder itself is then frozen; of what `trainable_base` names, a copy is trained.
  optimizer: dict(name, lr, …), see `mtjax.training.optimizer`.
  aggregator: dict(name, …), how one update is made of the tasks' gradients (`mtjax.optim`); {} = the sum of the losses
    times their weights, which also scale the losses that a method sees. `preference` is a list in the order of the
    tasks, or {task: value}.
  sharpness: dict(name='sam' | 'asam' | 'gsam' | 'looksam' | 'fsam' | 'ftl', rho, …), see `mtjax.optim.sharpness`; 'ftl'
    splits the aggregator's work over a loss part and a flatness part; {} = none.
  gradients: how the engine works, see `mtjax.training.engine.options`: plan, at, every_k, sub_batch, layers, ema,
    group, sketch, chunk, accumulate, affinity_every, max_bad.
  frozen: regular expressions over parameter paths that are not trained.
  ema: decay of the moving average of the parameters that is evaluated, 0 = none.
  steps: updates, where there is one stage.
  stages: list of dict(name, steps, data?, optimizer?, aggregator?, sharpness?, gradients?, frozen?,
    weights?={task: weight}); what a stage leaves out it takes from the top. Evaluation is on the top's data throughout.
  log_every, eval_every, checkpoint_every: periods in steps. keep_checkpoints: how many of the last stay.
  best: dict(metric='eval/…', mode='min'|'max'): the validation metric that chooses the best checkpoint.
  mesh: dict(data=-1, fsdp=1, tensor=1, expert=1): sizes of the axes of the device mesh, -1 = what is left over; see
    `mtjax.parallel.mesh`.
  sharding: list of (pattern, axes), tried before the default rules; see `mtjax.parallel.rules`.
  tensorboard: whether to write its events too (extra `tensorboard`).
  """
  return ml_collections.ConfigDict({
    'seed': 0,
    'data': {'batch_size': 128, 'seed': 0},
    'tasks': {},
    'encoder': {},
    'adapters': None,
    'optimizer': {'name': 'adam', 'lr': 1e-3},
    'aggregator': {},
    'sharpness': {},
    'gradients': {},
    'frozen': (),
    'ema': 0.0,
    'steps': 1000,
    'stages': (),
    'log_every': 50,
    'eval_every': 500,
    'checkpoint_every': 500,
    'keep_checkpoints': 2,
    'best': {'metric': 'eval/loss', 'mode': 'min'},
    'mesh': {'data': -1},
    'sharding': (),
    'tensorboard': True,
  })


def build(config: Any, workdir: str | pathlib.Path | None = None, command: str | None = None) -> Run:
  """Checks a config and puts together what it names.

  Args:
    config: a ConfigDict or dict with (some of) the fields of `default_config`.
    workdir: where the run keeps its files; None = nowhere (a notebook).
    command: how it was started, for the report.

  Raises ValueError naming the field, the value and what is allowed.
  """
  config = _complete(config)
  mesh = make_mesh(config['mesh'])
  data = configure.complete(config['data'])
  factory = configure.StreamFactory(SOURCES, FORMATS, batch_parts(mesh))
  streams = factory(data, _labels(config['tasks'], data['streams']))
  tasks = {name: _task(name, spec, streams) for name, spec in config['tasks'].items()}
  specs = config['stages'] or [{'name': 'train', 'steps': config['steps']}]
  stage_streams = [_stage_streams(i, spec, config, factory, streams) for i, spec in enumerate(specs)]
  for group in (streams, *stage_streams):
    for stream in group.values():
      _check_labels(stream, tasks)
  for stream in streams.values():
    _check_is_read(stream, tasks)
  inputs = {name: stream.inputs for group in (*stage_streams, streams) for name, stream in group.items()}
  rows = {name: stream.most_rows for group in (*stage_streams, streams) for name, stream in group.items()
          if stream.mixture}
  encoder, weights = _encoder(config['encoder'])
  adapters = Spec.from_json(config['adapters']).with_tasks(list(tasks)) if config['adapters'] else None
  objective = Objective(encoder, tasks, inputs, rows, mesh if mesh.size > 1 else None, adapters)

  rng = jax.device_put(jax.random.key(config['seed']), replicated(mesh))
  example = {name: stream.train_batch(0, slice(0, 1)) for name, stream in streams.items()}
  blank = jax.tree.map(lambda x: (x.shape, x.dtype), example)  # zeros: the program of two data sets is then the same

  def init_params(rng, weights=None):
    zeros = jax.tree.map(lambda spec: jnp.zeros(*spec), blank, is_leaf=lambda x: isinstance(x, tuple))
    return objective.init(stream_key(rng, 'params'), zeros, weights)

  shapes = jax.eval_shape(init_params, rng)
  if weights is not None:
    weights = _fitting(weights, shapes['encoder'])
  split = partitions(shapes, mesh, _sharding_rules(config['sharding']))
  evaluator = Evaluator(objective, streams, _weights(tasks, {}), mesh, data['eval_batch_size'])
  stages, begins = [], []
  for spec, own in zip(specs, stage_streams):
    start = stages[-1].end if stages else 0
    stage, begin = _stage(spec, config, start, own, objective, shapes, mesh, split, rng, evaluator, example)
    stages.append(stage)
    begins.append(begin)
  init = jax.jit(lambda rng, weights: begins[0](init_params(rng, weights)),
                 out_shardings=_placed(begins[0], shapes, split, mesh))
  return Run(config=config, mesh=mesh, streams=streams, objective=objective, stages=stages,
             settings=_settings(config, tasks), evaluator=evaluator, workdir=workdir, command=command,
             init_fn=lambda rng: init(rng, weights),
             abstract_fn=functools.cache(lambda stage: _abstract(begins[stage], shapes, split, mesh)),
             sharding_table=rules.describe(shapes, split, mesh) if mesh.size > 1 else '')


def load_run(workdir: str | pathlib.Path) -> Run:
  """The run of an existing workdir, built from its config.json."""
  path = pathlib.Path(workdir) / 'config.json'
  if not path.exists():
    raise FileNotFoundError(f'{workdir} is no run folder: it has no config.json.')
  return build(json.loads(path.read_text()), workdir)


def _complete(config: Any) -> dict[str, Any]:
  """The whole config as plain data, checked for keys and numbers."""
  given, defaults = to_dict(config), to_dict(default_config())
  check_keys(given, defaults, '')
  config = defaults | given
  for field in ('optimizer', 'best', 'mesh', 'aggregator', 'sharpness', 'gradients'):
    if not isinstance(config[field], dict):
      raise ValueError(f"'{field}' must be a dict, got {config[field]!r}.")
  for field in ('log_every', 'eval_every', 'checkpoint_every', 'keep_checkpoints', 'steps'):
    if not isinstance(config[field], int) or config[field] < 1:
      raise ValueError(f"'{field}' must be a whole number >= 1, got {config[field]!r}.")
  if not 0 <= config['ema'] < 1:
    raise ValueError(f"'ema' must be in 0 … 1 (exclusive), got {config['ema']!r}.")
  if not config['tasks']:
    raise ValueError("'tasks' is empty: name at least one, e.g. dict(left=dict(label='left', "
                     "head=dict(name='classification', classes=10))).")
  for i, stage in enumerate(config['stages']):
    check_keys(stage, _STAGE_KEYS, f'stages.{i}')
    if not isinstance(stage.get('steps'), int) or stage['steps'] < 1:
      raise ValueError(f"'stages.{i}.steps' must be a whole number >= 1, got {stage.get('steps')!r}.")
    check_keys(stage.get('weights', {}), config['tasks'], f'stages.{i}.weights')
  return config


def _encoder(spec: Mapping[str, Any]) -> tuple[Any, Any]:
  """(the encoder, the weights that it begins with; None = fresh ones)."""
  spec = {'name': spec} if isinstance(spec, str) else dict(spec)
  if spec.get('name') != 'hf':
    return ENCODERS.build(spec, 'encoder'), None
  from mtjax.interop import hf, tokenizers  # here, because `import mtjax` stays light

  if 'directory' not in spec:
    raise ValueError("'encoder.directory' must name a checkpoint: a folder, or 'fetched:NAME'.")
  module, weights = hf.load(tokenizers.local(spec['directory']))
  fields = {key: value for key, value in spec.items() if key not in ('name', 'directory')}
  check_keys(fields, keywords(type(module)), 'encoder')
  return module.clone(**fields), weights


def _fitting(weights: Any, shapes: Any) -> Any:
  """The weights that the encoder has a place for; raises ValueError listing those that it misses."""
  found, wanted = tree.flatten(weights), tree.flatten(shapes)
  wrong = [path for path, x in wanted.items() if path not in found or found[path].shape != x.shape]
  if wrong:
    raise ValueError(f"The checkpoint of 'encoder.directory' has not, or of another shape: {', '.join(wrong)}.")
  return tree.unflatten({path: found[path].astype(x.dtype) for path, x in wanted.items()})


def _labels(tasks: Mapping[str, Any], streams: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
  """{stream: the columns that tasks read from it: labels, and what metrics need besides}."""
  labels: dict[str, set[str]] = {name: set() for name in streams}
  for name, spec in tasks.items():
    check_keys(spec, _TASK_KEYS, f'tasks.{name}')
    if 'label' not in spec or 'head' not in spec:
      raise ValueError(f"'tasks.{name}' needs a label (a column of its stream) and a head.")
    metrics = _metrics(_head(spec['head'], f'tasks.{name}.head'), spec, f'tasks.{name}.metrics')
    labels[_stream_of(name, spec, streams)] |= {spec['label'], *metrics.columns}
  return {name: tuple(sorted(columns)) for name, columns in labels.items()}


def _stage_streams(i: int, spec: Mapping[str, Any], config: Mapping[str, Any], factory: configure.StreamFactory,
                   streams: Mapping[str, Stream]) -> Mapping[str, Stream]:
  """The streams of a stage: its own, or those of the top. A stage may leave tasks out by leaving out their stream."""
  if 'data' not in spec:
    return streams
  apart = 'streams' in spec['data'] or 'name' in spec['data'] or 'mixture' in spec['data']
  data = configure.complete(spec['data'] if apart else {**config['data'], **spec['data']}, f'stages.{i}.data')
  present = {name: task for name, task in config['tasks'].items()
             if _stream_of(name, task, streams) in data['streams']}
  if not present:
    raise ValueError(f"'stages.{i}.data' has the streams {', '.join(data['streams'])}, which no task reads. "
                     f'Tasks read: {", ".join(streams)}.')
  return factory(data, _labels(present, data['streams']))


def _stream_of(name: str, spec: Mapping[str, Any], streams: Mapping[str, Any]) -> str:
  """The stream that a task reads: the one it names, the one called like it, or the only one."""
  only = next(iter(streams)) if len(streams) == 1 else None
  stream = spec.get('stream') or (name if name in streams else only)
  if stream not in streams:
    raise ValueError(f"'tasks.{name}.stream' is {stream!r}. {did_you_mean(stream or name, streams)}")
  return stream


def _task(name: str, spec: Mapping[str, Any], streams: Mapping[str, Stream]) -> Task:
  where = f'tasks.{name}'
  stream = streams[_stream_of(name, spec, streams)]
  head = _head(spec['head'], f'{where}.head')
  loss = spec.get('loss') or getattr(head, 'default_loss', None)
  if loss is None:
    raise ValueError(f"'{where}.loss' must be given: {type(head).__name__} has no default_loss. "
                     f'Known: {", ".join(sorted(LOSSES))}.')
  loss = _loss(loss, f'{where}.loss')
  rows, row_id = spec.get('rows') or (name if stream.mixture and name in stream.sources else None), None
  if rows is not None:
    if not stream.mixture or rows not in stream.sources:
      known = stream.sources if stream.mixture else ()
      raise ValueError(f"'{where}.rows' is {rows!r}, no source of a mixture. {did_you_mean(rows, known)}")
    row_id = list(stream.sources).index(rows)
  weight = spec.get('weight', 1.0)
  _check_weight(weight, f'{where}.weight')
  return Task(name, stream.name, spec['label'], head, loss, _metrics(head, spec, f'{where}.metrics'),
              float(weight), row_id)


def _head(spec: Any, where: str) -> Any:
  """A head, which may hold another one."""
  spec = {'name': spec} if isinstance(spec, str) else dict(spec)
  inner = {'head': _head(spec.pop('head'), f'{where}.head')} if 'head' in spec else {}
  return HEADS.build(spec, where, **inner)


def _metrics(head: Any, spec: Mapping[str, Any], where: str) -> Collection:
  """The metrics of a task: those it names, or its head's. What they want to know of the head they are told."""
  metrics: dict[str, Any] = {}
  for metric in spec.get('metrics') or getattr(head, 'default_metrics', ()):
    metric = {'name': metric} if isinstance(metric, str) else dict(metric)
    wanted = keywords(METRICS.lookup(metric.get('name'))) or ()
    facts = {'kind': getattr(head, 'kind', 'identity'), 'classes': getattr(head, 'classes', None)}
    metric = {field: value for field, value in facts.items() if field in wanted and value is not None} | metric
    built = METRICS.build(metric, where)
    taken = {number.name for other in metrics.values() for number in other.specs}
    for number in built.specs:
      if number.name in taken:
        raise ValueError(f"'{where}' gives '{number.name}' twice. Leave one out.")
    metrics[' '.join(number.name for number in built.specs)] = built
  return Collection(metrics)


def _loss(spec: Any, where: str) -> Callable:
  spec = {'name': spec} if isinstance(spec, str) else dict(spec)
  function = LOSSES.lookup(spec.pop('name', None))
  check_keys(spec, [k for k in keywords(function) or spec if k not in ('outputs', 'label', 'mask')], where)
  return functools.partial(function, **spec) if spec else function


def _check_weight(weight: Any, where: str) -> None:
  if not isinstance(weight, (int, float)) or not weight > 0 or not np.isfinite(weight):
    raise ValueError(f"'{where}' must be a finite number > 0, got {weight!r}. To leave a task out, remove it.")


def _check_is_read(stream: Stream, tasks: Mapping[str, Task]) -> None:
  """Rows that no task learns from are a mistake."""
  readers = [task.row_id for task in tasks.values() if task.stream == stream.name]
  if not readers:
    raise ValueError(f"No task reads the stream '{stream.name}'. Remove it, or give a task stream='{stream.name}'.")
  idle = [source for i, source in enumerate(stream.sources) if i not in readers and None not in readers]
  if idle:
    raise ValueError(f"No task reads the rows of '{idle[0]}' in the mixture '{stream.name}'. Remove that source, or "
                     f"give a task rows='{idle[0]}'.")


def _check_labels(stream: Stream, tasks: Mapping[str, Task]) -> None:
  """Labels that a head cannot produce are an error before anything is compiled."""
  for task in tasks.values():
    if task.stream != stream.name:
      continue
    for source, split, label, mask in labels_of(stream, task.label):
      if task.row_id is not None and source != list(stream.sources)[task.row_id]:
        continue
      known = mask.reshape(len(mask), -1).all(1) if mask.ndim > 1 else mask
      try:
        getattr(task.head, 'check_label', lambda *_: None)(label[known], task.label)
      except ValueError as error:
        raise ValueError(f"Task '{task.name}', {split} split of '{source}': {error}") from error


def _weights(tasks: Mapping[str, Task], override: Mapping[str, float]) -> np.ndarray:
  return np.array([override.get(name, task.weight) for name, task in tasks.items()], np.float32)


def _trainable(frozen: Any, shapes: Any) -> dict[str, bool]:
  """{path: bool}; raises ValueError when nothing is left to train. An encoder with adapters is frozen itself."""
  chosen = tree.select(tuple(frozen), shapes)
  if 'adapters' in shapes:
    chosen = {path: is_frozen or path.startswith(('encoder/', 'adapters/stats/')) for path, is_frozen in chosen.items()}
  if all(chosen.values()):
    raise ValueError(f"'frozen' = {list(frozen)} matches every parameter: nothing is left to train.")
  return {path: not is_frozen for path, is_frozen in chosen.items()}


def _stage(spec, config, start, streams, objective, shapes, mesh, split, rng, evaluator,
           example) -> tuple[Stage, Callable]:
  """(a stage, its start: (params, step=0, moving average of the stage before=None) -> state)."""
  for task, weight in spec.get('weights', {}).items():
    _check_weight(weight, f'stages.weights.{task}')
  weights, ema = _weights(objective.tasks, spec.get('weights', {})), config['ema']
  trainable = _trainable(spec.get('frozen', config['frozen']), shapes)
  learnt, _ = tree.partition(shapes, trainable)
  tx, schedule = make_optimizer(spec.get('optimizer', config['optimizer']), learnt, spec['steps'])
  fields = {field: dict(spec.get(field, config[field])) for field in ('aggregator', 'sharpness', 'gradients')}
  epoch = max(-(-stream.num_rows('train') // stream.batch_size) for stream in streams.values())
  engine = make_engine(objective, **fields, trainable=trainable, weights=weights, schedule=schedule,
                       steps_per_epoch=epoch)
  update = make_train_step(objective, tx, trainable, weights, ema, engine)

  def begin(params, step=0, old_ema=None):
    gradients = engine.init(params, example) if engine is not None else None
    affinity = engine is not None and engine.options.affinity_every > 0
    return init_state(params, tx, trainable, len(weights), ema, step, old_ema, gradients, affinity)

  placed = _placed(begin, shapes, split, mesh)
  return Stage(
    name=spec.get('name', f'from {start}'), start=start, end=start + spec['steps'], streams=streams,
    trainable=trainable, task_weights=weights, schedule=schedule,
    enter=jax.jit(lambda state: begin(state.params, state.step, state.ema), out_shardings=placed),
    update=jax.jit(update, donate_argnums=0, out_shardings=placed), evaluate=evaluator,
    rng=stream_key(rng, 'train'), engine=engine), begin


def _placed(begin: Callable, shapes: Any, specs: Mapping[str, Any], mesh: Any) -> Any:
  """Where a stage's state lies; None of a single device: where the arguments are."""
  return shardings(jax.eval_shape(begin, shapes), specs, shapes, mesh) if mesh.size > 1 else None


def _abstract(begin: Callable, shapes: Any, specs: Mapping[str, Any], mesh: Any) -> Any:
  """A stage's state as shapes that know where they lie."""
  state = jax.eval_shape(begin, shapes)
  return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state,
                      shardings(state, specs, shapes, mesh))


def _sharding_rules(given: Any) -> list[tuple[str, Any]]:
  """config.sharding as pairs."""
  pairs = []
  for rule in given:
    if not isinstance(rule, (list, tuple)) or len(rule) != 2 or not isinstance(rule[0], str):
      raise ValueError(f"'sharding' is a list of (pattern, axes), e.g. [(r'mlp/fc1/kernel$', ('fsdp', 'tensor'))]; "
                       f'got {rule!r}.')
    pairs.append((rule[0], rule[1] if isinstance(rule[1], str) else tuple(rule[1])))
  return pairs


def _settings(config: Mapping[str, Any], tasks: Mapping[str, Task]) -> Settings:
  best = {'metric': 'eval/loss', 'mode': 'min', **config['best']}
  check_keys(best, ('metric', 'mode'), 'best')
  if best['mode'] not in ('min', 'max'):
    raise ValueError(f"'best.mode' must be 'min' or 'max', got {best['mode']!r}.")
  names = ['eval/loss', *(f'eval/{t.name}/{m}' for t in tasks.values() for m in ('loss', *t.metrics.names))]
  if best['metric'] not in names:
    raise ValueError(f"'best.metric' is {best['metric']!r}; the best checkpoint is chosen on the validation split. "
                     f'{did_you_mean(best["metric"], names)}')
  return Settings(**{k: config[k] for k in ('log_every', 'eval_every', 'checkpoint_every')},
                  best=best['metric'], best_mode=best['mode'])
