"""The objective: model and tasks -> the vector of task losses. All that the training engine knows of a model."""
import functools
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mtjax import tree
from mtjax.adapters import Spec, bind, init_adapters
from mtjax.autodiff.sinks import apply_with_sinks
from mtjax.context import Ctx, Features
from mtjax.parallel import on
from mtjax.tasks import Task

Params = dict[str, Any]


@flax.struct.dataclass
class Losses:
  """The vector of losses as sums with weights, divided once, at the end.

      values[t] = sums[t] / weights[t]      (0 where weights[t] = 0)

  So `a + b` is the loss of two batches together: masks, padding, micro-batches and uneven hosts are right by
  construction.

  Attributes:
    sums: [T] float32, sum of the losses of the labelled rows of each task.
    weights: [T] float32, how many there are.
  """

  sums: jax.Array
  weights: jax.Array

  @property
  def active(self) -> jax.Array:
    """[T] bool: the tasks that have a labelled row."""
    return self.weights > 0

  @property
  def values(self) -> jax.Array:
    """[T] mean loss of each task; 0 for a task without a labelled row."""
    return jnp.where(self.active, self.sums / jnp.where(self.active, self.weights, 1.0), 0.0)

  def total(self, task_weights: jax.Array) -> jax.Array:
    """sum_t task_weights[t] * values[t], a scalar."""
    return jnp.sum(task_weights * self.values)

  def __add__(self, other: 'Losses') -> 'Losses':
    return Losses(self.sums + other.sums, self.weights + other.weights)

  @classmethod
  def zero(cls, num_tasks: int) -> 'Losses':
    """No rows of any task."""
    return cls(jnp.zeros(num_tasks), jnp.zeros(num_tasks))


def stream_key(key: jax.Array, name: str, step: Any = 0) -> jax.Array:
  """A key for one named use at one step; independent of what other uses exist."""
  return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(name.encode())), step)


