"""Predictions: a batch of inputs -> every task's outputs, decoded; and sample predictions for the report."""
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mtjax.config import did_you_mean
from mtjax.context import Ctx
from mtjax.data.formats import Bytes, decode_bytes
from mtjax.data.streams import Stream
from mtjax.metrics.decode import predictions, probabilities
from mtjax.objective import Objective
from mtjax.parallel import replicated
from mtjax.studies import maps
from mtjax.studies.html import encode_image
from mtjax.tasks import Task
from mtjax.training.text_evaluation import TextEvaluator

MAX_MAPS = 8  # samples of a task whose labels are drawn


class Predictor:
  """Runs encoder and heads on inputs of one's own.

  Args:
    objective: model and tasks.
    streams: {name: stream}; they say what inputs look like.
    mesh: where it runs.
  """

  def __init__(self, objective: Objective, streams: Mapping[str, Stream], mesh: Mesh):
    self._objective, self._streams, self._mesh = objective, dict(streams), mesh
    self._run = jax.jit(self._outputs, static_argnames='tasks', out_shardings=replicated(mesh))
    self._texts = TextEvaluator(objective, mesh)

  def __call__(self, params: Any, inputs: Any, stream: str | None = None, batch_size: int = 256,
               task: Sequence[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
    """{task: {'prediction': [N, …], 'probabilities': [N, C], …}}; see `decode`.

    Args:
      params: of the whole model.
      inputs: array [N, …], or {column: array}.
      stream: whose tasks; None = of every stream that reads such inputs.
      batch_size: rows at a time; the last batch is padded.
      task: the task of each row; the encoder then runs once, and each task has the outputs of its own rows, with
        'rows', their indices. None = every task of every row.
    """
    columns = self._check(inputs, stream)
    streams = [stream] if stream else [n for n, s in self._streams.items() if self._fits(s, columns)]
    tasks = tuple(t.name for t in self._objective.tasks.values() if t.stream in streams)
    if task is None:
      return self._of(params, columns, streams[0], tasks, batch_size)
    ids = self._ids(task, tasks, len(next(iter(columns.values()))))
    outputs = self._of(params, columns, streams[0], tasks, batch_size, ids)
    rows = {name: np.flatnonzero(np.asarray(task) == name) for name in tasks if name in task}
    return {name: {'rows': own, **{key: x[own] for key, x in outputs[name].items()}} for name, own in rows.items()}

  def samples(self, params: Any, split: str = 'test', per_task: int = 24) -> dict[str, dict[str, Any]]:
    """The first labelled rows of every task with what was predicted, or written, in the form of the report."""
    found = {}
    for stream in self._streams.values():
      tasks = {name: task for name, task in self._objective.tasks.items() if task.stream == stream.name}
      found |= {name: self._written(params, task, stream, split, per_task)
                for name, task in tasks.items() if task.generation}
      tasks = {name: task for name, task in tasks.items() if not task.generation}
      chosen = {name: ([], []) for name in tasks}  # positions among `rows`, labels
      rows: dict[tuple[int, int], dict[str, np.ndarray]] = {}
      for number, batch in enumerate(stream.eval_batches(split, min(256, stream.num_rows(split)))):
        for name, task in tasks.items():
          view = jax.device_get(task.view(batch))
          known = view['mask'].reshape(len(view['mask']), -1).any(1)
          for i in np.flatnonzero(known)[: per_task - len(chosen[name][0])]:
            rows.setdefault((number, int(i)), {column: batch[column][i] for column in stream.input_columns})
            chosen[name][0].append((number, int(i)))
            chosen[name][1].append(view['label'][i])
        if all(len(keys) >= per_task for keys, _ in chosen.values()):
          break
      if not rows:
        continue
      columns = {column: np.stack([row[column] for row in rows.values()]) for column in stream.input_columns}
      outputs = self._of(params, columns, stream.name, tuple(tasks), len(rows))
      position = {key: i for i, key in enumerate(rows)}
      for name, (keys, labels) in chosen.items():
        if keys:
          if maps.is_map(labels[0]):
            keys, labels = keys[:MAX_MAPS], labels[:MAX_MAPS]
          names = _class_names(stream, tasks[name])
          found[name] = {'kind': tasks[name].kind, 'rows': [
            {'input': _show_input(stream, columns, position[key]),
             **_compare(tasks[name].kind, outputs[name], position[key], label, names)}
            for key, label in zip(keys, labels)]}
    return {name: found[name] for name in self._objective.tasks if name in found}

  def _of(self, params: Any, columns: Mapping[str, np.ndarray], stream: str, tasks: tuple[str, ...], batch_size: int,
          ids: np.ndarray | None = None) -> dict[str, dict[str, np.ndarray]]:
    """The decoded outputs of these tasks, batch by batch; `ids`: the task of each row."""
    x = self._objective.stream_inputs(stream, columns)
    total = len(jax.tree.leaves(x)[0])
    size = min(batch_size, total)
    parts = []
    for start in range(0, total, size):
      index = np.minimum(np.arange(start, start + size), total - 1)
      own = None if ids is None else ids[index]
      parts.append(jax.device_get(self._run(params, _take(x, index), own, tasks=tasks)))
    whole = {name: np.concatenate([part[name] for part in parts])[:total] for name in tasks}
    return {name: decode(self._objective.tasks[name], out) for name, out in whole.items()}

  def _written(self, params: Any, task: Task, stream: Stream, split: str, count: int) -> dict[str, Any]:
    """The first rows of a task whose model writes: references and what it wrote."""
    rows = []
    for batch in stream.eval_batches(split, stream.batch_size):
      said, view = self._texts.write(params, task, batch)
      rows += [{'input': _show_input(stream, batch, i), 'label': view['label'][i], 'prediction': said[i], 'detail': '',
                'correct': None} for i in np.flatnonzero(view['mask'])]
      if len(rows) >= count:
        break
    return {'kind': 'text', 'rows': rows[:count]}

  def _outputs(self, params, inputs, ids, tasks):
    tasks = [self._objective.tasks[name] for name in tasks]
    if ids is None:
      return self._objective.each_task(params, inputs, tasks)
    features = self._objective.encode(params, inputs, ctx=Ctx(task_id=ids))
    return {task.name: self._objective.head(params, task, features) for task in tasks}

  def _ids(self, task: Sequence[str], tasks: Sequence[str], rows: int) -> np.ndarray:
    """[N] int32, each row's index into the run's tasks."""
    if isinstance(task, str) or len(task) != rows:
      raise ValueError(f"'task' must name a task for each of the {rows} rows, got {task!r}.")
    for name in dict.fromkeys(task):
      if name not in tasks:
        raise ValueError(f"Unknown task {name!r} in 'task'. {did_you_mean(name, tasks)}")
    return np.array([list(self._objective.tasks).index(name) for name in task], np.int32)

  def _check(self, inputs: Any, stream: str | None) -> dict[str, np.ndarray]:
    if stream is not None and stream not in self._streams:
      raise ValueError(f'Unknown stream {stream!r}. {did_you_mean(stream, self._streams)}')
    candidates = [self._streams[stream]] if stream else list(self._streams.values())
    columns = dict(inputs) if isinstance(inputs, Mapping) else None
    for candidate in candidates:
      names = candidate.input_columns
      given = columns if columns is not None else {names[0]: inputs} if len(names) == 1 else None
      if given is not None and len(given) == 1 and len(names) == 1:
        given = {names[0]: next(iter(given.values()))}  # a single array needs no name
      if given is not None and self._fits(candidate, given):
        return {name: np.asarray(given[name], candidate.schema[name][1]) for name in names}
    wanted = '; '.join(f"stream '{s.name}' reads " + ', '.join(
      f'{n} [N, {", ".join(map(str, s.schema[n][0]))}] {s.schema[n][1]}' for n in s.input_columns) for s in candidates)
    shown = inputs if isinstance(inputs, Mapping) else {'the input': inputs}
    got = ', '.join(f'{n} {list(np.shape(a))} {np.asarray(a).dtype}' for n, a in shown.items())
    raise ValueError(f'Inputs of the wrong shape or type: got {got}; but {wanted}.')

  def _fits(self, stream: Stream, columns: Mapping[str, Any]) -> bool:
    return all(name in columns and _fits(np.asarray(columns[name]), *stream.schema[name])
               for name in stream.input_columns)


def _fits(x: np.ndarray, shape: tuple[int, ...], dtype: np.dtype) -> bool:
  """Whether rows of `x` have this shape and their values this type; floats are never taken for whole numbers."""
  if x.shape[1:] != shape or not len(x):
    return False
  if dtype.kind in 'iu':
    return x.dtype.kind in 'iu' and np.iinfo(dtype).min <= x.min() and x.max() <= np.iinfo(dtype).max
  return x.dtype.kind in ('fiu' if dtype.kind == 'f' else dtype.kind)


def decode(task: Task, outputs: np.ndarray) -> dict[str, np.ndarray]:
  """A head's raw outputs -> {'prediction'} and, where the head has them, {'probabilities'}."""
  decoded = {'prediction': np.asarray(predictions(outputs, task.kind))}
  if task.kind != 'identity':
    decoded['probabilities'] = np.asarray(probabilities(outputs, task.kind))
  return decoded


def _take(tree: Any, index: np.ndarray) -> Any:
  return jax.tree.map(lambda x: x[index], tree)


def _class_names(stream: Stream, task: Task) -> list[str] | None:
  data_sets = list(stream.data_sets.values())
  return data_sets[task.row_id or 0].class_names.get(task.label) if data_sets else None


def _show_input(stream: Stream, columns: Mapping[str, np.ndarray], i: int) -> dict[str, Any]:
  """A row's first input column as a picture, a text, or numbers."""
  name = stream.input_columns[0]
  x = columns[name][i]
  if x.dtype == np.uint8 and x.ndim in (2, 3):
    return {'type': 'image', 'png': encode_image(x)}
  if any(isinstance(data_set.formats.get(name), Bytes) for data_set in stream.data_sets.values()):
    return {'type': 'text', 'text': decode_bytes(x)}
  return {'type': 'vector', 'values': np.asarray(x, np.float64).reshape(-1)[:16].tolist()}


def _compare(kind: str, output: Mapping[str, np.ndarray], i: int, label: Any, names: list[str] | None) -> dict:
  prediction = output['prediction'][i]
  if maps.is_map(label) and np.shape(label) == np.shape(prediction):
    return maps.sample(label, output['probabilities' if kind == 'sigmoid' else 'prediction'][i], kind)
  if np.ndim(label) or np.ndim(prediction) or kind == 'identity':
    show = lambda v: ', '.join(f'{float(x):.3g}' for x in np.ravel(v)[:8])
    return {'label': show(label), 'prediction': show(prediction), 'detail': '', 'correct': None}
  name = lambda c: names[int(c)] if names else str(int(c))
  p = output['probabilities'][i]
  share = p if np.ndim(p) == 0 else p[int(prediction)]
  return {'label': name(label), 'prediction': name(prediction), 'detail': f'p = {float(share):.2f}',
          'correct': bool(int(prediction) == int(label))}
