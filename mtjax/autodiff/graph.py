"""The losses as a graph: which parameters each task reaches, where the shared trunk ends and the tasks' heads begin.

The objective is traced once into a jaxpr. An operation belongs to the *trunk* if it depends on trained parameters and
at least two losses depend on it, to the *head* of task t if only loss t does. What the heads read of the trunk is the
shared representation z. So, without knowing anything of the model,

    l_t = head_t(z, phi_t),   z = trunk(theta),   g_t = dl_t/dtheta = (dz/dtheta)^T c_t,   c_t = dl_t/dz,

where theta are the parameters that more than one task reaches (found by following the graph, not by their names), and
phi_t those that only task t reaches.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

_ENTRYWISE = ('mul', 'div', 'add', 'add_any', 'sub', 'neg', 'max', 'convert_element_type', 'stop_gradient', 'copy')
INLINED = ('jit', 'pjit', 'closed_call', 'core_call')


@dataclasses.dataclass(frozen=True)
class Part:
  """A stretch of the graph: operations in order, what they read and what others read of them.

  Attributes:
    eqns: the operations.
    inputs: variables computed elsewhere.
    outputs: variables that others read.
  """

  eqns: tuple[Any, ...]
  inputs: tuple[Any, ...]
  outputs: tuple[Any, ...]


@dataclasses.dataclass(frozen=True)
class Graph:
  """A traced objective, split.

  Attributes:
    num_tasks: T.
    present: the tasks whose loss depends on trained parameters here.
    shared: paths of theta, the leaves that more than one task reaches.
    owned: {path of a leaf that one task reaches: that task}.
    trunk, heads: operations on trained parameters; z is what the heads read of the trunk. One head a task.
    data: the operations that depend on no trained parameter.
    leaf_vars: {path: its variable}, of all trained leaves.
    input_vars: variables of the other inputs, flat.
    constants: {variable: value}.
    sums: variables of the T sums of losses; or one, the vector of them, where it was not stacked of T scalars.
    normalisers: the same of what the sums are divided by.
    reach: {path: the tasks whose loss depends on the leaf}.
  """

  num_tasks: int
  present: tuple[int, ...]
  shared: tuple[str, ...]
  owned: Mapping[str, int]
  trunk: Part
  heads: tuple[Part, ...]
  data: Part
  leaf_vars: Mapping[str, Any]
  input_vars: tuple[Any, ...]
  constants: Mapping[Any, Any]
  sums: tuple[Any, ...]
  normalisers: tuple[Any, ...]
  reach: Mapping[str, frozenset[int]]

  def share(self, paths: Sequence[str]) -> 'Graph':
    """With `paths` as the shared leaves, whatever is reached here (other pieces of a batch may reach more)."""
    reach = {path: tasks for path, tasks in self.reach.items() if path not in paths}
    return dataclasses.replace(self, shared=tuple(path for path in self.leaf_vars if path in paths),
                               owned={path: next(iter(tasks)) for path, tasks in reach.items() if len(tasks) == 1})


def is_literal(atom: Any) -> bool:
  """Whether an operand is a number written into the graph."""
  return hasattr(atom, 'val')


def read(env: Mapping[Any, Any], atom: Any) -> Any:
  """The value of an operand."""
  return atom.val if is_literal(atom) else env[atom]


def bind(eqn: Any, values: Sequence[Any]) -> list[Any]:
  """Runs one operation."""
  with eqn.ctx.manager:
    result = eqn.primitive.bind(*values, **eqn.primitive.get_bind_params(eqn.params))
  return list(result) if eqn.primitive.multiple_results else [result]


def evaluate(eqns: Sequence[Any], env: dict[Any, Any], hook: Callable[..., list[Any] | None] | None = None) -> None:
  """Runs operations in order, adding their results to `env`; `hook(index, eqn, values)` may run some its own way."""
  for index, eqn in enumerate(eqns):
    values = [read(env, atom) for atom in eqn.invars]
    results = hook(index, eqn, values) if hook else None
    env.update(zip(eqn.outvars, bind(eqn, values) if results is None else results))


def open_jaxpr(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
  """(jaxpr, values of its constants), of a closed jaxpr or an open one."""
  return getattr(jaxpr, 'jaxpr', jaxpr), getattr(jaxpr, 'consts', ())


def inline(jaxpr: Any, values: Sequence[Any], entries: dict[int, tuple[Any, list[Any]]] | None = None) -> list[Any]:
  """Evaluates a jaxpr with nested `jit`s written out, so that a trace of this shows their operations.

  Args:
    jaxpr, values: what to evaluate, on what.
    entries: gets {id of a vector: (the vector, its entries as they were computed)} for vectors stacked of scalars, and
      for what is made of such vectors entry by entry or by slicing.
  """
  jaxpr, constants = open_jaxpr(jaxpr)
  env = dict(zip(jaxpr.constvars, constants)) | dict(zip(jaxpr.invars, values))

  def hook(index, eqn, values):
    del index
    if eqn.primitive.name in INLINED and 'jaxpr' in eqn.params:
      return inline(eqn.params['jaxpr'], values, entries)
    if entries and eqn.primitive.name in ('squeeze', 'reshape') and eqn.outvars[0].aval.shape == () \
        and id(values[0]) in entries:
      return entries[id(values[0])][1]  # the one entry, as it was computed
    results = bind(eqn, values)
    if entries is not None and len(eqn.outvars) == 1 and eqn.outvars[0].aval.ndim == 1:
      own = _entries_of(eqn, values, entries)
      if own is not None:
        entries[id(results[0])] = results[0], own  # the vector is kept, so that its id stays its own
    return results

  evaluate(jaxpr.eqns, env, hook)
  return [read(env, atom) for atom in jaxpr.outvars]


def _entries_of(eqn: Any, values: Sequence[Any], entries: Mapping[int, tuple[Any, list[Any]]]) -> list[Any] | None:
  """The entries of the vector that an operation makes, where it stacks scalars or works entry by entry on such."""
  name, length = eqn.primitive.name, eqn.outvars[0].aval.shape[0]
  if name in ('stack', 'concatenate') and len(values) == length:
    return [jnp.reshape(value, ()) for value in values]
  if name == 'slice' and id(values[0]) in entries:
    start, stop = eqn.params['start_indices'][0], eqn.params['limit_indices'][0]
    return entries[id(values[0])][1][start:stop:(eqn.params['strides'] or (1,))[0]]
  if name not in _ENTRYWISE or not any(id(value) in entries for value in values):
    return None

  def entry(value, t):
    if id(value) in entries:
      return entries[id(value)][1][t]
    return value if jnp.ndim(value) == 0 else value[t]

  return [bind(eqn, [entry(value, t) for value in values])[0] for t in range(length)]


def trace(fn: Callable[..., Any], leaves: Mapping[str, jax.Array], *rest: Any) -> tuple[Graph, list[Any]]:
  """Traces `fn(leaves, *rest) -> Losses` and splits it.

  Args:
    fn: the objective as a function of the trained leaves {path: array}.
    leaves: trained leaves.
    *rest: everything else it reads.

  Returns:
    (graph, the flat values of `rest`, in the order of `graph.input_vars`).
  """
  paths, (flat_rest, structure) = tuple(leaves), jax.tree.flatten(rest)

  def flat_fn(*values):
    losses = fn(dict(zip(paths, values)), *jax.tree.unflatten(structure, values[len(paths):]))
    return losses.sums, losses.weights

  arguments = [*leaves.values(), *flat_rest]
  closed = jax.make_jaxpr(flat_fn)(*arguments)
  apart: list[bool] = []

  def entry_fn(*values):
    entries: dict[int, tuple[Any, list[Any]]] = {}
    vectors = inline(closed, values, entries)
    apart[:] = [id(vector) in entries for vector in vectors]
    return [entries[id(vector)][1] if id(vector) in entries else [vector] for vector in vectors]

  jaxpr, constants = open_jaxpr(jax.make_jaxpr(entry_fn)(*arguments))
  num_tasks = open_jaxpr(closed)[0].outvars[0].aval.shape[0]
  return _split(jaxpr, constants, paths, num_tasks, num_tasks if apart[0] else 1), flat_rest


def _split(jaxpr: Any, constants: Sequence[Any], paths: tuple[str, ...], num_tasks: int, num_sums: int) -> Graph:
  leaf_vars = dict(zip(paths, jaxpr.invars))
  everyone = frozenset(range(num_tasks))
  outputs = [  # (atom, the tasks that it is of)
    *_of_tasks(jaxpr.outvars[:num_sums], everyone), *_of_tasks(jaxpr.outvars[num_sums:], everyone)]

  depends = {var for var in leaf_vars.values()}
  for eqn in jaxpr.eqns:
    if any(not is_literal(atom) and atom in depends for atom in eqn.invars):
      depends.update(eqn.outvars)

  reach: dict[Any, set[int]] = {}
  def mark(atom, tasks):
    if not is_literal(atom):
      reach.setdefault(atom, set()).update(tasks)

  for atom, tasks in outputs:
    mark(atom, tasks)
  for eqn in reversed(jaxpr.eqns):
    tasks = set().union(*(reach.get(var, ()) for var in eqn.outvars))
    if tasks:
      for atom in eqn.invars:
        mark(atom, tasks)

  groups: dict[Any, list[Any]] = {'data': [], 'trunk': [], **{t: [] for t in range(num_tasks)}}
  for eqn in jaxpr.eqns:
    tasks = set().union(*(reach.get(var, ()) for var in eqn.outvars))
    if not tasks:
      continue
    if not any(var in depends for var in eqn.outvars):
      name = 'data'
    else:
      name = next(iter(tasks)) if len(tasks) == 1 else 'trunk'
    groups[name].append(eqn)

  parts = {name: _part(eqns, name, groups, outputs) for name, eqns in groups.items()}
  leaf_reach = {path: frozenset(reach.get(var, ())) for path, var in leaf_vars.items()}
  return Graph(
    num_tasks=num_tasks, present=tuple(sorted(set().union(*leaf_reach.values()))),
    shared=tuple(path for path in paths if len(leaf_reach[path]) > 1),
    owned={path: next(iter(tasks)) for path, tasks in leaf_reach.items() if len(tasks) == 1},
    trunk=parts['trunk'], heads=tuple(parts[t] for t in range(num_tasks)), data=parts['data'],
    leaf_vars=leaf_vars, input_vars=tuple(jaxpr.invars[len(paths):]), constants=dict(zip(jaxpr.constvars, constants)),
    sums=tuple(jaxpr.outvars[:num_sums]), normalisers=tuple(jaxpr.outvars[num_sums:]), reach=leaf_reach)


def _of_tasks(atoms: Sequence[Any], everyone: frozenset[int]) -> list[tuple[Any, frozenset[int]]]:
  """Entries of a vector over tasks, each with its task; of a vector that could not be taken apart, with all tasks."""
  return [(atom, frozenset({t}) if len(atoms) == len(everyone) else everyone) for t, atom in enumerate(atoms)]


def _part(eqns: Sequence[Any], name: Any, groups: Mapping[Any, Sequence[Any]], outputs: Sequence[tuple]) -> Part:
  """A group of operations with what it reads from outside and what is read of it."""
  inside = {var for eqn in eqns for var in eqn.outvars}
  inputs = {atom for eqn in eqns for atom in eqn.invars if not is_literal(atom) and atom not in inside}
  outside = {atom for other, members in groups.items() if other != name for eqn in members for atom in eqn.invars
             if not is_literal(atom)}
  outside |= {atom for atom, _ in outputs if not is_literal(atom)}
  ordered = [var for eqn in eqns for var in eqn.outvars if var in outside]
  return Part(tuple(eqns), tuple(inputs), tuple(dict.fromkeys(ordered)))
