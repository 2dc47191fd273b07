"""What a plan costs, from static counts: flops of the matrix products, and what it keeps beside a plain step.

Symbols: F forward and A backward to the activations, of the trunk, W_p the weight gradient of leaf p (all in flops, of
products and convolutions only); T tasks; d numbers in the shared leaves. At a site: S, N, a, o as in `sites`.

  inner form of a leaf:   2 S N^2 a + 2 T S N^2 o + 2 T^2 S N o (Gramian)  + 2 S N a o (update),  keeps T S N o
  direct form of a leaf:  T W_p + 2 T^2 |p|                               + 2 T |p|    (update),  keeps T |p|
"""
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mtjax.autodiff import sites
from mtjax.autodiff.graph import Graph, is_literal, open_jaxpr
from mtjax.training.engine import passes, plans
from mtjax.training.flops import product_flops

BYTES = 4


@dataclasses.dataclass(frozen=True)
class Cost:
  """Of one step.

  Attributes:
    flops: of products and convolutions in the trunk.
    memory: bytes kept beside what a plain step keeps.
  """

  flops: float
  memory: float


def predict(graph: Graph, leaves: passes.Leaves, plan: str, forms: Mapping[str, str]) -> Cost:
  """The cost of a plan.

  Args:
    graph: of the whole batch.
    leaves: trained leaves.
    plan: its name.
    forms: {path: 'inner' or 'direct'}, of the tape and the probe.
  """
  num_tasks = len(graph.present)
  forward, activations, weights = counts(graph)
  size = {path: math.prod(leaves[path].shape) for path in graph.shared}
  total_weights = sum(weights.values())
  plain = forward + activations + total_weights
  if plan in ('losses', 'features'):
    z = sum(math.prod(var.aval.shape) for var in passes.representation_vars(graph))
    kept = num_tasks * z if plan == 'features' else 0
    return Cost(plain + (2 * num_tasks**2 * z if plan == 'features' else 0), BYTES * kept)
  if plan == 'jacobian':
    return of_rows(forward + num_tasks * (activations + total_weights), graph, leaves)
  uses = plans.tape_uses(graph)
  flops, memory, largest = forward + num_tasks * activations, 0.0, 0.0
  for path in graph.shared:
    inner = forms.get(path) == 'inner'
    cost = inner_form(uses[path], num_tasks) if inner else direct_form(weights.get(path, 0), size[path], num_tasks)
    flops, memory, largest = flops + cost.flops, memory + cost.memory, max(largest, cost.memory)
  if plan == 'probe':
    return Cost(flops + activations + total_weights, largest)
  return Cost(flops, memory)


def of_rows(flops: float, graph: Graph, leaves: passes.Leaves) -> Cost:
  """Of stacked gradients that took `flops` to make: their Gramian and combination besides, and their memory."""
  num_tasks, numbers = len(graph.present), sum(math.prod(leaves[path].shape) for path in graph.shared)
  return Cost(flops + 2 * num_tasks**2 * numbers + 2 * num_tasks * numbers, BYTES * num_tasks * numbers)


def inner_form(uses: Sequence[sites.Use], num_tasks: int) -> Cost:
  """Of a leaf by inner products."""
  s, _, a, o = uses[0].sizes
  n = sum(use.sizes[1] for use in uses)
  kernel = s * n * n if uses[0].kind == 'lookup' else 2 * s * n * n * a
  gram = kernel + 2 * num_tasks * s * n * n * o + 2 * num_tasks**2 * s * n * o
  update = 2 * s * n * o * (1 if uses[0].kind == 'lookup' else a)
  return Cost(gram + update + 2 * num_tasks * s * n * o, BYTES * num_tasks * s * n * o)


def direct_form(weight_flops: float, size: int, num_tasks: int) -> Cost:
  """Of a leaf by its gradients."""
  return Cost(num_tasks * weight_flops + 2 * num_tasks**2 * size + 2 * num_tasks * size, BYTES * num_tasks * size)


def choose_forms(graph: Graph, leaves: passes.Leaves) -> dict[str, str]:
  """{path: the cheaper form}; 'direct' for what is no site."""
  num_tasks, (_, _, weights) = len(graph.present), counts(graph)
  uses = plans.tape_uses(graph)
  forms = {}
  for path in graph.shared:
    size = math.prod(leaves[path].shape)
    direct = direct_form(weights.get(path, 0), size, num_tasks)
    inner = inner_form(uses[path], num_tasks) if path in uses else None
    forms[path] = 'inner' if inner is not None and inner.flops < direct.flops else 'direct'
  return forms


def counts(graph: Graph) -> tuple[float, float, dict[str, float]]:
  """(forward, backward to the activations, {path: weight gradient}) of the trunk, in flops."""
  weights: dict[str, float] = {}
  leaf_of = {graph.leaf_vars[path]: path for path in passes.trunk_leaves(graph)}
  return *_count(graph.trunk.eqns, leaf_of, set(leaf_of), 1, weights), weights


def _count(eqns: Sequence[Any], leaf_of: Mapping[Any, str], live: set[Any] | None, times: int,
           weights: dict[str, float]) -> tuple[float, float]:
  """(forward, backward to the activations), adding to `weights`.

  Args:
    eqns: operations.
    leaf_of: {variable: path} of those that hold a leaf.
    live: variables that depend on trained parameters; None = all that are read here.
    times: how often the operations run.
    weights: gets {path: flops of its gradient}.
  """
  leaf_of, forward, activations = dict(leaf_of), 0.0, 0.0
  for eqn in eqns:
    flops = times * product_flops(eqn)
    operands = [atom for atom in eqn.invars if not is_literal(atom)]
    forward += flops
    for atom in operands[:2] if flops else ():
      if atom in leaf_of:
        weights[leaf_of[atom]] = weights.get(leaf_of[atom], 0.0) + flops
      elif live is None or atom in live:
        activations += flops
    if eqn.primitive.name in sites.SAME_NUMBERS and operands and operands[0] in leaf_of:
      leaf_of[eqn.outvars[0]] = leaf_of[operands[0]]
    turns = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
    for inner in _nested(eqn):
      inside = {var: leaf_of[atom] for var, atom in zip(inner.invars, eqn.invars)
                if not is_literal(atom) and atom in leaf_of}
      nested = _count(inner.eqns, inside, None, times * turns, weights)
      forward, activations = forward + nested[0], activations + nested[1]
    if live is not None and any(atom in live for atom in operands):
      live.update(eqn.outvars)
  return forward, activations


def share_of_convolutions(eqns: Sequence[Any]) -> float:
  """The part of the products among these operations that are convolutions."""
  total = {True: 0.0, False: 0.0}

  def add(eqns, times):
    for eqn in eqns:
      total[eqn.primitive.name == 'conv_general_dilated'] += times * product_flops(eqn)
      turns = eqn.params['length'] if eqn.primitive.name == 'scan' else 1
      for inner in _nested(eqn):
        add(inner.eqns, times * turns)

  add(eqns, 1)
  return total[True] / max(sum(total.values()), 1.0)


def _nested(eqn: Any) -> list[Any]:
  """Jaxprs within an operation."""
  found = []
  for value in eqn.params.values():
    for item in value if isinstance(value, (tuple, list)) else (value,):
      jaxpr, _ = open_jaxpr(item)
      if hasattr(jaxpr, 'eqns'):
        found.append(jaxpr)
  return found
