"""The plans: ways to get what a method needs of the task gradients, and the update with it.

  plan       what is computed                                              flops (F = forward, shared input)
  losses     one backward pass of the weighted sum                         3 F
  jacobian   every g_t                                                     (1 + 2 T) F
  tape       G from d losses / d outputs, exact update without a 2nd pass  (1 + T) F + products + F
  probe      G made and dropped layer by layer, then a weighted pass       (1 + T) F + products + 2 F
  features   G of dl_t/dz, then a weighted pass                            3 F
  disjoint   every g_t, where tasks have rows of their own                 3 F

Each is a function (graph, env, leaves, settle, chunk) -> Evidence. `settle` is what happens between the heads and the
trunk: it turns raw sums into losses, and scales and masks the heads' gradients.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from mtjax.autodiff import sites
from mtjax.autodiff.graph import Graph
from mtjax.optim import stacked
from mtjax.training.engine import passes, probe, tape
from mtjax.training.engine.passes import Heads, Leaves

Settle = Callable[[Heads], Heads]


@dataclasses.dataclass(frozen=True)
class Evidence:
  """What one pass over a batch knows of the task gradients.

  Attributes:
    found: of the heads, settled.
    combine: w [T] -> sum_t w_t g_t of the shared leaves.
    gramian: () -> [T, T]; None where the plan has none.
    jac: {path: [T, *shape]}; None where the plan has none.
    combine_finite: the same as `combine` where rows with w_t = 0 may hold NaN; None where `combine` needs no such care.
    z: {name: array}, the representation, and
    through: (cotangent of z, w) -> gradient of the shared leaves, for methods on it; else None.
  """

  found: Heads
  combine: Callable[[jax.Array], Leaves]
  gramian: Callable[[], jax.Array] | None = None
  jac: Leaves | None = None
  combine_finite: Callable[[jax.Array], Leaves] | None = None
  z: Leaves | None = None
  through: Callable[..., Leaves] | None = None

  def without(self, bad: jax.Array) -> 'Evidence':
    """The same for weights that leave out tasks whose gradient turned out not to be finite, if there are any."""
    if self.combine_finite is None:
      return self
    return dataclasses.replace(
      self, combine=lambda w: jax.lax.cond(bad.any(), self.combine_finite, self.combine, w))


def losses(graph: Graph, env: dict, leaves: Leaves, settle: Settle, chunk: int) -> Evidence:
  """One backward pass of the weighted sum."""
  del chunk
  z, pullback, rest = passes.trunk_vjp(graph, env, leaves)
  found = settle(passes.heads(graph, passes.after_trunk(graph, env, z, rest), leaves))
  return Evidence(found, lambda w: passes.weighted(graph, w, found, pullback))


def jacobian(graph: Graph, env: dict, leaves: Leaves, settle: Settle, chunk: int) -> Evidence:
  """Every task's gradient, stacked."""
  z, pullback, rest = passes.trunk_vjp(graph, env, leaves)
  found = settle(passes.heads(graph, passes.after_trunk(graph, env, z, rest), leaves))
  inside = dict(passes.pull_all(pullback, passes.stack_representation(graph, found), chunk)[0])
  return of_jacobian(found, _all_rows(graph, passes.add_direct(graph, inside, found, leaves)))


def by_tape(graph: Graph, env: dict, leaves: Leaves, settle: Settle, chunk: int, forms: Mapping[str, str]) -> Evidence:
  """The Gramian and the update from d losses / d outputs; `forms` says which leaves go by 'inner' products."""
  uses = {path: own for path, own in tape_uses(graph).items() if forms.get(path) == 'inner'}
  z, pull, rest = tape.record(graph, env, leaves, uses)
  found = settle(passes.heads(graph, passes.after_trunk(graph, env, z, rest), leaves))
  return _of_tape(found, pull(found, chunk))


def by_probe(graph: Graph, env: dict, leaves: Leaves, settle: Settle, chunk: int, forms: Mapping[str, str]) -> Evidence:
  """The Gramian layer by layer; the update by a weighted pass."""
  del chunk
  uses = probe_uses(graph)
  inner = {path: forms.get(path) == 'inner' for path in uses}
  z, pull, rest = probe.gramian_pass(graph, env, leaves, uses, inner)
  found = settle(passes.heads(graph, passes.after_trunk(graph, env, z, rest), leaves))
  _, pullback, _ = passes.trunk_vjp(graph, env, leaves)  # the same forward pass: the compiler makes one of the two
  probed, jac = pull(found)

  def gramian() -> jax.Array:
    gram = probed + stacked.gramian(jac) if jac else probed
    return 0.5 * (gram + gram.T)

  return Evidence(found, lambda w: passes.weighted(graph, w, found, pullback), gramian)


