"""The Gramian by probes: every layer's share of G is made while the backward pass is there, and nothing is kept.

Each site gets a second input, a probe [T] that its output does not depend on. The backward rule of the site returns the
cotangent of its input as ever, none for the parameter, and for the probe the result of an operation `gram(x, dy)`.
Alone that is zero; but when the backward pass is vmapped over the T cotangents, `gram` sees all of them, dy [T, N, o],
and its batching rule returns the site's [T, T] share of the Gramian: row t is the probe's cotangent of task t. So
autodiff itself sums G over layers, and a layer's buffers are free once it is passed. A weighted backward pass follows.
"""
import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from mtjax.autodiff import sites
from mtjax.autodiff.graph import Graph, bind
from mtjax.autodiff.sites import Use
from mtjax.optim import stacked
from mtjax.training.engine import passes
from mtjax.training.engine.passes import Heads, Leaves
from mtjax.training.engine.tape import inner_products


def gramian_pass(graph: Graph, env: dict[Any, Any], leaves: Leaves, uses: Mapping[str, Use], inner: Mapping[str, bool]):
  """Runs the trunk with probes.

  Args:
    graph, env, leaves: as in `passes`.
    uses: {path: its one site}; all other leaves are differentiated directly.
    inner: {path: whether its share goes by inner products (else by the gradients of the site themselves)}.

  Returns:
    (z, pull, other outputs); pull(found) -> (G of the probed leaves [T, T], jac {path: [T, *shape]} of the others).
  """
  num_tasks = graph.num_tasks
  where = {use.site: use for use in uses.values()}
  direct = {path: leaves[path] for path in passes.trunk_leaves(graph) if path not in uses}

  def forward(probe, theta):
    own = passes.with_leaves(graph, env, theta)
    extras = {site: sites.Extra(probe, (False,) * len(use.loops)) for site, use in where.items()}

    def handler(eqn, operand, values, probe):
      use = next(use for use in uses.values() if use.eqn is eqn)
      site = _probed_site(dataclasses.replace(use, loops=()), num_tasks, inner[use.path])
      return site(values[1 - operand], values[operand], tuple(values[2:]), probe), ()

    sites.run(graph.trunk.eqns, own, {site: use.operand for site, use in where.items()}, extras, handler)
    return passes.split_outputs(graph, own)

  z, pullback, rest = jax.vjp(forward, jnp.zeros(num_tasks), direct, has_aux=True)

  def pull(found: Heads) -> tuple[jax.Array, Leaves]:
    gram, jac = jax.vmap(pullback)(passes.stack_representation(graph, found))
    inside = {path: jac[path] for path in direct}
    return gram, passes.add_direct(graph, inside, found, leaves, besides=uses)

  return z, pull, rest


def _probed_site(use: Use, num_tasks: int, inner: bool):
  """The operation (x, parameter, others, probe) -> output whose probe collects the site's share of the Gramian."""
  def run(x, parameter, others):
    values = [x, parameter] if use.operand == 1 else [parameter, x]
    return bind(use.eqn, [*values, *others])[0]

  @jax.custom_vjp
  def site(x, parameter, others, probe):
    del probe
    return run(x, parameter, others)

  def forward(x, parameter, others, probe):
    del probe
    return run(x, parameter, others), (x, parameter, others)

  def backward(saved, dy):
    x, parameter, others = saved
    if use.kind == 'lookup':
      return None, None, None, _share(use, num_tasks, inner)(x, dy)
    _, pullback = jax.vjp(lambda x: run(x, parameter, others), x)
    return *pullback(dy), None, None, _share(use, num_tasks, inner)(x, dy)

  site.defvjp(forward, backward)
  return site


def _share(use: Use, num_tasks: int, inner: bool):
  """gram(x, dy): zeros [T]; vmapped over tasks, row t of the site's share of the Gramian."""
  @custom_vmap
  def gram(x, dy):
    del x, dy
    return jnp.zeros(num_tasks)

  @gram.def_vmap
  def rule(axis_size, in_batched, x, dy):
    if axis_size != num_tasks or in_batched[0] or not in_batched[1]:
      raise ValueError('The probe plan pulls all tasks back at once, over inputs that they share.')
    rows = use.rows(x[..., 0] if use.kind == 'lookup' else x)
    delta = use.cotangents(dy)
    if inner:
      return inner_products(rows, delta), True
    gradient = jax.vmap(use.gradient, in_axes=(None, 0))(rows, delta)
    return stacked.gramian({'gradient': gradient}), True

  return gram
