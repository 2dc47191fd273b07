"""The gradient engine: one update out of T tasks, computing no more than the method needs.

  engine = losses_and_grads(objective, mtjax.optim.pcgrad(), trainable=…)
  state = engine.init(params)
  step = engine(params, state, batch, rng, step)      # step.losses, step.gradient, step.state, step.diagnostics

Conflict is resolved on the shared parameters, those that more than one task reaches; a parameter that one task alone
reaches gets that task's gradient. Which plan runs, `mtjax.training.engine.plans` explains; its cost, `engine.cost`.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.objective import Losses, stream_key
from mtjax.optim import Aggregator, Info
from mtjax.optim.sharpness import FTL
from mtjax.training import accumulation, affinity
from mtjax.training.engine import diagnostics, statistics
from mtjax.training.engine.options import Options, check_method
from mtjax.training.engine.settle import Settled
from mtjax.training.engine.work import Work

Params = Any


@flax.struct.dataclass
class EngineState:
  """What the engine keeps between steps.

  Attributes:
    aggregator: the method's own.
    gram: [T, T], the moving average of the Gramian; () where none is kept.
    weights: [T], of the last step that computed them.
    count: int32, steps made.
    bad: [T] int32, steps at which the task's gradient was not finite.
    sharpness: of the sharpness-aware transform; () where there is none.
  """

  aggregator: Any
  gram: Any
  weights: jax.Array
  count: jax.Array
  bad: jax.Array
  sharpness: Any = ()


@flax.struct.dataclass
class Step:
  """What one call of the engine gives.

  Attributes:
    losses: of the batch; tasks whose gradient was masked have weight 0.
    gradient: of the trained parameters, as a nested dict.
    state: for the next step.
    diagnostics: see `mtjax.training.engine.diagnostics`.
  """

  losses: Losses
  gradient: Params
  state: EngineState
  diagnostics: diagnostics.Diagnostics


def losses_and_grads(objective: Callable[..., Losses], aggregator: Aggregator, *, num_tasks: int | None = None,
                     trainable: Mapping[str, bool] | None = None, task_weights: Sequence[float] | None = None,
                     task_names: Sequence[str] | None = None, sharpness: Any = None, options: Options | None = None,
                     **fields: Any) -> 'Engine':
  """The engine of an objective and a method: see `Engine`.

  Args:
    objective: (params, batch, rng, step) -> Losses.
    aggregator: any of `mtjax.optim`.
    num_tasks: T; by default from `task_weights`, `task_names` or `objective.tasks`.
    trainable: {path: bool}; by default everything is trained.
    task_weights: [T], factors of the losses before anything else; by default 1.
    task_names: [T], for messages.
    sharpness: `mtjax.optim.ftl(rho, aggregator)` with the same aggregator, or a variant of `mtjax.optim.sam`: then the
      second gradient is that of the weighted sum with the weights that the aggregator gave at the first.
    options: or its fields by keyword, e.g. plan='tape', every_k=8.

  Example:
    >>> import jax, jax.numpy as jnp, mtjax.optim
    >>> from mtjax.objective import Losses
    >>> def objective(params, batch, rng, step):
    ...   errors = jnp.square(batch @ params['w'] - jnp.array([1.0, -1.0])).sum(0)
    ...   return Losses(jnp.stack([errors[0], errors[1]]), jnp.full(2, len(batch)))
    >>> engine = losses_and_grads(objective, mtjax.optim.upgrad(), num_tasks=2)
    >>> params = {'w': jnp.ones((3, 2))}
    >>> step = jax.jit(engine)(params, engine.init(params), jnp.eye(3), jax.random.key(0), 0)
    >>> step.gradient['w'].shape
    (3, 2)
  """
  for given in (task_weights, task_names, getattr(objective, 'tasks', None)):
    num_tasks = num_tasks if num_tasks is not None or given is None else len(given)
  if num_tasks is None:
    raise ValueError('losses_and_grads needs num_tasks=T: the objective does not say how many tasks it has.')
  names = tuple(task_names or getattr(objective, 'tasks', None) or map(str, range(num_tasks)))
  return Engine(objective, aggregator, trainable, jnp.ones(num_tasks) if task_weights is None else task_weights,
                names, options or Options(**fields), sharpness)


class Engine:
  """`engine(params, state, batch, rng, step) -> Step`: pure, to be called under `jax.jit`.

  Args:
    objective, aggregator, trainable, task_weights, task_names, options, sharpness: see `losses_and_grads`.
  """

  def __init__(self, objective: Callable[..., Losses], aggregator: Aggregator, trainable: Mapping[str, bool] | None,
               task_weights: Any, task_names: Sequence[str], options: Options, sharpness: Any = None):
    if aggregator.layer is not None and not options.layers:
      options = dataclasses.replace(options, layers=(aggregator.layer,))
    self.objective, self.aggregator, self.options, self.sharpness = objective, aggregator, options, sharpness
    self.names, self._trainable = tuple(task_names), trainable
    self._weights = jnp.asarray(task_weights, jnp.float32)
    check_method(aggregator, options, len(self.names), flat=isinstance(sharpness, FTL))

  def init(self, params: Params, batch: Any = None) -> EngineState:
    """The state before the first step.

    Args:
      params: all parameters, or their shapes.
      batch: one batch, or its shapes; needed where the method's state has the shape of the shared parameters.
    """
    learnt, frozen = self._split(params)
    example, flat = learnt, isinstance(self.sharpness, FTL)
    if batch is not None and (flat or self.aggregator.needs == 'jacobian'):
      example = self._work(tree.flatten(learnt), frozen, batch, jax.random.key(0), 0).example()
    num_tasks = len(self.names)
    kept = self.options.ema or self.options.group is not None
    sharpness = ()
    if self.sharpness is not None:
      sharpness = self.sharpness.init(example, num_tasks) if flat else self.sharpness.init(learnt)
    return EngineState(
      aggregator=() if flat else self.aggregator.init(example, num_tasks=num_tasks),
      gram=jnp.zeros((num_tasks, num_tasks)) if kept else (), weights=jnp.zeros(num_tasks),
      count=jnp.zeros((), jnp.int32), bad=jnp.zeros(num_tasks, jnp.int32), sharpness=sharpness)

  def __call__(self, params: Params, state: EngineState, batch: Any, rng: jax.Array, step: Any, *,
               epoch_end: Any = None, validation_losses: jax.Array | None = None) -> Step:
    """One evaluation: losses, and the gradient to descend along.

    Args:
      params: all parameters.
      state: from `init` or the step before.
      batch, rng, step: what the objective is called with.
      epoch_end: bool scalar, for methods that work by epochs.
      validation_losses: [T], for methods that look at them.
    """
    learnt, frozen = self._split(params)
    leaves = tree.flatten(learnt)
    work = self._work(leaves, frozen, batch, rng, step)
    info = Info(key=stream_key(rng, 'aggregator', step), epoch_end=epoch_end, validation_losses=validation_losses)
    if isinstance(self.sharpness, FTL):
      found, shared, owned, new, noted = self._flat(work, state, info)
      return Step(found, _tree(leaves, shared, owned), new.replace(count=state.count + 1), noted)
    fresh = self.options.every_k == 1 or self.aggregator.needs == 'losses'
    found, shared, owned, new, noted, scale = (self._fresh if fresh else self._now_and_then)(work, state, info)
    gradient = _tree(leaves, shared, owned)
    if self.sharpness is not None:
      def near_by(learnt):
        there = self._work(tree.flatten(learnt), frozen, batch, rng, step)
        return _tree(leaves, *self._same_weights(there, state, info, new.weights, scale))

      gradient, sharpness = self.sharpness.update(gradient, state.sharpness, learnt, grad_fn=near_by)
      new = new.replace(sharpness=sharpness)
    return Step(found, gradient, new.replace(count=state.count + 1), noted)

  def observe(self, params: Params, state: EngineState, batch: Any, rng: jax.Array, step: Any) -> EngineState:
    """The state after the optimizer's step, for methods that look at the same batch's losses then (FAMO)."""
    if self.aggregator.observes != 'losses_after':
      return state
    losses = accumulation.losses(self.objective, params, batch, rng, step, self.options.accumulate)
    active = losses.active & jnp.isfinite(losses.sums)
    values = jnp.where(active, losses.values, 0) * self._weights
    if isinstance(self.sharpness, FTL):
      return state.replace(sharpness=self.sharpness.observe(state.sharpness, values, active))
    return state.replace(aggregator=self.aggregator.observe(state.aggregator, values, active))

  def affinity(self, params: Params, batch: Any, rng: jax.Array, step: Any,
               update: Callable[[Params], Params]) -> tuple[jax.Array, jax.Array]:
    """What an update by one task's gradient alone would do to every task's loss on the same batch.

    Args:
      params, batch, rng, step: of the step.
      update: gradient of the trained parameters -> what the optimizer adds to them; only the shared ones are moved.

    Returns:
      (affinity [T, T], 0 where it is not finite; [T, T], 1 where it is).
    """
    learnt, frozen = self._split(params)
    leaves = tree.flatten(learnt)
    shared = {path: leaves[path] for path in self._work(leaves, frozen, batch, rng, step).graph.shared}

    def losses(shared):
      moved = tree.merge(tree.unflatten({**leaves, **shared}), frozen)
      return self._weights * self.objective(moved, batch, rng, step).values

    def of_shared(gradient):
      whole = tree.flatten(update(_tree(leaves, gradient, {})))
      return {path: whole[path] for path in shared}

    found = affinity.affinity(losses, shared, of_shared)
    finite = jnp.isfinite(found)
    finite = finite & jnp.diagonal(finite)[:, None]  # a task without a row makes no step
    return jnp.where(finite, found, 0), finite.astype(jnp.float32)

  def describe(self, params: Params, batch: Any) -> str:
    """What is printed at start: the plan, what it costs by static counts, and which parameters are shared.

    Args:
      params, batch: arrays or their shapes.
    """
    return self.facts(params, batch)['description']

  def facts(self, params: Params, batch: Any) -> dict[str, str]:
    """What a run's record keeps: 'method', what it 'needs', the 'plan' that runs, and the 'description'.

    Args:
      params, batch: arrays or their shapes.
    """
    learnt, frozen = self._split(params)
    work = self._work(tree.flatten(learnt), frozen, batch, jax.random.key(0), 0)
    text = work.describe(self.aggregator, self.names)
    if self.sharpness is not None:
      text += ('\nSharpness-aware: a second Jacobian, at a point of its own for each task.'
               if isinstance(self.sharpness, FTL) else '\nSharpness-aware: a second gradient at a perturbed point.')
    return {'method': self.aggregator.name, 'needs': self.aggregator.needs, 'plan': work.plan, 'description': text}

  # --- the parts of a step

  def _fresh(self, work: Work, state: EngineState, info: Info):
    """New weights, and the update that they make."""
    needs, options = self.aggregator.needs, self.options
    settled, gram, active = Settled(self._weights), None, None
    if needs == 'losses':
      evidence = work.weighted(settled)
    elif self.aggregator.double_sampling:
      evidence, gram = work.halves(settled)
    elif options.cheaper:
      evidence = work.weighted(settled)
      gram, active = self._cheaper_gramian(work, settled, info)
    else:
      evidence = work.evidence(settled)
      gram = evidence.gramian()
    active, bad = settled.active if active is None else active, settled.bad
    if gram is not None:
      gram, active, bad = _without_bad(gram, active, bad)
      evidence = evidence.without(bad)
    info = info.replace(losses=jnp.where(active, settled.values, 0), active=active)
    if needs == 'jacobian':
      shared, w, inner = work.aggregate(self.aggregator, evidence, state.aggregator, info)
      average = state.gram
    else:
      w, inner, average = self._weigh(gram, state, info)
      shared = evidence.combine(w)
    scale = self.aggregator.head_weights(w, info)
    owned = work.owned(evidence, scale)
    if self.aggregator.head_gradients is not None and evidence.jac is not None:
      owned = self.aggregator.head_gradients(owned, work.owned_leaves, work.owner, evidence.jac, w, active)
    new = state.replace(aggregator=inner, gram=average, weights=w, bad=state.bad + bad)
    losses = settled.losses(settled.active & ~bad)
    return losses, shared, owned, new, diagnostics.of_step(gram, w, active, bad), scale

  def _now_and_then(self, work: Work, state: EngineState, info: Info):
    """New weights at every k-th step, else the latest ones; the update by one pass with them.

    Only the weights depend on a branch: on a CPU everything within one is slower, and what it returns is copied.
    """
    settled = Settled(self._weights)
    evidence = work.weighted(settled)
    info = info.replace(losses=settled.values, active=settled.active)

    def fresh():
      active = settled.active
      if self.aggregator.double_sampling:
        gram = work.halves(Settled(self._weights))[1]
      elif self.options.cheaper:
        gram, active = self._cheaper_gramian(work, settled, info)
      else:
        gram = work.evidence(Settled(self._weights)).gramian()
      gram, active, bad = _without_bad(gram, active, settled.bad)
      own = info.replace(losses=jnp.where(active, settled.values, 0), active=active)
      w, inner, average = self._weigh(gram, state, own)
      return (w, state.replace(aggregator=inner, gram=average, weights=w, bad=state.bad + bad), active, bad,
              diagnostics.of_step(gram, w, active, bad))

    def again():
      w = jnp.where(settled.active, state.weights, 0)
      return (w, state.replace(bad=state.bad + settled.bad), settled.active, settled.bad,
              diagnostics.of_step(None, w, settled.active, settled.bad))

    w, new, active, bad, noted = jax.lax.cond(state.count % self.options.every_k == 0, fresh, again)
    scale = self.aggregator.head_weights(w, info.replace(losses=jnp.where(active, settled.values, 0), active=active))
    losses = settled.losses(settled.active & ~bad)
    return losses, evidence.combine(w), work.owned(evidence, scale), new, noted, scale

  def _cheaper_gramian(self, work: Work, settled: Settled, info: Info) -> tuple[jax.Array, jax.Array]:
    """The Gramian of some rows or layers, or by random directions; and the tasks that take part."""
    return (work.sketch(settled, info.key), settled.active) if self.options.sketch else work.statistics(settled)

  def _same_weights(self, work: Work, state: EngineState, info: Info, w: jax.Array, scale: jax.Array):
    """(gradients of the shared, of the owned leaves) at other parameters, with the weights of this step."""
    settled = Settled(self._weights)
    if self.aggregator.needs == 'jacobian':
      evidence = work.evidence(settled)
      info = info.replace(losses=settled.values, active=settled.active)
      return work.aggregate(self.aggregator, evidence, state.aggregator, info)[0], work.owned(evidence, scale)
    evidence = work.weighted(settled)
    return evidence.combine(jnp.where(settled.active, w, 0)), work.owned(evidence, scale)

  def _flat(self, work: Work, state: EngineState, info: Info):
    """F-MTL: the gradients, those at the tasks' own perturbed points, and what the transform makes of both."""
    settled = Settled(self._weights)
    evidence = work.rows(settled)
    gram, active, bad = _without_bad(evidence.gramian(), settled.active, settled.bad)
    owned = work.owned_leaves
    heads = dict(heads=owned, head_grads=evidence.found.owned, owners=dict(work.owner)) if owned else {}

    def near_by(points, heads=None):
      jac, q = work.rows_at(tree.flatten(points), heads or {}, settled.factor)
      return (tree.unflatten(jac), q) if owned else tree.unflatten(jac)

    d, q, sharpness = self.sharpness.step(
      tree.unflatten(evidence.jac), state.sharpness, work.example(), grad_fn=near_by,
      losses=jnp.where(active, settled.values, 0), active=active, key=info.key, epoch_end=info.epoch_end,
      validation_losses=info.validation_losses, **heads)
    new = state.replace(sharpness=sharpness, bad=state.bad + bad)
    noted = diagnostics.of_step(gram, active.astype(jnp.float32), active, bad)
    return settled.losses(active), tree.flatten(d), q or {}, new, noted

  def _weigh(self, gram: jax.Array | None, state: EngineState, info: Info):
    """(w, the method's state, moving average of the Gramian)."""
    average, options = state.gram, self.options
    if gram is None or not (options.ema or options.group is not None):
      return *self.aggregator.weights(state.aggregator, info.replace(gramian=gram)), average
    average = statistics.average(average, gram, info.active, options.ema or 0.9)
    gram = jnp.where(info.active[:, None] & info.active[None, :], average, 0) if options.ema else gram
    if options.group is None:
      return *self.aggregator.weights(state.aggregator, info.replace(gramian=gram)), average
    members, stands = statistics.groups(average, info.active, options.group)
    merged = info.replace(gramian=members @ gram @ members.T, losses=members @ info.losses, active=stands)
    w, inner = self.aggregator.weights(state.aggregator, merged)
    return w @ members, inner, average

  def _split(self, params: Params) -> tuple[Params, Params]:
    """(trained, frozen)."""
    return tree.partition(params, self._trainable or dict.fromkeys(tree.flatten(params), True))

  def _work(self, leaves: Mapping[str, Any], frozen: Params, batch: Any, rng: jax.Array, step: Any) -> Work:
    """A batch, traced."""
    def objective(leaves, frozen, batch, rng, step):
      return self.objective(tree.merge(tree.unflatten(leaves), frozen), batch, rng, step)

    def apart(leaves, sinks, frozen, batch, rng, step):
      params = tree.merge(tree.unflatten(leaves), frozen)
      return self.objective.apart(params, sinks, batch, rng, step)

    split = getattr(self.objective, 'split', _by_stream)
    return Work(objective, leaves, frozen, batch, rng, step, split, self.aggregator, self.options,
                apart if hasattr(self.objective, 'apart') else None)


def _without_bad(gram: jax.Array, active: jax.Array, bad: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """(the Gramian with zeros for tasks that are left out, the tasks that are in, those that are not finite)."""
  fine = jnp.isfinite(jnp.diag(gram))
  active, bad = active & fine, bad | (active & ~fine)
  return jnp.where(active[:, None] & active[None, :], gram, 0), active, bad


def _tree(leaves: Mapping[str, jax.Array], shared: Mapping[str, jax.Array], owned: Mapping[str, jax.Array]) -> Params:
  """Gradients by path -> nested dict over all trained leaves; what no loss reaches gets zeros."""
  found = {**shared, **owned}
  return tree.unflatten({path: found[path] if path in found else jnp.zeros_like(leaf) for path, leaf in leaves.items()})


def _by_stream(batch: Any) -> list[tuple[Any, None]]:
  """A batch {stream: {column: array}} as one batch a stream; any other as it is."""
  if isinstance(batch, Mapping) and all(isinstance(columns, Mapping) for columns in batch.values()):
    return [({stream: columns}, None) for stream, columns in batch.items()]
  return [(batch, None)]
