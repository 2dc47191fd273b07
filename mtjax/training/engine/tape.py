"""The Gramian by tape: keep d losses / d output of the trunk's layers; form no weight gradient before w is known.

1. Run the trunk with a zero array added to the output of every chosen site, recording the site's input x.
2. Pull c_1 … c_T back to those zeros: Delta = d losses / d output, [T, S, N, o] a site, without any weight gradient.
   Other leaves (norms, biases, convolutions, what is no site) are pulled back to directly: [T, *shape].
3. G = sum over sites of <K Delta_s, Delta_t>, K = x x^T, plus the direct leaves' inner products.
4. With w known, the update is x^T (sum_t w_t Delta_t): exact, without a second pass.

x and Delta are kept even of layers that are rematerialised; there the plan 'jacobian' may need less memory.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax.autodiff import sites
from mtjax.autodiff.graph import Graph, bind
from mtjax.autodiff.sites import Use
from mtjax.optim import stacked
from mtjax.training.engine import passes
from mtjax.training.engine.passes import Heads, Leaves


@dataclasses.dataclass(frozen=True)
class Tape:
  """What was kept of one backward pass for all tasks.

  Attributes:
    rows: {path: x [S, N, a], or ids [S, N]} of the leaves in inner-product form.
    deltas: {path: [T, S, N, o]} of the same.
    jac: {path: [T, *shape]}, the gradients of the other leaves.
    uses: {path: its sites}.
  """

  rows: Mapping[str, jax.Array]
  deltas: Mapping[str, jax.Array]
  jac: Leaves
  uses: Mapping[str, Sequence[Use]]

  def gramian(self) -> jax.Array:
    """G [T, T] float32 over the recorded leaves."""
    parts = [inner_products(self.rows[path], delta) for path, delta in self.deltas.items()]
    if self.jac:
      parts.append(stacked.gramian(self.jac))
    gram = sum(parts)
    return 0.5 * (gram + gram.T)

  def combine(self, w: jax.Array, mix: Callable[[Leaves, jax.Array], Leaves] = stacked.combine) -> Leaves:
    """sum_t w_t g_t; `mix` adds up stacks."""
    result = mix(self.jac, w)
    for path, mixed in mix(dict(self.deltas), w).items():
      result[path] = self.uses[path][0].gradient(self.rows[path], mixed)
    return result


jax.tree_util.register_dataclass(Tape, data_fields=['rows', 'deltas', 'jac'], meta_fields=['uses'])


def inner_products(x: jax.Array, delta: jax.Array) -> jax.Array:
  """<x^T delta_s, x^T delta_t> summed over sites: x [S, N, a] or ids [S, N], delta [T, S, N, o] -> [T, T] float32."""
  kind = jnp.promote_types(delta.dtype, jnp.float32)
  if jnp.issubdtype(x.dtype, jnp.integer):
    kernel = (x[:, :, None] == x[:, None, :]).astype(kind)
  else:
    kernel = jnp.einsum('sna,sma->snm', x, x, preferred_element_type=kind)
  mixed = jnp.einsum('snm,tsmo->tsno', kernel, delta.astype(kind))
  num_tasks = delta.shape[0]
  return delta.reshape(num_tasks, -1).astype(kind) @ mixed.reshape(num_tasks, -1).T


def record(graph: Graph, env: dict[Any, Any], leaves: Leaves, uses: Mapping[str, Sequence[Use]],
           keep: Callable[[str], bool] = lambda path: True):
  """Runs the trunk under the tape.

  Args:
    graph, env, leaves: as in `passes`.
    uses: {path: sites} of the leaves that go by inner products; the others are differentiated directly.
    keep: the leaves to record at all. What lies upstream of all of them is not passed backward.

  Returns:
    (z, pull, other outputs); pull(c, found, chunk) -> Tape.
  """
  uses = {path: own for path, own in uses.items() if keep(path)}
  where = {use.site: use for own in uses.values() for use in own}
  probes = {site: jnp.zeros((*(length for length, _ in use.loops), *use.eqn.outvars[0].aval.shape),
                            use.eqn.outvars[0].aval.dtype) for site, use in where.items()}
  direct = {path: leaves[path] for path in passes.trunk_leaves(graph) if path not in uses and keep(path)}

  def forward(probes, theta):
    own = passes.with_leaves(graph, env, theta)
    extras = {site: sites.Extra(probe, (True,) * len(where[site].loops)) for site, probe in probes.items()}
    records = sites.run(graph.trunk.eqns, own, {site: use.operand for site, use in where.items()}, extras, _add_probe)
    z, rest = passes.split_outputs(graph, own)
    return z, (rest, records)

  z, pullback, (rest, records) = jax.vjp(forward, probes, direct, has_aux=True)

  def pull(found: Heads, chunk: int) -> Tape:
    deltas, jac = passes.pull_all(pullback, passes.stack_representation(graph, found), chunk)
    rows = {path: jnp.concatenate([use.rows(records[use.site]) for use in own], axis=1) for path, own in uses.items()}
    deltas = {path: jnp.concatenate([use.cotangents(deltas[use.site]) for use in own], axis=2)
              for path, own in uses.items()}
    besides = {*uses, *(path for path in graph.shared if not keep(path))}
    return Tape(rows, deltas, passes.add_direct(graph, dict(jac), found, leaves, besides), dict(uses))

  return z, pull, rest


def _add_probe(eqn: Any, operand: int, values: Sequence[Any], probe: jax.Array):
  """A site with a zero array added to its output -> (output, the operand that is not the parameter)."""
  if eqn.primitive.name == 'gather':
    ids = values[1][..., 0]
    return bind(eqn, values)[0] + probe, ids
  return bind(eqn, values)[0] + probe, jax.lax.stop_gradient(values[1 - operand])
