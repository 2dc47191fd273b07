"""Arithmetic on adapters: pure functions (state, spec) -> (state, spec).

    select          one task's set out of a bank
    stack           several sets as a bank, one a task
    average         a weighted mean of a bank's sets (AdapterSoup, MHR-mu, LoRAHub)
    concat_rank     LoRAs whose sum is a weighted sum of a bank's changes, exactly: factors side by side
    svd_truncate    LoRAs of a smaller rank, the nearest ones
    materialise     what a hypernetwork generates, or a prefix's MLP, as stored parameters

Averaging factors is not averaging changes: A_i B_j has cross terms. A mean is meaningful for adapters that began alike
(Chronopoulou et al., "AdapterSoup", EACL 2023, https://arxiv.org/abs/2302.07027).
"""
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.adapters.bank import Bank, mix_slots
from mtjax.adapters.bind import find_sites
from mtjax.adapters.fresh import num_layers
from mtjax.adapters.intercept import MARK
from mtjax.adapters.lora import LoRA, RsLoRA
from mtjax.adapters.merging import one_set, sites_of
from mtjax.adapters.method import Leaves
from mtjax.adapters.spec import Rule, Spec

State = dict[str, Any]


def select(state: State, spec: Spec, task: int | str) -> tuple[State, Spec]:
  """One task's adapters, as one set for whatever rows; of a routed bank, the task's mixture."""
  def choose(rule, leaves, shared):
    if not leaves:  # of all sites
      return one_set(rule, {}, shared, {}, task) if shared else {}
    own = one_set(rule, leaves, shared, {}, task)
    return {name: x for name, x in own.items() if name in leaves}

  task = spec.task_index(task) if isinstance(task, str) else task
  return _sets(state, spec, choose), spec.map_banks(lambda bank: Bank())


def stack(states: Sequence[State], spec: Spec, tasks: Sequence[str] | int | None = None) -> tuple[State, Spec]:
  """Adapters of several tasks, each one set (`Bank()`), as a bank; the order is that of the ids.

  Args:
    states: of `spec`.
    spec: whose banks are shared.
    tasks: names; None = as many as there are states.
  """
  banks = {rule.bank.per for rule in spec}
  if banks != {'shared'}:
    raise ValueError(f'stack is for states with one set of parameters, Bank(), but the spec has per={sorted(banks)}.')
  if len({jax.tree.structure(state['adapters']) for state in states}) != 1:
    raise ValueError('stack got states of different structure; allowed are states of one spec.')
  bank = Bank(tasks=len(states) if tasks is None else tasks)
  if bank.num_tasks != len(states):
    raise ValueError(f'stack got {len(states)} states and the tasks {tasks!r}; allowed is a name for each.')
  _check_alike(states)
  layers = {f'{path}/{MARK}{rule.name}'.strip('/'): n for rule in spec for path, _, _, n in sites_of(states[0], rule)}
  adapters = tree.map_with_path(
    lambda path, *xs: jnp.stack(xs, axis=1 if layers[path.rpartition('/')[0]] else 0),
    states[0]['adapters'], *(state['adapters'] for state in states[1:]))
  commons = {rule.name: rule.method.common for rule in spec}
  shared = tree.map_with_path(
    lambda path, *xs: xs[0] if path.split('/')[1] in commons[path.split('/')[0]] else jnp.stack(xs),
    states[0].get('shared', {}), *(state.get('shared', {}) for state in states[1:]))
  return {**states[0], 'adapters': adapters, 'shared': shared}, spec.map_banks(lambda _: bank)


def average(state: State, spec: Spec, weights: Sequence[float] | None = None) -> tuple[State, Spec]:
  """One set for all tasks: sum_k weights_k theta_k over the slots of every bank.

  Args:
    state, spec: with banks of slots, all as many.
    weights: a number a slot, which need not add up to 1; None = the mean.
  """
  def mean(rule, leaves, shared):
    if not rule.bank.has_slots:
      return leaves or shared
    own = leaves or shared
    return {name: x if name in rule.method.common else mix_slots(x, _weights(weights, len(x)))
            for name, x in own.items() if not name.startswith('router_')}

  return _sets(state, spec, mean), spec.map_banks(lambda bank: Bank() if bank.has_slots else bank)


def concat_rank(state: State, spec: Spec, weights: Sequence[float] | None = None) -> tuple[State, Spec]:
  """One LoRA a site, of rank T r, whose change is sum_t weights_t s A_t B_t, exactly.

  Args:
    state, spec: of LoRAs in banks of slots.
    weights: a number a slot; None = 1 each.
  """
  _only_lora(spec, 'concat_rank')
  for rule in spec:
    if not rule.bank.has_slots or rule.bank.index or rule.bank.router is not None:
      raise ValueError(f"concat_rank is for banks with a set a task, but rule '{rule.name}' has per={rule.bank.per!r}.")

  def concat(rule, leaves, shared):
    if not leaves:
      return {}
    a, b = leaves['a'], leaves['b']
    w = jnp.ones(len(a)) if weights is None else _weights(weights, len(a))
    b = b * w[:, None, None]
    return {'a': jnp.moveaxis(a, 0, 1).reshape(a.shape[1], -1), 'b': b.reshape(-1, b.shape[-1])}

  rules = [dataclasses.replace(rule, bank=Bank(), method=_lora(rule, rule.bank.num_slots('a') * rule.method.rank))
           for rule in spec]
  return _sets(state, spec, concat), dataclasses.replace(spec, rules=rules)


