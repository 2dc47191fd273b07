"""What happens at a module while the adapted encoder runs: Linen's method interception, and nothing else.

An adapter's parameters live in the scope of the module that it is at, under '@<rule>'. So lifted transforms treat them
as they treat the module's own: scanned layers get a layer axis, rematerialised ones pass them on; and whether a rule is
at a module is seen from the scope, not from its path, which a scan changes. The interceptor is entered inside `forward`
only: a function that was compiled outside would ignore it, silently.

Rows get their parameters by `jax.vmap`: a method is written for one row.
"""
import inspect
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax.adapters import _positions
from mtjax.adapters.method import Leaves
from mtjax.adapters.sites import Site, site_of
from mtjax.adapters.spec import Rule, Spec
from mtjax.context import Ctx

MARK, FIXED = '@', '.fixed'  # '@lora': {leaf: array} that are learnt; '@lora.fixed': those that are not


def own_params(module: nn.Module) -> dict[str, Any]:
  """A module's own parameters, without adapters."""
  params = nn.meta.unbox(module.variables.get('params', {}))
  return strip(params)


def strip(params: Mapping[str, Any]) -> dict[str, Any]:
  """Parameters without adapters, at any depth."""
  return {name: strip(x) if isinstance(x, Mapping) else x for name, x in params.items() if not name.startswith(MARK)}


