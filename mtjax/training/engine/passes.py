"""Forward and backward passes over a split objective, of which the plans are made.

  heads:     l_t, c_t = dl_t/dz (times a factor each), and the gradients of the tasks' own parameters
  weighted:  sum_t w_t g_t by one backward pass of the trunk
  jacobian:  all g_t, by one backward pass of the trunk a task
"""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax.autodiff.graph import Graph, evaluate, is_literal, read

Leaves = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Heads:
  """What the heads' backward pass gives.

  Attributes:
    sums: [T] float32.
    normalisers: [T] float32.
    representation: {present task: {variable of z: c_t}}.
    direct: {present task: {shared path: its gradient through the head alone}}.
    owned: {path: gradient of its task's loss}.
  """

  sums: jax.Array
  normalisers: jax.Array
  representation: Mapping[int, Mapping[Any, jax.Array]]
  direct: Mapping[int, Leaves]
  owned: Leaves

  def scale(self, graph: Graph, factor: jax.Array) -> 'Heads':
    """With every gradient of task t multiplied by factor[t]; a factor of 0 gives 0 whatever was there (also NaN)."""
    def times(t, x):
      return jnp.where(factor[t] == 0, jnp.zeros((), x.dtype), x * factor[t].astype(x.dtype))

    per_task = lambda found: {t: {key: times(t, x) for key, x in own.items()} for t, own in found.items()}
    return dataclasses.replace(self, representation=per_task(self.representation), direct=per_task(self.direct),
                               owned={path: times(graph.owned[path], x) for path, x in self.owned.items()})

  def finite(self) -> jax.Array:
    """[T] bool: the tasks whose loss and gradients up to z are finite."""
    ok = list(jnp.isfinite(self.sums))
    for t, own in self.representation.items():
      for x in (*own.values(), *self.direct[t].values()):
        # A product with ones, since on a CPU it takes a fraction of the time that isfinite(x).all() takes.
        kind = jnp.promote_types(x.dtype, jnp.float32)
        ok[t] &= jnp.isfinite(jnp.matmul(x.reshape(-1), jnp.ones(x.size, x.dtype), preferred_element_type=kind))
    return jnp.stack(ok)


def prepare(graph: Graph, leaves: Leaves, inputs: Sequence[Any]) -> dict[Any, Any]:
  """The values of everything that the trunk and the heads read besides what is differentiated."""
  env = {**graph.constants, **dict(zip(graph.input_vars, inputs)),
         **{graph.leaf_vars[path]: leaf for path, leaf in leaves.items()}}
  evaluate(graph.data.eqns, env)
  return env


def differentiable(var: Any) -> bool:
  """Whether a variable carries gradients."""
  return jnp.issubdtype(var.aval.dtype, jnp.floating)


def representation_vars(graph: Graph) -> tuple[Any, ...]:
  """The variables of z, in order."""
  return tuple(var for var in graph.trunk.outputs if differentiable(var))


def trunk_leaves(graph: Graph) -> tuple[str, ...]:
  """Paths that the trunk reads."""
  inputs = set(graph.trunk.inputs)
  return tuple(path for path in graph.shared if graph.leaf_vars[path] in inputs)


def run_trunk(graph: Graph, env: dict[Any, Any]) -> tuple[list[Any], list[Any]]:
  """Runs the trunk in `env` -> (z, its outputs that carry no gradient)."""
  evaluate(graph.trunk.eqns, env)
  return split_outputs(graph, env)


def split_outputs(graph: Graph, env: Mapping[Any, Any]) -> tuple[list[Any], list[Any]]:
  """(z, the other outputs of the trunk) of an environment in which it has run."""
  return ([env[var] for var in graph.trunk.outputs if differentiable(var)],
          [env[var] for var in graph.trunk.outputs if not differentiable(var)])


def with_leaves(graph: Graph, env: Mapping[Any, Any], leaves: Leaves) -> dict[Any, Any]:
  """A copy of `env` in which some leaves have other values."""
  return {**env, **{graph.leaf_vars[path]: leaf for path, leaf in leaves.items()}}


def after_trunk(graph: Graph, env: Mapping[Any, Any], z: Sequence[Any], rest: Sequence[Any]) -> dict[Any, Any]:
  """A copy of `env` with the trunk's outputs."""
  others = [var for var in graph.trunk.outputs if not differentiable(var)]
  return {**env, **dict(zip(representation_vars(graph), z)), **dict(zip(others, rest))}


def heads(graph: Graph, env: Mapping[Any, Any], leaves: Leaves) -> Heads:
  """Each head's sum of losses, and its gradient.

  Args:
    graph, env: `env` holds the trunk's outputs.
    leaves: trained leaves.
  """
  sums, normalisers, representation, direct, owned = [], [], {}, {}, {}
  for t, part in enumerate(graph.heads):
    entry = _entry(graph.sums, t)
    wanted = {*part.inputs, *(() if is_literal(entry) else (entry,))}
    read_z = [var for var in representation_vars(graph) if var in wanted]
    theta = [path for path in graph.shared if graph.leaf_vars[path] in wanted]
    phi = [path for path, task in graph.owned.items() if task == t]

    def head(z, theta_values, phi_values, t=t, part=part, read_z=read_z, theta=theta, phi=phi):
      own = with_leaves(graph, env, {**dict(zip(theta, theta_values)), **dict(zip(phi, phi_values))})
      own.update(zip(read_z, z))
      evaluate(part.eqns, own)
      return _value(own, graph.sums, t), jax.lax.stop_gradient(_value(own, graph.normalisers, t))

    arguments = [env[var] for var in read_z], [leaves[path] for path in theta], [leaves[path] for path in phi]
    if t in graph.present:
      value, pullback, normaliser = jax.vjp(head, *arguments, has_aux=True)
      cz, ctheta, cphi = pullback(jnp.ones_like(value))
      representation[t], direct[t] = dict(zip(read_z, cz)), dict(zip(theta, ctheta))
      owned.update(zip(phi, cphi))
    else:
      value, normaliser = head(*arguments)
    sums.append(value)
    normalisers.append(normaliser)
  return Heads(jnp.stack(sums), jnp.stack(normalisers), representation, direct, owned)