def svd_truncate(state: State, spec: Spec, rank: int) -> tuple[State, Spec]:
  """LoRAs of rank `rank` whose changes are the best approximations of those of the state (Eckart & Young, 1936)."""
  _only_lora(spec, 'svd_truncate')
  largest = min(rule.method.rank for rule in spec)
  if not 1 <= rank <= largest:
    raise ValueError(f'svd_truncate got rank={rank}; allowed is 1 … {largest}.')

  def truncate(rule, leaves, shared):
    if not leaves:
      return {}
    one = lambda a, b: truncated(a, b, rule.method.scale, rank)
    a, b = (jax.vmap(one) if rule.bank.has_slots else one)(leaves['a'], leaves['b'])
    return {**leaves, 'a': a, 'b': b}

  rules = [dataclasses.replace(rule, method=dataclasses.replace(_lora(rule, rank), alpha=None)) for rule in spec]
  return _sets(state, spec, truncate), dataclasses.replace(spec, rules=rules)


def truncated(a: jax.Array, b: jax.Array, scale: float, rank: int) -> tuple[jax.Array, jax.Array]:
  """A [D, r], B [r, O] -> A' [D, rank], B' [rank, O]: A' B' is the best approximation of scale A B.

  By QR of both, so that the singular values are those of an r x r matrix.
  """
  qa, ra = jnp.linalg.qr(a)
  qb, rb = jnp.linalg.qr(b.T)
  u, s, vt = jnp.linalg.svd(ra @ rb.T * scale)
  root = jnp.sqrt(s[:rank])
  return qa @ (u[:, :rank] * root[None]), (root[:, None] * vt[:rank]) @ qb.T


def materialise(encoder: nn.Module, base: Any, state: State, spec: Spec, example: Any,
                **kwargs: Any) -> tuple[State, Spec]:
  """Stored parameters in place of what makes them: of hypernetworks, in banks a task, and of the MLPs of prefixes.

  Args:
    encoder, base, example, kwargs: as `init_adapters` takes them.
    state, spec: with banks that generate, or with prefixes that have `hidden`.
  """
  found = find_sites(encoder, base, spec, example, **kwargs)
  adapters, shared, rules = tree.flatten(state['adapters']), dict(state.get('shared', {})), []
  for rule in spec:
    plain, generates = rule.method.plain(), rule.bank.generated_by is not None
    if plain is None and not generates:
      rules.append(rule)
      continue
    common = shared.pop(rule.name, {})
    for site in found[rule.name]:
      prefix = f'{site.path}/{MARK}{rule.name}/'.lstrip('/')
      own = {path[len(prefix):]: adapters.pop(path) for path in list(adapters) if path.startswith(prefix)}

      def one(leaves, rule=rule, site=site, common=common, prepare=plain is not None):
        leaves = {**leaves, **common}
        if rule.bank.generated_by is not None:
          leaves = rule.bank.generated_by.generate(leaves, rule.bank, site, rule.method)
        fn = lambda p: rule.method.prepare(p, site) if prepare else p
        return (jax.vmap(fn) if rule.bank.per != 'shared' else fn)(leaves)

      leaves = (jax.vmap(one) if num_layers(site, base) else one)(own)
      adapters |= {prefix + name: x for name, x in leaves.items()}
    bank = Bank(tasks=rule.bank.tasks) if generates else rule.bank
    rules.append(dataclasses.replace(rule, bank=bank, method=rule.method if plain is None else plain))
  return {**state, 'adapters': tree.unflatten(adapters), 'shared': shared}, dataclasses.replace(spec, rules=rules)


def _sets(state: State, spec: Spec, fn: Callable[[Rule, Leaves, Leaves], Leaves]) -> State:
  """fn(rule, leaves of a site, those that sites share) at every site, layers one by one; and ({}, shared) for these."""
  adapters, shared = {}, {}
  for rule in spec:
    common = state.get('shared', {}).get(rule.name, {})
    for path, leaves, _, layers in sites_of(state, rule):
      one = lambda leaves, rule=rule, common=common: fn(rule, leaves, common)
      new = (jax.vmap(one) if layers else one)(leaves)
      adapters |= {f'{path}/{MARK}{rule.name}/{name}'.lstrip('/'): x for name, x in new.items()}
    if common:
      shared[rule.name] = fn(rule, {}, common)
  return {**state, 'adapters': tree.unflatten(adapters), 'shared': {name: x for name, x in shared.items() if x}}


def _weights(weights: Sequence[float] | None, slots: int) -> jax.Array:
  if weights is None:
    return jnp.full(slots, 1 / slots)
  if len(weights) != slots:
    raise ValueError(f'There are {len(weights)} weights for {slots} sets of parameters; allowed is one each.')
  return jnp.asarray(weights, jnp.float32)


def _only_lora(spec: Spec, what: str) -> None:
  for rule in spec:
    if type(rule.method) not in (LoRA, RsLoRA):
      raise ValueError(f"{what} is for LoRA, but rule '{rule.name}' has {type(rule.method).__name__}.")


def _lora(rule: Rule, rank: int) -> LoRA:
  """A plain LoRA of this rank with the scale that the rule's has."""
  return LoRA(rank=rank, alpha=rule.method.scale * rank, dropout_rate=rule.method.dropout_rate)


def _check_alike(states: Sequence[State]) -> None:
  """Raises ValueError where what adapters rest on differs: what is not learnt, or is one for all tasks."""
  for state in states[1:]:
    for part in ('stats', 'base'):
      same = jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), states[0].get(part, {}), state.get(part, {}))
      if not all(jax.tree.leaves(same)):
        raise ValueError(f"stack got states whose '{part}' differs, of which there is one for all tasks.")