class Interceptor:
  """One forward pass of an adapted encoder.

  Args:
    spec: what is done.
    shared: {rule: leaves that its sites share, with slots}.
    shared_fixed: {rule: those that are not learnt}.
    ctx: what rows are for.
    train: whether adapters drop inputs out.
    blocks: {rule at tokens: how many modules it finds}.
    by_path: rules that store nothing at their sites, which are then found by their paths (not within a scan).
  """

  def __init__(self, spec: Spec, shared: Mapping[str, Leaves], shared_fixed: Mapping[str, Leaves], ctx: Ctx | None,
               train: bool, blocks: Mapping[str, int], by_path: Collection[str] = ()):
    self._spec, self._shared, self._shared_fixed, self._ctx = spec, shared, shared_fixed, ctx
    self._train, self._blocks, self._by_path = train, blocks, by_path
    self._captured: dict[Any, Any] = {}          # inputs of spans, by the parent's path
    self._open: dict[str, int] = {}              # prompts that are on their way through the stack: blocks seen

  def __call__(self, next_fn: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    module, method = context.module, context.method_name
    if module.scope is None or method not in ('__call__', 'attend'):
      return next_fn(*args, **kwargs)
    if method == 'attend':
      return self._attend(module, next_fn, args, kwargs)
    if not args:
      return next_fn(*args, **kwargs)
    self._capture(module, args[0])
    here = [rule for rule in self._spec if self._has(module.scope, rule)
            or rule.name in self._by_path and rule.site.finds('/'.join(module.path))]
    here = self._active(here)
    names = {rule.name for rule in here}
    x = args[0]
    for rule in (rule for rule in here if rule.site.kind == 'input'):
      x = self._row_wise(rule, module, x, None)
    args = (x, *args[1:])
    prompts = [rule for rule in self._spec if rule.site.kind == 'tokens' and (
      rule.name in names or rule.name in self._open and rule.site.finds('/'.join(module.path)))]
    undo = []
    for rule in prompts:
      args, kwargs, drop = self._insert(rule, module, args, kwargs, rule.name in names)
      undo.append(drop)
    args, kwargs = self._prefix_mask(module, here, args, kwargs)
    y = next_fn(*args, **kwargs)
    for drop in reversed(undo):
      y = _first(y, drop)
    for rule in (rule for rule in here if rule.site.kind in ('output', 'wrap', 'span')):
      given = self._captured[rule.name, module.path[:-1]] if rule.site.kind == 'span' else x
      y = _first(y, lambda out, rule=rule, given=given: self._row_wise(rule, module, given, out))
    return self._prefix_projection(module, y)

  def _active(self, here: list[Rule]) -> list[Rule]:
    """Of the rules that are at a module, those that act in this pass."""
    return here

  # --- parameters

  def _has(self, scope: Any, rule: Rule) -> bool:
    return any(scope.has_variable('params', MARK + rule.name + end) for end in ('', FIXED))

  def _parameters(self, rule: Rule, module: nn.Module, scope: Any, site: Site) -> tuple[Leaves, bool, Leaves]:
    """(parameters of the rows, whether they have an axis of rows, those that all rows share)."""
    method, bank = rule.method, rule.bank
    read = lambda name: nn.meta.unbox(scope.get_variable('params', name)) if scope.has_variable('params', name) else {}
    stored = {**dict(read(MARK + rule.name)), **self._shared.get(rule.name, {})}
    own = {leaf: stored.pop(leaf) for leaf in list(stored) if leaf in method.common}
    own |= {**dict(read(MARK + rule.name + FIXED)), **self._shared_fixed.get(rule.name, {})}
    weights = None
    if bank.router is not None:
      drawn = self._train and getattr(bank.router, 'stochastic', False)
      weights = bank.router.weights(stored, bank, self._ctx, self._key(rule, module) if drawn else None)
      stored = {leaf: x for leaf, x in stored.items() if not leaf.startswith('router_')}
    if bank.generated_by is not None:
      stored = bank.generated_by.generate(stored, bank, site, method)
    prepare = (lambda p: method.prepare({**p, **own}, site)) if method.prepares else None
    rows, batched = bank.rows(stored, self._ctx, rule.name, prepare, weights, method.split_axis)
    return rows, batched, own

  def _row_wise(self, rule: Rule, module: nn.Module, x: jax.Array, y: jax.Array | None) -> jax.Array:
    """The method on every row."""
    site = site_of(module, rule.site.kind, own_params(module), x, y)
    if rule.name in self._by_path and not rule.method.fits(site):
      return x if y is None else y
    rows, batched, own = self._parameters(rule, module, module.scope, site)
    method, like = rule.method, x if y is None else y
    if batched and jax.tree.leaves(rows)[0].shape[0] != x.shape[0]:
      raise ValueError(f"Rule '{rule.name}' has parameters for {jax.tree.leaves(rows)[0].shape[0]} rows, but the input "
                       f'of {site.path!r} is {list(x.shape)}: its first axis must be that of the rows.')
    rows, own = jax.tree.map(lambda p: p.astype(like.dtype), (rows, own))
    given = self._dropped(rule, module, x, method.dropout_rate)
    rows = {leaf: self._dropped(rule, module, p, method.leaf_dropout.get(leaf, 0.0)) for leaf, p in rows.items()}
    fn = lambda p, x, y: method.apply({**p, **own}, x, y, site)
    result = jax.vmap(fn, (0 if batched else None, 0, None if y is None else 0))(rows, given, y)
    if method.penalises:
      result, noted = result
      if self._train:
        result = add_to_loss(result, method.penalty(noted, self._ctx))
    if method.reenters:
      result = site.run(site.params, result)
    return result.astype(like.dtype)

  def _dropped(self, rule: Rule, module: nn.Module, x: jax.Array, rate: float) -> jax.Array:
    if not self._train or not rate:
      return x
    keep = jax.random.bernoulli(self._key(rule, module), 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros((), x.dtype))

  def _key(self, rule: Rule, module: nn.Module) -> jax.Array:
    if not module.has_rng('dropout'):
      raise ValueError(f"Rule '{rule.name}' draws in training, but there is no 'dropout' key where it is: give "
                       f"rngs={{'dropout': key}}, and an encoder whose layers are not scanned (scan=False).")
    return module.make_rng('dropout')

  def _capture(self, module: nn.Module, x: Any) -> None:
    for rule in self._spec:
      if rule.site.kind == 'span' and re.search(rule.start, '/'.join(module.path)):
        self._captured[rule.name, module.path[:-1]] = x

  # --- prefixes

  def _vectors(self, rule: Rule, module: nn.Module, scope: Any, own: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys and values [B, P, G, K]."""
    site = site_of(module, 'kv', own, x, None)
    rows, batched, fixed = self._parameters(rule, module, scope, site)
    rows, fixed = jax.tree.map(lambda p: p.astype(x.dtype), (rows, fixed))
    fn = lambda p: rule.method.apply({**p, **fixed}, None, None, site)
    if not batched:
      return jax.tree.map(lambda v: jnp.broadcast_to(v[None], (x.shape[0], *v.shape)), fn(rows))
    return jax.vmap(fn)(rows)

  def _attend(self, module, next_fn, args, kwargs):
    """Attention of mtjax's own encoders, which takes keys and values besides."""
    extra = [self._vectors(rule, module, module.scope, own_params(module), args[0])
             for rule in self._spec if rule.site.kind == 'kv' and self._has(module.scope, rule)]
    if extra:
      kwargs = {**kwargs, 'extra': tuple(jnp.concatenate(parts, axis=1) for parts in zip(*extra))}
    return next_fn(*args, **kwargs)

  def _prefix_projection(self, module, y):
    """Attention of other libraries: the projections 'key' and 'value' give P vectors more."""
    parent = module.scope.parent
    if module.name not in ('key', 'value') or parent is None or hasattr(module.parent, 'attend'):
      return y
    for rule in (rule for rule in self._spec if rule.site.kind == 'kv' and self._has(parent, rule)):
      own = own_params(module.parent)
      pair = self._vectors(rule, module.parent, parent, own, y)
      y = jnp.concatenate([pair[module.name == 'value'], y], axis=1)
    return y

  def _prefix_mask(self, module, here, args, kwargs):
    rules = [rule for rule in here if rule.site.kind == 'kv']
    if not rules or hasattr(module, 'attend'):
      return args, kwargs
    bound = inspect.signature(type(module).__call__).bind(module, *args, **kwargs)
    mask = bound.arguments.get('mask')
    if mask is not None:
      for rule in rules:
        mask = jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(rule.method.length, 0)], constant_values=True)
      bound.arguments['mask'] = mask
    return bound.args[1:], bound.kwargs

  # --- prompts

  def _insert(self, rule: Rule, module: nn.Module, args, kwargs, here: bool):
    """(arguments with P positions more, what takes them out of the output again)."""
    method, x = rule.method, args[0]
    if x.ndim != 3:
      raise ValueError(f"Rule '{rule.name}' found {'/'.join(module.path)!r}, whose input is {list(x.shape)}; prompts "
                       f'are for blocks that read [B, L, D].')
    at, length = method.at, method.length
    if here:
      site = site_of(module, 'tokens', own_params(module), x, None)
      rows, batched, own = self._parameters(rule, module, module.scope, site)
      fn = lambda p: method.apply({**p, **own}, None, None, site).astype(x.dtype)
      prompts = jax.vmap(fn)(rows) if batched else jnp.broadcast_to(fn(rows)[None], (x.shape[0], length, x.shape[2]))
      x = jnp.concatenate([x[:, :at], prompts, x[:, at:]], axis=1)
    args, kwargs = _positions.lengthen(module, (x, *args[1:]), kwargs, at, length)
    drop = lambda y: jnp.concatenate([y[:, :at], y[:, at + length:]], axis=1)
    if not method.deep:
      self._open[rule.name] = self._open.get(rule.name, 0) + 1
      if self._open[rule.name] < self._blocks[rule.name]:
        return args, kwargs, lambda y: y
      del self._open[rule.name]
    return args, kwargs, drop


@jax.custom_vjp
def add_to_loss(y: jax.Array, penalty: jax.Array) -> jax.Array:
  """y, through which the gradient of `penalty` joins that of the loss, as if the two had been added up.

  So a term that arises inside an encoder needs no way out of it, through scans and rematerialised layers; the loss that
  is reported is without it. The loss must be differentiated once, with the cotangent 1.
  """
  del penalty
  return y


add_to_loss.defvjp(lambda y, penalty: (y, penalty), lambda penalty, dy: (dy, jnp.ones_like(penalty)))


def _first(y: Any, fn: Callable) -> Any:
  """fn on what a module returns, or on the first of several things."""
  return type(y)((fn(y[0]), *y[1:])) if isinstance(y, tuple) else fn(y)
