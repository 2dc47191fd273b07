"""Adapters folded into the parameters of the encoder, and taken out again.

    merged = merge(base, state, spec, task='a');     encoder.apply({'params': merged}, x) = forward(base, state, x, a)

What a rule adds to a module is folded into the module's own parameters, rule by rule in the order in which they act.
There is nothing to fold a bottleneck, a prefix or a prompt into; so these raise. Layers that a scan has stacked are
folded one by one.
"""
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.adapters.fresh import module_params
from mtjax.adapters.intercept import FIXED, MARK
from mtjax.adapters.method import Leaves
from mtjax.adapters.spec import Rule, Spec
from mtjax.context import Ctx

State = dict[str, Any]


def merge(base: Any, state: State, spec: Spec, task: int | str | None = None) -> dict[str, Any]:
  """The encoder's parameters with one task's adapters in them.

  Args:
    base: the encoder's parameters.
    state: of `init_adapters`, or what training made of it.
    spec: of the state.
    task: whose adapters, by name or id; None where there is one set for all tasks.

  Raises ValueError for a method that cannot be merged exactly, and for a task that is needed and not given.
  """
  params = tree.flatten(base) | tree.flatten(state.get('base', {}))
  return _fold(tree.unflatten(params), state, spec, task, 'fold')


def unmerge(merged: Any, state: State, spec: Spec, task: int | str | None = None) -> dict[str, Any]:
  """The inverse of `merge`, up to rounding; what `spec.trainable_base` names stays as it was trained.

  Raises ValueError for methods that lose what they were merged into (DoRA).
  """
  return _fold(merged, state, spec, task, 'unfold')


def sites_of(state: State, rule: Rule) -> Iterator[tuple[str, Leaves, Leaves, int]]:
  """(path, leaves, what is not learnt, layers stacked by a scan) of every site of a rule."""
  parts = []
  for part, name in ((state['adapters'], MARK + rule.name),
                     (state.get('stats', {}).get('sites', {}), MARK + rule.name + FIXED)):
    found: dict[str, Leaves] = {}
    for path, leaf in tree.flatten(part).items():
      *module, owner, last = path.split('/')
      if owner == name:
        found.setdefault('/'.join(module), {})[last] = leaf
    parts.append(found)
  for path, leaves in parts[0].items():
    yield path, leaves, parts[1].get(path, {}), num_layers(rule, leaves)


def num_layers(rule: Rule, leaves: Mapping[str, jax.Array]) -> int:
  """How many layers a scan has stacked into a site's leaves; 0 = it is no part of a scan."""
  for name, leaf in leaves.items():
    if name in rule.method.ndim:
      return leaf.shape[0] if leaf.ndim > rule.method.ndim[name] + rule.bank.has_slots else 0
  return 0


def one_set(rule: Rule, stored: Leaves, shared: Leaves, fixed: Leaves, task: int | str | None) -> Leaves:
  """The parameters of one task at one site (of one layer).

  Args:
    rule: with bank and method.
    stored: the site's leaves.
    shared: what all sites share.
    fixed: what is not learnt.
    task: by name or id.
  """
  bank, method = rule.bank, rule.method
  if bank.generated_by is not None:
    raise ValueError(f"The parameters of rule '{rule.name}' are generated: use `materialise` first.")
  stored = {**stored, **shared}
  common = {name: stored.pop(name) for name in list(stored) if name in method.common}
  ctx, weights = None, None
  if bank.per != 'shared':
    if task is None and bank.num_tasks != 1:
      raise ValueError(f"Rule '{rule.name}' has parameters a task, so merging needs task=, a name or an id.")
    ctx = Ctx(task_id=jnp.array(0 if task is None else bank.task_index(task)))
  if bank.router is not None:
    weights = bank.router.weights(stored, bank, ctx)
    stored = {name: x for name, x in stored.items() if not name.startswith('router_')}
  rows, _ = bank.rows(stored, ctx, rule.name, None, weights, method.split_axis)
  return {**rows, **common, **fixed}


def _fold(params: Any, state: State, spec: Spec, task: Any, how: str) -> dict[str, Any]:
  rules = list(spec) if how == 'fold' else list(spec)[::-1]
  stuck = [rule for rule in rules if not rule.method.mergeable]
  if stuck:
    names = ', '.join(f"'{rule.name}' ({type(rule.method).__name__})" for rule in stuck)
    raise ValueError(f'These rules cannot be merged into the parameters of the encoder: {names}.')
  if isinstance(task, str):
    task = spec.task_index(task)
  flat = tree.flatten(params)
  for rule in rules:
    shared = state.get('shared', {}).get(rule.name, {})
    shared_fixed = state.get('stats', {}).get('shared', {}).get(rule.name, {})
    for path, leaves, fixed, layers in sites_of(state, rule):
      own = {name: x for name, x in module_params(tree.unflatten(flat), path).items() if not isinstance(x, Mapping)}

      def fold(own, leaves, fixed, rule=rule, shared=shared, shared_fixed=shared_fixed) -> Leaves:
        p = one_set(rule, leaves, shared, {**fixed, **shared_fixed}, task)
        return getattr(rule.method, how)(p, own, rule.site.kind)

      call: Callable = jax.vmap(fold) if layers else fold
      flat |= {f'{path}/{name}' if path else name: x for name, x in call(own, leaves, fixed).items()}
  return tree.unflatten(flat)