class Objective:
  """A shared encoder with a head a task: `objective(params, batch, rng, step) -> Losses`.

  Parameters: {'encoder': …, 'heads': {task: …}}, and with adapters {'adapters': …}. Streams whose inputs look alike go
  through the encoder in one call.

  Args:
    encoder: inputs -> Features.
    tasks: {name: task}; their order is that of the losses.
    inputs: {stream: input column(s)}; a str feeds the array alone, a tuple a dict of arrays.
    rows: {mixture: {task_id: the most rows of it that a batch can hold}}, by which `split` takes mixtures apart.
    mesh: over whose devices the encoder's activations lie by rows; None = as they come.
    adapters: what modifies the encoder; its banks go by the names of the tasks.
  """

  def __init__(self, encoder: nn.Module, tasks: Mapping[str, Task], inputs: Mapping[str, str | Sequence[str]],
               rows: Mapping[str, Mapping[int, int]] | None = None, mesh: Mesh | None = None,
               adapters: Spec | None = None):
    self.encoder, self.tasks, self._inputs, self._rows = encoder, dict(tasks), dict(inputs), dict(rows or {})
    self._mesh, self.adapters = mesh, adapters
    self._adapted = None if adapters is None else bind(encoder, adapters)

  def init(self, rng: jax.Array, batch: Mapping[str, Mapping[str, jax.Array]], encoder: Params | None = None) -> Params:
    """Fresh parameters; each part draws from a key of its own name, so that adding a task leaves the others alone.

    Args:
      rng: the key.
      batch: an example.
      encoder: its parameters, where they are given.
    """
    heads, x = {}, None
    for stream, columns in batch.items():
      x = self.stream_inputs(stream, columns)
      if not encoder:
        encoder = _parameters(self.encoder.init(stream_key(rng, 'encoder'), x), self.encoder)
      features = self.encoder.apply({'params': encoder}, x)
      for task in self._tasks_of(stream):
        variables = task.head.init(stream_key(rng, f'heads/{task.name}'), features)
        heads[task.name] = _parameters(variables, task.head)
    params = {'encoder': encoder, 'heads': {name: heads[name] for name in self.tasks}}
    if self.adapters is not None:
      adapters = init_adapters(stream_key(rng, 'adapters'), self.encoder, encoder, self.adapters, x)
      params['adapters'] = tree.merge(adapters)  # without empty parts, which an update would drop
    return params

  def __call__(self, params: Params, batch: Mapping[str, Mapping[str, jax.Array]], rng: jax.Array, step: Any) -> Losses:
    """The losses of a training batch {stream: {column: array}}; dropout is on, drawn from `rng` at `step`."""
    outputs = self.outputs(params, batch, rng=stream_key(rng, 'dropout', step), train=True)
    return self.losses(outputs, batch)

  def apart(self, params: Params, sinks: Params, batch: Mapping[str, Mapping[str, jax.Array]], rng: jax.Array,
            step: Any) -> Losses:
    """The losses of a batch whose pieces serve one task each, with the encoder's gradients apart.

    Args:
      params, batch, rng, step: as ever.
      sinks: {'encoder': …}, zeros [S, *shape], row s for piece s of `split(batch)`: what is differentiated in them is
        the encoder's gradient of that piece, see `mtjax.autodiff.sinks`.
    """
    rng, encoder, pieces, pairs = stream_key(rng, 'dropout', step), params.get('encoder', {}), self._pieces(batch), {}

    def encode(encoder, x, ctx, key):
      with on(self._mesh):
        return self.encoder.apply({'params': encoder}, x, ctx=ctx, train=True, rngs={'dropout': key})

    for members in _grouped([self._kind(stream, columns, rows=True) for stream, _, columns in pieces]):
      own = [pieces[s] for s in members]
      xs, contexts = (jax.tree.map(lambda *rows: jnp.stack(rows), *(of(stream, columns) for stream, _, columns in own))
                      for of in (self.stream_inputs, self._context))
      keys = jax.vmap(functools.partial(jax.random.fold_in, stream_key(rng, 'encoder')))(jnp.array(members))
      rows = sinks['encoder'] if len(own) == len(pieces) else jax.tree.map(
        lambda x, m=members: x[jnp.array(m)], sinks['encoder'])
      features = jax.vmap(functools.partial(apply_with_sinks, encode, encoder))(rows, xs, contexts, keys)
      for i, (stream, source, columns) in enumerate(own):
        part = jax.tree.map(lambda x, i=i: x[i], features)
        for task in self._tasks_of(stream):
          if source in (None, task.row_id):
            outputs = self.head(params, task, part, columns, rng=rng, train=True)
            pairs[task.name] = task.loss_sums(outputs, columns)
    zero = (jnp.zeros(()), jnp.zeros(()))
    return Losses(*map(jnp.stack, zip(*(pairs.get(name, zero) for name in self.tasks))))

  def outputs(
    self,
    params: Params,
    batch: Mapping[str, Mapping[str, jax.Array]],
    *,
    rng: jax.Array | None = None,
    train: bool = False,
  ) -> dict[str, jax.Array]:
    """{task: outputs of its head} for the tasks of the streams in `batch`."""
    outputs = {}
    for streams in self._alike(batch):
      xs = [self.stream_inputs(stream, batch[stream]) for stream in streams]
      contexts = [self._context(stream, batch[stream]) for stream in streams]
      if contexts[0].task_id is None and self._conditioned:
        for stream, x, ctx in zip(streams, xs, contexts):
          outputs |= self.each_task(params, x, self._tasks_of(stream), batch[stream], ctx=ctx, rng=rng, train=train)
        continue
      features = self.encode(params, _join(xs), ctx=_join(contexts), rng=rng, train=train)
      start = 0
      for stream in streams:
        stop = start + len(batch[stream]['valid'])
        for task in self._tasks_of(stream):
          part = features if len(streams) == 1 else _rows(features, start, stop)
          outputs[task.name] = self.head(params, task, part, batch[stream], rng=rng, train=train)
        start = stop
    return outputs

  def split(self, batch: Mapping[str, Mapping[str, jax.Array]]) -> list[tuple[dict, list[int]]]:
    """A batch in pieces that share no rows: a stream each, and of a mixture each source, its rows brought together.

    Returns:
      [(piece, indices of the tasks that it serves)]; the losses of the pieces add up to those of the batch.
    """
    index = {name: i for i, name in enumerate(self.tasks)}
    return [({stream: columns}, [index[task.name] for task in self._tasks_of(stream) if source in (None, task.row_id)])
            for stream, source, columns in self._pieces(batch)]

  def _pieces(self, batch: Mapping[str, Mapping[str, jax.Array]]) -> list[tuple[str, int | None, dict[str, jax.Array]]]:
    """(stream, source of a mixture, columns) of each piece."""
    pieces = []
    for stream, columns in batch.items():
      sources = self._rows.get(stream, {})
      if not sources or any(task.row_id is None for task in self._tasks_of(stream)):
        pieces.append((stream, None, dict(columns)))
        continue
      rows = min(max(sources.values()), len(columns['task_id']))
      for source in sources:  # other sources' rows fill up behind: tasks mask them by their task_id
        chosen = jnp.argsort(columns['task_id'] != source, stable=True)[:rows]
        pieces.append((stream, source, {name: x[chosen] for name, x in columns.items()}))
    return pieces

  def losses(self, outputs: Mapping[str, jax.Array], batch: Mapping[str, Mapping[str, jax.Array]]) -> Losses:
    """Outputs -> losses; a task whose stream is not in `batch` has weight 0."""
    zero = (jnp.zeros(()), jnp.zeros(()))
    pairs = [task.loss_sums(outputs[name], batch[task.stream]) if name in outputs else zero
             for name, task in self.tasks.items()]
    return Losses(*map(jnp.stack, zip(*pairs)))

  def encode(self, params, inputs, *, ctx=None, rng=None, train=False) -> Features:
    """The encoder alone."""
    rngs = {'dropout': stream_key(rng, 'encoder')} if rng is not None else None
    with on(self._mesh):
      if self._adapted is not None:
        return self._adapted(params['encoder'], params['adapters'], inputs, ctx=ctx, train=train, rngs=rngs)[0]
      return self.encoder.apply({'params': params.get('encoder', {})}, inputs, ctx=ctx, train=train, rngs=rngs)

  def each_task(self, params, inputs, tasks: Sequence[Task], batch=None, *, ctx=None, rng=None,
                train=False) -> dict[str, jax.Array]:
    """{task: outputs of its head} on the same rows; where the encoder depends on the task, it runs for each."""
    ctx = Ctx() if ctx is None else ctx
    if not self._conditioned:
      features = self.encode(params, inputs, ctx=ctx, rng=rng, train=train)
      return {task.name: self.head(params, task, features, batch, rng=rng, train=train) for task in tasks}
    index = {name: i for i, name in enumerate(self.tasks)}
    features = jax.vmap(lambda t: self.encode(params, inputs, ctx=ctx.replace(task_id=t), rng=rng, train=train))(
      jnp.array([index[task.name] for task in tasks]))
    return {task.name: self.head(params, task, jax.tree.map(lambda x, i=i: x[i], features), batch, rng=rng, train=train)
            for i, task in enumerate(tasks)}

  def head(self, params, task: Task, features: Features, batch=None, *, rng=None, train=False) -> jax.Array:
    """One head alone."""
    rngs = {'dropout': stream_key(rng, task.name)} if rng is not None else None
    own = params.get('heads', {}).get(task.name, {})  # a part without parameters has no place in the tree
    return task.head.apply({'params': own}, features, batch, train=train, rngs=rngs)

  def stream_inputs(self, stream: str, columns: Mapping[str, jax.Array]) -> Any:
    """What the encoder reads of a stream's batch."""
    names = self._inputs[stream]
    return columns[names] if isinstance(names, str) else {name: columns[name] for name in names}

  @property
  def _conditioned(self) -> bool:
    """Whether what the encoder does depends on the task."""
    return self.adapters is not None and any(rule.bank.per != 'shared' for rule in self.adapters)

  def _tasks_of(self, stream: str) -> list[Task]:
    return [task for task in self.tasks.values() if task.stream == stream]

  def _context(self, stream: str, columns: Mapping[str, jax.Array]) -> Ctx:
    """Which task each row serves: known where a row serves one task only."""
    index = {name: i for i, name in enumerate(self.tasks)}
    tasks = self._tasks_of(stream)
    task_id = None
    if len(tasks) == 1:
      task_id = jnp.full(columns['valid'].shape, index[tasks[0].name], jnp.int32)
    elif 'task_id' in columns:  # the row's source in the mixture -> the first task that reads it (0 where none does)
      of_source = {task.row_id: index[task.name] for task in reversed(tasks)}
      lookup = [of_source.get(source, 0) for source in range(1 + max(task.row_id or 0 for task in tasks))]
      task_id = jnp.asarray(lookup, jnp.int32)[jnp.minimum(columns['task_id'], len(lookup) - 1)]
    return Ctx(task_id=task_id, mask=columns['valid'])

  def _alike(self, batch: Mapping[str, Mapping[str, jax.Array]]) -> list[list[str]]:
    """Streams grouped by the structure, row shape and dtype of their inputs (and whether rows carry one task)."""
    names = list(batch)
    return [[names[i] for i in group] for group in _grouped([self._kind(name, batch[name]) for name in names])]

  def _kind(self, stream: str, columns: Mapping[str, jax.Array], rows: bool = False) -> Any:
    """What must agree for inputs to be joined (`rows`: stacked)."""
    leaves, structure = jax.tree.flatten(self.stream_inputs(stream, columns))
    one_task = 'task_id' in columns or len(self._tasks_of(stream)) == 1
    return structure, one_task, *((x.shape[0 if rows else 1:], str(x.dtype)) for x in leaves)