def features(graph: Graph, env: dict, leaves: Leaves, settle: Settle, chunk: int) -> Evidence:
  """On the shared representation: `jac` holds dl_t/dz instead of gradients of parameters."""
  del chunk
  z, pullback, rest = passes.trunk_vjp(graph, env, leaves)
  found = settle(passes.heads(graph, passes.after_trunk(graph, env, z, rest), leaves))
  rows = {f'z{i}': c for i, c in enumerate(passes.stack_representation(graph, found))}
  return dataclasses.replace(
    of_jacobian(found, _all_rows(graph, rows)), combine=lambda w: passes.weighted(graph, w, found, pullback),
    combine_finite=None, z={f'z{i}': x for i, x in enumerate(z)},
    through=lambda d, w: passes.through_trunk(graph, list(d.values()), w, found, pullback))


def disjoint(graphs: Sequence[Graph], envs: Sequence[dict], leaves: Leaves, settle: Settle, chunk: int) -> Evidence:
  """Tasks with rows of their own: each piece of the batch gives the gradients of its tasks, at the cost of its rows.

  Args:
    graphs, envs: one a piece, with the same shared leaves; a task is present in one piece only.
    leaves: trained leaves.
    settle: of all tasks together, once their heads have run.
    chunk: see `passes.pull_all`.
  """
  runs = []
  for graph, env in zip(graphs, envs):
    z, pullback, rest = passes.trunk_vjp(graph, env, leaves)
    runs.append((pullback, passes.heads(graph, passes.after_trunk(graph, env, z, rest), leaves)))
  found = settle(join([heads for _, heads in runs]))
  stacks = []
  for graph, (pullback, _) in zip(graphs, runs):
    inside = {}
    if graph.trunk.eqns:
      inside = dict(passes.pull_all(pullback, passes.stack_representation(graph, found), chunk)[0])
    stacks.append(passes.add_direct(graph, inside, found, leaves, fill=True))
  order = [t for graph in graphs for t in graph.present]
  place = jnp.array([order.index(t) for t in range(len(order))])
  jac = {path: jnp.concatenate([stack[path] for stack in stacks])[place] for path in graphs[0].shared}
  return of_jacobian(found, jac)


def join(parts: Sequence[Heads]) -> Heads:
  """The heads of several pieces of a batch as one: sums and normalisers add, gradients stand side by side."""
  union = lambda dicts: {key: value for found in dicts for key, value in found.items()}
  return Heads(sum(part.sums for part in parts), sum(part.normalisers for part in parts),
               union(part.representation for part in parts), union(part.direct for part in parts),
               union(part.owned for part in parts))


def statistics(graph: Graph, env: dict, leaves: Leaves, settle: Settle, chunk: int, forms: Mapping[str, str],
               keep: Callable[[str], bool]) -> Evidence:
  """The Gramian over some leaves only, by tape; the update of all by a weighted pass."""
  uses = {path: own for path, own in tape_uses(graph).items() if forms.get(path) == 'inner'}
  z, pull, rest = tape.record(graph, env, leaves, uses, keep)
  found = settle(passes.heads(graph, passes.after_trunk(graph, env, z, rest), leaves))
  _, pullback, _ = passes.trunk_vjp(graph, env, leaves)
  return Evidence(found, lambda w: passes.weighted(graph, w, found, pullback), pull(found, chunk).gramian)


def tape_uses(graph: Graph) -> dict[str, list[sites.Use]]:
  """The sites that the tape can take: of leaves that no head reads besides."""
  leaf_vars = {graph.leaf_vars[path]: path for path in passes.trunk_leaves(graph)}
  besides = passes.read_by_heads(graph)
  return {path: own for path, own in sites.find_uses(graph.trunk.eqns, leaf_vars).items() if path not in besides}


def probe_uses(graph: Graph) -> dict[str, sites.Use]:
  """The sites that probes can take: of leaves used once (a probe knows nothing of a leaf's other uses)."""
  return {path: own[0] for path, own in tape_uses(graph).items()
          if len(own) == 1 and all(slices for _, slices in own[0].loops)}


def of_jacobian(found: Heads, jac: Leaves) -> Evidence:
  """Of stacked gradients."""
  return Evidence(
    found, combine=lambda w: stacked.combine(jac, w),
    gramian=lambda: stacked.gramian(jac), jac=jac, combine_finite=lambda w: stacked.combine_finite(jac, w))


def _of_tape(found: Heads, kept: tape.Tape) -> Evidence:
  finite = lambda w: kept.combine(w, stacked.combine_finite)
  return Evidence(found, kept.combine, kept.gramian, combine_finite=finite)


def _all_rows(graph: Graph, rows: Leaves) -> Leaves:
  """Stacks of the present tasks -> of all T, with zeros for tasks whose loss depends on nothing here."""
  if len(graph.present) == graph.num_tasks:
    return rows
  place = jnp.array(graph.present)
  return {path: jnp.zeros((graph.num_tasks, *leaf.shape[1:]), leaf.dtype).at[place].set(leaf)
          for path, leaf in rows.items()}
