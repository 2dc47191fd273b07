"""Metrics of text: a task's model writes, the host reads, and what was written is compared with the references.

One compiled program a task (`mtjax.decoding.generate`), whatever the model is: encoder-decoder, decoder or state space.
Batch by batch it returns tokens; the task's tokenizer makes texts of them. How, says `mtjax.decoding.Generation`.
Shapes: B rows, L tokens of a label or reference, P of a prompt, N new ones.
"""
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mtjax.context import Ctx
from mtjax.data.streams import Stream
from mtjax.decoding.generate import generate, is_pair
from mtjax.objective import Objective
from mtjax.parallel import batch_sharding, everywhere, host_rows, put_batch
from mtjax.tasks import Task


class TextEvaluator:
  """`evaluator(params, task, stream, split, mesh, batch_size) -> {metric: value}` of the task's metrics of text.

  Args:
    objective: model and tasks.
    mesh: where it runs; another one may be given with each call, if it is of as many devices.
  """

  def __init__(self, objective: Objective, mesh: Mesh):
    self._objective = objective
    self._write = jax.jit(self._written, static_argnames='name', out_shardings=everywhere(mesh))

  def __call__(self, params: Any, task: Task, stream: Stream, split: str, mesh: Mesh,
               batch_size: int) -> dict[str, float]:
    """The numbers of `task.metrics.of_text`, over the rows that have a label, up to the task's limit."""
    metrics, left = task.metrics.of_text, task.generation.rows(split)
    state = metrics.init()
    for batch in stream.eval_batches(split, batch_size, host_rows(batch_size, batch_sharding(mesh))):
      # Of several hosts each sees its own rows, and all must run the program.
      if jax.process_count() == 1 and not _labelled(task.view(batch)['mask']).any():
        continue
      said, view = self.write(params, task, put_batch(batch, batch_sharding(mesh)))
      view['mask'] &= np.cumsum(view['mask']) <= left
      state, left = metrics.update(state, said, view), left - view['mask'].sum()
      if left <= 0:
        break
    return metrics.compute(state)

  def write(self, params: Any, task: Task, batch: Mapping[str, jax.Array]) -> tuple[list[str], dict[str, Any]]:
    """(a text a row, {'label': reference texts, 'mask': rows that have one, …}) of a batch of the task's stream."""
    made = jax.device_get(self._write(params, batch, name=task.name))
    decode = task.generation.tokenizer.decode
    said = decode(made['tokens'], np.arange(made['tokens'].shape[1]) < made['lengths'][:, None])
    label = decode(made['references'], made['known'])
    return said, {**made['columns'], 'label': label, 'mask': np.array(made['rows'])}

  def _written(self, params, batch, name):
    """Tokens [B, N] with lengths [B], references [B, L] with the mask of their tokens, the rows that count [B]."""
    objective, task = self._objective, self._objective.tasks[name]
    how, encoder, view, pair = task.generation, objective.encoder, task.view(batch), is_pair(objective.encoder)
    prompts, mask, begun = objective.stream_inputs(task.stream, batch), None, None
    tokens = view['label'] if how.references is None else batch[how.references]
    known = view['mask'] if how.references is None else batch[f'{how.references}_mask']
    known = jnp.broadcast_to(known.reshape(*known.shape, *[1] * (tokens.ndim - known.ndim)), tokens.shape)
    if pair:
      if isinstance(prompts, Mapping):
        prompts = prompts['inputs']
      start = jnp.full((len(tokens), 1), encoder.start_id, jnp.int32)
      begun = batch[how.prompts] if how.prompts else jnp.concatenate([start, view['label'][:, : how.prefix]], axis=1)
    else:
      prompts, mask = batch[how.prompts], batch[f'{how.prompts}_mask'] & (batch[how.prompts] >= 0)
      mask = mask | (~mask.any(axis=1, keepdims=True) & (jnp.arange(mask.shape[1])[None] == 0))  # rows of other tasks
      prompts = jnp.maximum(prompts, 0)
    made = generate(encoder, params.get('encoder', {}), prompts, mask=mask, decoder_prompts=begun,
                    max_new_tokens=how.max_new_tokens, head=task.head,
                    head_params=params.get('heads', {}).get(name, {}),
                    ctx=Ctx(task_id=objective.context(task.stream, batch).task_id), **how.options)
    given = how.prefix if how.references is None else 0
    known = known & (tokens >= 0) & (jnp.arange(tokens.shape[1])[None] >= given)
    return {'tokens': made.tokens, 'lengths': made.lengths, 'references': tokens, 'known': known,
            'rows': _labelled(view['mask']) & batch['valid'], 'columns': {c: view[c] for c in task.metrics.columns}}


def check_generation(task: Task, encoder: Any, inputs: Any) -> None:
  """Raises ValueError, naming the config field, where the encoder cannot write the task's texts.

  Args:
    task: one with `generation`.
    encoder: the model.
    inputs: the stream's input column(s).
  """
  where, how = f'tasks.{task.name}.generation', task.generation
  try:
    pair = is_pair(encoder)
  except ValueError as error:
    raise ValueError(f"'{where}': {error}") from error
  if not pair and not how.prompts:
    raise ValueError(f"'{where}.prompts' must name the column from which {type(encoder).__name__} goes on: it has no "
                     f'encoder that would read the inputs.')
  if not pair and how.prefix:
    raise ValueError(f"'{where}.prefix' is {how.prefix}, but {type(encoder).__name__} has no encoder; what is given "
                     f"stands in the column of '{where}.prompts'.")
  if pair and not isinstance(inputs, str) and 'inputs' not in inputs:
    raise ValueError(f"'{where}': {type(encoder).__name__} reads the columns 'inputs' and 'targets', but its stream "
                     f'has inputs={inputs!r}.')


def _labelled(mask: Any) -> Any:
  """[B] bool: rows that have a label."""
  return mask.reshape(len(mask), -1).any(axis=1)