def _entry(vector: Sequence[Any], t: int) -> Any:
  """The variable that holds entry t of a vector over tasks, or the whole vector."""
  return vector[t] if len(vector) > 1 else vector[0]


def _value(env: Mapping[Any, Any], vector: Sequence[Any], t: int) -> jax.Array:
  """Entry t as a float32 scalar."""
  value = jnp.asarray(read(env, _entry(vector, t)), jnp.float32).reshape(-1)
  return value[0] if len(vector) > 1 or value.size == 1 else value[t]


def stack_representation(graph: Graph, found: Heads) -> list[jax.Array]:
  """c of the present tasks: a list over the variables of z of [T', *shape]; zeros where a head does not read one."""
  return [jnp.stack([found.representation[t].get(var, jnp.zeros(var.aval.shape, var.aval.dtype))
                     for t in graph.present]) for var in representation_vars(graph)]


def add_direct(graph: Graph, jac: Leaves, found: Heads, leaves: Leaves, besides: Any = (),
               fill: bool = False) -> Leaves:
  """The present tasks' stacked gradients of the shared leaves, through the trunk (`jac`) and through the heads.

  Args:
    graph, jac, found, leaves: see above.
    besides: leaves to leave out.
    fill: whether leaves that nothing here reads get zeros.
  """
  total = dict(jac)
  for path in read_by_heads(graph):
    extra = jnp.stack([found.direct[t].get(path, jnp.zeros_like(leaves[path])) for t in graph.present])
    total[path] = total[path] + extra if path in total else extra
  if fill:
    rows = len(graph.present)
    total = {path: jnp.zeros((rows, *leaves[path].shape), leaves[path].dtype) for path in graph.shared} | total
  return {path: total[path] for path in graph.shared if path not in besides}


def read_by_heads(graph: Graph) -> tuple[str, ...]:
  """The shared paths that heads read themselves, past z."""
  inputs = {var for part in graph.heads for var in part.inputs}
  return tuple(path for path in graph.shared if graph.leaf_vars[path] in inputs)


def weighted(graph: Graph, w: jax.Array, found: Heads, pullback: Any) -> Leaves:
  """sum_t w_t g_t of the shared leaves, by one backward pass.

  Args:
    graph: the split objective.
    w: [T].
    found: of the heads.
    pullback: of `trunk_vjp`.
  """
  cotangents = []
  for var in representation_vars(graph):
    parts = [w[t].astype(var.aval.dtype) * cots[var] for t, cots in found.representation.items() if var in cots]
    cotangents.append(sum(parts) if parts else jnp.zeros(var.aval.shape, var.aval.dtype))
  return through_trunk(graph, cotangents, w, found, pullback)


def through_trunk(graph: Graph, cotangents: Sequence[jax.Array], w: jax.Array, found: Heads, pullback: Any) -> Leaves:
  """The gradient of the shared leaves for one cotangent of z, plus the heads' own share weighted by w."""
  gradient = dict(pullback(list(cotangents))[0])
  for t, cots in found.direct.items():
    for path, cot in cots.items():
      part = w[t].astype(cot.dtype) * cot
      gradient[path] = gradient[path] + part if path in gradient else part
  return {path: gradient[path] for path in graph.shared}


def trunk_vjp(graph: Graph, env: Mapping[Any, Any], leaves: Leaves):
  """(z, pullback from z to the trunk's leaves, its other outputs)."""
  def forward(theta):
    return run_trunk(graph, with_leaves(graph, env, theta))

  return jax.vjp(forward, {path: leaves[path] for path in trunk_leaves(graph)}, has_aux=True)


def pull_all(pullback: Any, cotangents: Any, chunk: int) -> Any:
  """The pullback of every row of `cotangents` (leaves [T, …]), stacked.

  Args:
    pullback: of `jax.vjp`.
    cotangents: a tree.
    chunk: rows at a time; 0 = one at a time, written out rather than as a loop.
  """
  num_tasks = jax.tree.leaves(cotangents)[0].shape[0] if jax.tree.leaves(cotangents) else 0
  if chunk == 0:
    rows = [pullback(jax.tree.map(lambda x, t=t: x[t], cotangents)) for t in range(num_tasks)]
    return jax.tree.map(lambda *xs: jnp.stack(xs), *rows)
  if chunk >= num_tasks:
    return jax.vmap(pullback)(cotangents)
  return jax.lax.map(pullback, cotangents, batch_size=chunk if chunk > 1 else None)
