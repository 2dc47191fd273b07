"""One batch, traced: which plan its step takes, and the passes over it."""
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.autodiff.graph import Graph, trace
from mtjax.objective import Losses
from mtjax.optim import Aggregator, Info, stacked
from mtjax.training import accumulation
from mtjax.training.engine import cost, passes, plans, statistics
from mtjax.training.engine.options import Options
from mtjax.training.engine.passes import Heads, Leaves
from mtjax.training.engine.plans import Evidence
from mtjax.training.engine.settle import Settled


class Work:
  """A traced batch.

  Args:
    objective: (learnt leaves {path: array}, frozen, batch, rng, step) -> Losses.
    leaves: the trained leaves.
    frozen, batch, rng, step: the objective's other arguments.
    split: batch -> [(piece of it, indices of the tasks that it may serve, None = all)].
    aggregator, options: the method and how it is to run.
    sinks_objective: (leaves, sinks, frozen, batch, rng, step) -> Losses, where the objective has `apart`.
  """

  def __init__(self, objective: Callable[..., Losses], leaves: Leaves, frozen: Any, batch: Any, rng: jax.Array,
               step: Any, split: Callable[[Any], Sequence[Any]], aggregator: Aggregator, options: Options,
               sinks_objective: Callable[..., Losses] | None = None):
    self._objective, self._leaves, self._frozen, self._batch = objective, leaves, frozen, batch
    self._rng, self._step, self._options, self._needs = rng, step, options, aggregator.needs
    self._double, self._split, self._sinks_objective = aggregator.double_sampling, split, sinks_objective
    self.graph, self._inputs = self._trace(batch)
    self._no_loops = jax.default_backend() == 'cpu' and cost.share_of_convolutions(self.graph.trunk.eqns) > 0.1
    best = self.graph.num_tasks if jax.default_backend() != 'cpu' else 0 if self._no_loops else 1
    self._chunk = best if options.chunk is None else options.chunk

  @property
  def owner(self) -> Mapping[str, int]:
    """{path of a task's own parameter: the task}."""
    return self.graph.owned

  @property
  def owned_leaves(self) -> Leaves:
    """The parameters that one task alone reaches."""
    return {path: self._leaves[path] for path in self.owner}

  def owned(self, evidence: Evidence, scale: jax.Array) -> Leaves:
    """Their gradients, times the factor [T] of their task."""
    return {path: gradient * scale[self.owner[path]].astype(gradient.dtype)
            for path, gradient in evidence.found.owned.items()}

  def example(self) -> Any:
    """What the gradients that the method sees look like: the shared parameters, or the representation."""
    if self._options.at == 'features':
      return {f'z{i}': jnp.zeros(var.aval.shape, var.aval.dtype)
              for i, var in enumerate(passes.representation_vars(self.graph))}
    return tree.unflatten({path: self._leaves[path] for path in self.graph.shared})

  # --- which plan

  @functools.cached_property
  def plan(self) -> str:
    """The plan of a step with fresh weights."""
    options = self._options
    if self._needs == 'losses':
      return 'losses'
    if options.at == 'features':
      return 'features'
    if options.plan == 'disjoint' and not self._apart:
      raise ValueError("'gradients.plan' is 'disjoint', but the tasks of this batch share rows. Leave it at 'auto'.")
    if options.plan != 'auto':
      return options.plan
    known = ['jacobian'] if self._needs == 'jacobian' or options.accumulate > 1 or self._double else ['tape']
    if self._apart and not self._double:
      known.append('disjoint')
    return min(known, key=lambda plan: self.cost(plan).flops)

  def cost(self, plan: str) -> cost.Cost:
    """What a plan costs on this batch."""
    if plan != 'disjoint':
      return cost.predict(self.graph, self._leaves, plan, self.forms)
    share = sum(_num_rows(piece) for piece, _ in self._split(self._batch)) / _num_rows(self._batch)
    return cost.of_rows(share * self.cost('losses').flops, self.graph, self._leaves)

  @functools.cached_property
  def forms(self) -> Mapping[str, str]:
    """{shared path: 'inner' or 'direct'}."""
    return cost.choose_forms(self.graph, self._leaves)

  @functools.cached_property
  def _pieces(self) -> list[tuple[Graph, list[Any]]]:
    """The pieces of the batch, traced, with the shared leaves of the whole."""
    pieces = [self._trace(piece, tasks=tasks) for piece, tasks in self._split(self._batch)]
    return [(graph.share(self.graph.shared), inputs) for graph, inputs in pieces]

  @functools.cached_property
  def _apart(self) -> bool:
    """Whether the batch falls into several pieces, each with its own tasks."""
    if len(self._split(self._batch)) < 2:
      return False
    present = [t for graph, _ in self._pieces for t in graph.present]
    return sorted(present) == list(self.graph.present)

  def describe(self, aggregator: Aggregator, names: Sequence[str]) -> str:
    """The plan, its predicted cost beside the alternatives, and what is shared."""
    plain = self.cost('losses')
    known = {'losses': ['losses'], 'gramian': ['tape', 'probe', 'jacobian'], 'jacobian': ['jacobian']}[self._needs]
    known = ['jacobian'] if self._double or self._options.accumulate > 1 and self._needs != 'losses' else known
    known += ['disjoint'] if self._apart and self._needs != 'losses' else []
    known = ['features'] if self.plan == 'features' else known
    rows = [('plan', 'products, x plain step', 'kept besides')]
    for plan in dict.fromkeys((self.plan, *known)):
      found = self.cost(plan)
      ratio = found.flops / plain.flops if plain.flops else 1.0
      chosen = ' (chosen)' if plan == self.plan else ''
      rows.append((plan + chosen, f'{ratio:.2f}', f'{found.memory / 2**20:.1f} MiB'))
    inner = sum(form == 'inner' for form in self.forms.values())
    shared = sum(self._leaves[path].size for path in self.graph.shared)
    owned = sum(self._leaves[path].size for path in self.graph.owned)
    options = [f'{field}={value!r}' for field, value in dataclasses.asdict(self._options).items()
               if value != getattr(Options(), field)]
    lines = [f'{aggregator.name} over {len(names)} tasks, from the {aggregator.needs}'
             + (f'; {", ".join(options)}' if options else ''), tree.align(rows),
             f'{len(self.graph.shared)} shared parameters hold {shared:,} numbers, {len(self.graph.owned)} task-owned '
             f'ones {owned:,}.']
    if self._no_loops and self._options.every_k > 1:
      lines.append('Mind that on a CPU convolutions are slow within the conditional of every_k, at each k-th step.')
    if self.plan in ('tape', 'probe'):
      lines.append(f'Gramian of {inner} parameters by inner products, of {len(self.forms) - inner} by gradients.')
    return '\n'.join(lines)

  # --- passes

  def evidence(self, settled: Settled) -> Evidence:
    """All that the plan finds out."""
    if self._options.accumulate > 1 and self.plan != 'losses':
      return self._accumulated_rows(settled)
    if self.plan == 'disjoint' and self._sunk is not None:
      return self._by_sinks(settled)
    if self.plan == 'disjoint':
      graphs, envs = zip(*((graph, self._prepare(graph, inputs)) for graph, inputs in self._pieces))
      return plans.disjoint(graphs, envs, self._leaves, functools.partial(settled, self.graph), self._chunk)
    run = {'losses': plans.losses, 'jacobian': plans.jacobian, 'features': plans.features,
           'tape': functools.partial(plans.by_tape, forms=self.forms),
           'probe': functools.partial(plans.by_probe, forms=self.forms)}[self.plan]
    env = self._prepare(self.graph, self._inputs)
    return run(self.graph, env, self._leaves, functools.partial(settled, self.graph), self._chunk)

  def weighted(self, settled: Settled) -> Evidence:
    """One backward pass of a weighted sum, for weights that come from elsewhere."""
    if self._options.accumulate > 1:
      return self._accumulated_sum(settled)
    env = self._prepare(self.graph, self._inputs)
    return plans.losses(self.graph, env, self._leaves, functools.partial(settled, self.graph), self._chunk)

  def statistics(self, settled: Settled) -> tuple[jax.Array, jax.Array]:
    """The Gramian of part of the rows and parameters, and the tasks that take part: those with a row in that part."""
    options, graph, inputs = self._options, self.graph, self._inputs
    if options.sub_batch < 1:
      graph, inputs = self._trace(statistics.sub_batch(self._batch, options.sub_batch))
      graph = graph.share(self.graph.shared)
    own = Settled(settled.task_weights)
    forms = cost.choose_forms(graph, self._leaves)
    evidence = plans.statistics(graph, self._prepare(graph, inputs), self._leaves, functools.partial(own, graph),
                                self._chunk, forms, self._kept())
    return evidence.gramian(), settled.active & own.active

  def sketch(self, settled: Settled, key: jax.Array) -> jax.Array:
    """The Gramian estimated from random directions."""
    shared = {path: self._leaves[path] for path in self.graph.shared}
    factor = jax.lax.stop_gradient(settled.factor)

    def losses(shared):
      found = self._objective({**self._leaves, **shared}, self._frozen, self._batch, self._rng, self._step)
      return found.sums * factor

    return statistics.sketch(losses, shared, key, self._options.sketch)

  def halves(self, settled: Settled) -> tuple[Evidence, jax.Array]:
    """(evidence of the whole batch, A = J_1 J_2^T of its two halves)."""
    halves = accumulation.micro_batches(self._batch, 2, 'a method of double sampling needs two halves')
    one, other = (self._raw_rows(jax.tree.map(lambda x, k=k: x[k], halves), k) for k in range(2))
    evidence = self._of_rows(jax.tree.map(jnp.add, one, other), settled)
    stacks = []
    for jac, heads in (one, other):
      factor = jnp.where(settled.active, settled.task_weights / jnp.maximum(heads.normalisers, 1), 0)
      stacks.append(_scaled(jac, factor))
    return evidence, stacked.cross_gramian(*stacks)

  def aggregate(self, aggregator: Aggregator, evidence: Evidence, state: Any, info: Info):
    """(gradient of the shared leaves, w [T], the method's state) of a method that needs all of J."""
    features = self._options.at == 'features'
    jac = evidence.jac if features else tree.unflatten(evidence.jac)
    d, w, state = aggregator.aggregate(
      jac, state, evidence.z if features else self.example(), losses=info.losses, active=info.active, key=info.key,
      epoch_end=info.epoch_end, validation_losses=info.validation_losses)
    w = info.active.astype(jnp.float32) if w is None else w
    return (evidence.through(d, w) if features else tree.flatten(d)), w, state

  def rows(self, settled: Settled) -> Evidence:
    """Every task's gradient, stacked."""
    graph, env = self.graph, self._prepare(self.graph, self._inputs)
    if self._sunk is not None:
      return self._by_sinks(settled)
    return plans.jacobian(graph, env, self._leaves, functools.partial(settled, graph), self._chunk)

  def rows_at(self, points: Leaves, heads: Leaves, factor: jax.Array) -> tuple[Leaves, Leaves]:
    """Every task's gradient at a point of its own.

    Args:
      points: the shared leaves, [T, *shape]: row t is where task t's gradient is taken.
      heads: the owned leaves.
      factor: [T], of the sums of losses.

    Returns:
      (gradients of the shared leaves [T, *shape], of the owned ones). One task at a time: one point is alive.
    """
    def loss(point, heads, t, batch):
      found = self._objective({**self._leaves, **point, **heads}, self._frozen, batch, self._rng, self._step)
      return jnp.where(factor[t] == 0, 0, found.sums[t] * factor[t])

    def one(batch):
      def turn(total, t):
        jac, q = jax.grad(loss, argnums=(0, 1))({path: x[t] for path, x in points.items()}, heads, t, batch)
        return jax.tree.map(jnp.add, total, q), jac
      return turn

    def run(batch, total, tasks):
      return jax.lax.scan(one(batch), total, jnp.array(tasks), unroll=len(tasks) if self._no_loops else 1)

    zero = jax.tree.map(jnp.zeros_like, heads)
    if not self._apart:
      q, jac = run(self._batch, zero, range(self.graph.num_tasks))
      return jac, q
    stacks, order, total = [], [], zero
    for (piece, _), (graph, _) in zip(self._split(self._batch), self._pieces):
      total, jac = run(piece, total, graph.present)
      stacks.append(jac)
      order.extend(graph.present)
    place = jnp.array([order.index(t) for t in range(len(order))])
    return jax.tree.map(lambda *parts: jnp.concatenate(parts)[place], *stacks), total

  # --- micro-batches

  def _raw_rows(self, batch: Any, index: Any) -> tuple[Leaves, Heads]:
    """(gradients of the sums of losses [T, *shape], heads) of a micro-batch, to be added up."""
    rng = accumulation.micro_key(self._rng, index)
    raw = lambda found: found
    if self._sunk is not None and self.plan == 'disjoint':
      heads, pullback = self._sink_pass(batch, rng)
      jac, owned = pullback(jnp.ones_like(heads.sums))
      return jac, dataclasses.replace(heads, owned=owned)
    if self._apart and self.plan != 'jacobian':
      pieces = [self._trace(piece, rng, tasks) for piece, tasks in self._split(batch)]
      graphs, envs = zip(*((g.share(self.graph.shared), self._prepare(g, inputs)) for g, inputs in pieces))
      evidence = plans.disjoint(graphs, envs, self._leaves, raw, self._chunk)
    else:
      graph, inputs = self._trace(batch, rng)
      graph = graph.share(self.graph.shared)
      evidence = plans.jacobian(graph, self._prepare(graph, inputs), self._leaves, raw, self._chunk)
    return evidence.jac, dataclasses.replace(evidence.found, representation={}, direct={})

  @functools.cached_property
  def _sunk(self) -> Sequence[int] | None:
    """The task of each piece, where the objective can keep the pieces' gradients apart by sinks; else None."""
    if self._sinks_objective is None or self._no_loops or not self._apart:  # grouped convolutions are slow there, too
      return None
    if any(len(graph.present) > 1 for graph, _ in self._pieces):
      return None
    if not all(path.startswith('encoder/') for path in self.graph.shared):
      return None
    return [graph.present[0] for graph, _ in self._pieces]

  def _by_sinks(self, settled: Settled) -> Evidence:
    """Stacked gradients of tasks with rows of their own, that go through the trunk together."""
    heads, pullback = self._sink_pass(self._batch, self._rng)
    settled(self.graph, heads)
    jac, owned = pullback(settled.factor)
    owned = {path: jnp.where(settled.active[self.owner[path]], x, 0) for path, x in owned.items()}
    return plans.of_jacobian(dataclasses.replace(heads, owned=owned), jac)

  def _sink_pass(self, batch: Any, rng: jax.Array):
    """(the heads' sums and normalisers, pullback: cotangent of the sums [T] -> (jac, gradients of owned leaves))."""
    owned = {path: self._leaves[path] for path in self.graph.owned}
    sinks = {path: jnp.zeros((len(self._sunk), *self._leaves[path].shape), self._leaves[path].dtype)
             for path in self.graph.shared}

    def forward(sinks, owned):
      losses = self._sinks_objective({**self._leaves, **owned}, tree.unflatten(sinks), self._frozen, batch, rng,
                                     self._step)
      return losses.sums, losses.weights

    sums, pullback, normalisers = jax.vjp(forward, sinks, owned, has_aux=True)

    def ordered(cotangent):
      jac, owned = pullback(cotangent)
      if list(self._sunk) != sorted(self._sunk):
        place = jnp.array([self._sunk.index(t) for t in range(len(self._sunk))])
        jac = {path: rows[place] for path, rows in jac.items()}
      return jac, owned

    return Heads(sums, normalisers, {}, {}, {}), ordered

  def _of_rows(self, rows: tuple[Leaves, Heads], settled: Settled) -> Evidence:
    jac, heads = rows
    found = settled(self.graph, heads)
    return plans.of_jacobian(found, _scaled(jac, settled.factor))

  def _accumulated_rows(self, settled: Settled) -> Evidence:
    """Stacked gradients, added up over micro-batches."""
    return self._of_rows(self._add_up(self._raw_rows), settled)

  def _accumulated_sum(self, settled: Settled) -> Evidence:
    """A weighted sum over micro-batches: first their losses, which the weights and normalisers need, then gradients."""
    def run(batch, index):
      graph, inputs = self._trace(batch, accumulation.micro_key(self._rng, index))
      graph = graph.share(self.graph.shared)
      env = self._prepare(graph, inputs)
      z, pullback, rest = passes.trunk_vjp(graph, env, self._leaves)
      return graph, passes.heads(graph, passes.after_trunk(graph, env, z, rest), self._leaves), pullback

    def first(batch, index):
      return dataclasses.replace(run(batch, index)[1], representation={}, direct={})

    found = settled(self.graph, self._add_up(first))

    def combine(w):
      def second(batch, index):
        graph, heads, pullback = run(batch, index)
        return passes.weighted(graph, w, heads.scale(graph, settled.factor), pullback)

      return self._add_up(second)

    return Evidence(found, combine)

  def _add_up(self, fn: Callable[[Any, jax.Array], Any]) -> Any:
    """sum_k fn(micro-batch k, k)."""
    return accumulation.add_up(fn, self._batch, self._options.accumulate)

  # --- tracing

  def _trace(self, batch: Any, rng: jax.Array | None = None,
             tasks: Sequence[int] | None = None) -> tuple[Graph, list[Any]]:
    """The graph of a batch's losses; of a piece only those of the tasks that it serves."""
    def objective(*arguments):
      losses = self._objective(*arguments)
      if tasks is None:
        return losses
      only = lambda vector: jnp.stack([vector[t] if t in tasks else jnp.zeros(()) for t in range(len(vector))])
      return Losses(only(losses.sums), only(losses.weights))

    rng = self._rng if rng is None else rng
    return trace(objective, self._leaves, self._frozen, batch, rng, self._step)

  def _prepare(self, graph: Graph, inputs: Sequence[Any]) -> dict[Any, Any]:
    return passes.prepare(graph, self._leaves, inputs)

  def _kept(self) -> Callable[[str], bool]:
    """Which shared leaves the Gramian is over."""
    if not self._options.layers:
      return lambda path: True
    chosen = tree.select(self._options.layers, {path: self._leaves[path] for path in self.graph.shared})
    return chosen.__getitem__


def _num_rows(batch: Any) -> int:
  """Rows of a batch {stream: {column: array}}, or of any other by its first array."""
  streams = batch.values() if isinstance(batch, Mapping) else [batch]
  return sum(len(jax.tree.leaves(columns)[0]) for columns in streams)


def _scaled(jac: Leaves, factor: jax.Array) -> Leaves:
  """Row t times factor[t]; a factor of 0 gives 0 whatever was there."""
  return stacked.scale_rows(stacked.mask_rows(jac, factor != 0), factor)
