"""Evaluation: every row of a split once, every task's metrics with counts."""
import copy
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mtjax.data.streams import Stream
from mtjax.objective import Losses, Objective
from mtjax.parallel import batch_sharding, everywhere, host_rows, put_batch, put_everywhere
from mtjax.training.text_evaluation import TextEvaluator


class Evaluator:
  """Evaluates parameters on a split: `evaluator(params, 'test') -> {'eval/<task>/<metric>': value}`.

  One compiled step a stream. Metrics that stream keep their sums on the device; of those that collect (AUC, rank
  correlations) the step makes a chunk of rows, which the host puts together. Metrics of text are of what the model
  writes, see `mtjax.training.text_evaluation`. Padding is masked, so the batch size does not change a result.

  Args:
    objective: model and tasks.
    streams: {name: stream}.
    task_weights: [T], of the total loss.
    mesh: where it runs.
    batch_size: rows a step, over all hosts; None = each stream's own.
  """

  def __init__(self, objective: Objective, streams: Mapping[str, Stream], task_weights: np.ndarray, mesh: Mesh,
               batch_size: int | None = None):
    self._objective, self._streams, self._mesh = objective, dict(streams), mesh
    self._task_weights = np.asarray(task_weights)
    self._batch_size = batch_size
    self._step = jax.jit(self._eval_step, donate_argnums=2, static_argnames='stream',
                         out_shardings=everywhere(mesh))
    self._texts = TextEvaluator(objective, mesh)

  def on(self, mesh: Mesh) -> 'Evaluator':
    """The same, compiled function included, for parameters that lie on another mesh."""
    other = copy.copy(self)
    other._mesh = mesh
    return other

  def __call__(self, params: Any, split: str) -> dict[str, float]:
    """The metrics of one split. Names: 'eval/loss' (weighted sum), 'eval/<task>/loss', …/n, …/<metric>."""
    if split not in ('train', 'validation', 'test'):
      raise ValueError(f"split must be 'train', 'validation' or 'test', got {split!r}.")
    tasks = self._objective.tasks
    values: dict[str, float] = {}
    losses = {}
    for name, stream in self._streams.items():
      state, collected = self._run(params, name, stream, split)
      sums, weights = jax.device_get((state['losses'].sums, state['losses'].weights))
      for i, (task_name, task) in enumerate(tasks.items()):
        if task.stream != name:
          continue
        losses[task_name] = float(sums[i] / weights[i]) if weights[i] else float('nan')
        values[f'eval/{task_name}/loss'] = losses[task_name]
        values[f'eval/{task_name}/n'] = int(weights[i])
        computed = task.metrics.streaming.compute(jax.device_get(state['metrics'][task_name]))
        computed |= task.metrics.collecting.compute(collected[task_name])
        if task.metrics.of_text:
          size = self._batch_size or stream.batch_size
          computed |= self._texts(params, task, stream, split, self._mesh, size)
        values |= {f'eval/{task_name}/{metric}': float(computed[metric]) for metric in task.metrics.names}
    total = sum(w * losses[name] for name, w in zip(tasks, self._task_weights))
    return {'eval/loss': float(total), **values}

  def _run(self, params: Any, name: str, stream: Stream, split: str) -> tuple[dict, dict]:
    tasks = {n: t for n, t in self._objective.tasks.items() if t.stream == name}
    state = {'losses': Losses.zero(len(self._objective.tasks)),
             'metrics': {n: t.metrics.streaming.init() for n, t in tasks.items()}}
    state = put_everywhere(state, self._mesh)
    collected = {n: t.metrics.collecting.init() for n, t in tasks.items()}
    size, sharding = self._batch_size or stream.batch_size, batch_sharding(self._mesh)
    for batch in stream.eval_batches(split, size, host_rows(size, sharding)):
      state, chunks = self._step(params, put_batch(batch, sharding), state, stream=name)
      for n, chunk in jax.device_get(chunks).items():
        collected[n] = tasks[n].metrics.collecting.merge(collected[n], chunk)
    return state, collected

  def _eval_step(self, params, batch, state, stream):
    outputs = self._objective.outputs(params, {stream: batch})
    losses = state['losses'] + self._objective.losses(outputs, {stream: batch})
    metrics, chunks = {}, {}
    for name, output in outputs.items():
      task = self._objective.tasks[name]
      view = task.view(batch)
      metrics[name] = task.metrics.streaming.update(state['metrics'][name], output, view)
      chunks[name] = task.metrics.collecting.update(task.metrics.collecting.init(), output, view)
    return {'losses': losses, 'metrics': metrics}, chunks