def _grouped(keys: Sequence[Any]) -> list[list[int]]:
  """Indices of equal keys together, in order of appearance."""
  groups: dict[Any, list[int]] = {}
  for i, key in enumerate(keys):
    groups.setdefault(key, []).append(i)
  return list(groups.values())


def _parameters(variables: Mapping[str, Any], module: nn.Module) -> Params:
  """The parameters of a part; raises ValueError for one that keeps other state, which a run would lose."""
  state = sorted(set(variables) - {'params', 'intermediates', 'perturbations'})
  if state:
    raise ValueError(f'{type(module).__name__} keeps state in {", ".join(map(repr, state))}, but a run is a function '
                     f'of its parameters alone. For normalisation use LayerNorm or GroupNorm.')
  return variables.get('params', {})


def _join(trees: Sequence[Any]) -> Any:
  return trees[0] if len(trees) == 1 else jax.tree.map(lambda *xs: jnp.concatenate(xs), *trees)


def _rows(features: Features, start: int, stop: int) -> Features:
  """The features of some rows of a joint batch; of what else an encoder reports, only logits are known to have rows."""
  logits = {'logits': features.aux['logits']} if 'logits' in features.aux else {}
  tokens, pooled, maps, mask, logits = jax.tree.map(
    lambda x: x[start:stop], (features.tokens, features.pooled, features.maps, features.mask, logits)
  )
  return features.replace(tokens=tokens, pooled=pooled, maps=maps, mask=mask, aux=features.aux | logits)
