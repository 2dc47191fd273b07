"""A given encoder, adapted: parameters that are new, and a forward pass that uses both.

    state   = init_adapters(key, encoder, base, spec, example)
    forward = bind(encoder, spec)
    y, aux  = forward(base, state, x, ctx=Ctx(task_id=ids))          ids [B]: rows may belong to different tasks

The encoder is any Linen module, and stays as it is; so do its parameters `base`. `state` is all that is learnt:

    adapters   like base, module paths and all: {'block_0': {'attn': {'query': {'@lora': {'a': …, 'b': …}}}}}
    shared     {rule: what its sites share}
    base       copies of the parameters that `spec.trainable_base` names, which take their place
    stats      {'sites': like adapters, 'shared': …}: what is not learnt, such as random projections

To differentiate: with respect to `state`, less stats (`trainable_labels`).
"""
import inspect
import re
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.core
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.adapters import fresh
from mtjax.adapters.intercept import FIXED, MARK, Interceptor, own_params
from mtjax.adapters.sites import Site, site_of
from mtjax.adapters.spec import Rule, Spec
from mtjax.context import Ctx

State = dict[str, Any]


def init_adapters(key: jax.Array, encoder: nn.Module, base: Any, spec: Spec, example: Any, **kwargs: Any) -> State:
  """Fresh parameters for every site that the spec finds.

  What is drawn for a site depends on the key, the rule's name, the module's path and the task's name alone, so that
  adding rules, layers or tasks leaves the others as they were.

  Args:
    key: what is random is drawn from it.
    encoder: a Linen module.
    base: its parameters (what `encoder.init` puts under 'params'); some methods begin with what is in them.
    spec: which adapters where.
    example: an input, of any number of rows.
    **kwargs: further arguments of the encoder's call.

  Raises ValueError for a rule that finds nothing, or modules that its method does not fit.
  """
  base = _plain(base)
  found = find_sites(encoder, base, spec, example, **kwargs)
  adapters, fixed, shared, shared_fixed = {}, {}, {}, {}
  for rule in spec:
    own = jax.random.fold_in(key, zlib.crc32(rule.name.encode()))
    sites = found[rule.name]
    adapters |= fresh.at_sites(own, rule, sites, base)
    fixed |= fresh.fixed_at_sites(rule, sites, base)
    shared[rule.name] = fresh.shared(jax.random.fold_in(own, 0), rule, sites)
    shared_fixed[rule.name] = rule.method.shared_fixed(sites)
  occupied = lambda parts: {name: leaves for name, leaves in parts.items() if leaves}
  return {'adapters': tree.unflatten(adapters), 'shared': occupied(shared), 'base': _copies(spec, base),
          'stats': {'sites': tree.unflatten(fixed), 'shared': occupied(shared_fixed)}}


def find_sites(encoder: nn.Module, base: Any, spec: Spec, example: Any, **kwargs: Any,
               ) -> dict[str, list[Site]]:
  """{rule: the sites that it finds, with shapes in place of arrays}, in the order in which modules are called."""
  encoder = _looped(encoder, base, example, kwargs)
  seen: dict[str, dict[str, Site]] = {rule.name: {} for rule in spec}
  passed: dict[str, list[str]] = {rule.name: [] for rule in spec}
  paths: list[str] = []
  captured: dict[Any, Any] = {}

  def look(next_fn, args, kwargs, context):
    module = context.module
    if module.scope is None or context.method_name != '__call__' or not args:
      return next_fn(*args, **kwargs)
    path = '/'.join(module.path)
    paths.append(path)
    for rule in spec:
      if rule.site.kind == 'span' and re.search(rule.start, path):
        captured[rule.name, module.path[:-1]] = args[0]
    y = next_fn(*args, **kwargs)
    for rule in spec:
      if rule.site.finds(path) and path not in seen[rule.name]:
        x = captured.get((rule.name, module.path[:-1])) if rule.site.kind == 'span' else args[0]
        site = _site(rule, module, x, y)
        if site is not None:
          seen[rule.name][path] = site.shapes()
        else:
          passed[rule.name].append(path)
    return y

  def run(base):
    with nn.intercept_methods(look):
      return encoder.apply({'params': base}, example, **kwargs)

  jax.eval_shape(run, base)
  for rule in spec:
    if not seen[rule.name]:
      found = f'it finds {", ".join(passed[rule.name][:4])}, which {type(rule.method).__name__} does not fit' \
        if passed[rule.name] else f'modules are {", ".join(dict.fromkeys(p for p in paths[:24] if p))}, …'
      raise ValueError(f"Rule '{rule.name}' has match={rule.match!r}, which finds no module to adapt: {found}.")
    if rule.site.kind == 'tokens' and not rule.method.deep:
      first = next(iter(seen[rule.name].values()))
      if fresh.num_layers(first, base):
        raise ValueError(f"Rule '{rule.name}' has prompts for the first layer alone, but {first.path!r} is a scan of "
                         f'layers, of which none is the first: use deep=True.')
      seen[rule.name] = {first.path: first}
  found = {name: list(sites.values()) for name, sites in seen.items()}
  _check_alone(spec, found)
  return found


def bind(encoder: nn.Module, spec: Spec) -> Callable[..., tuple[Any, dict[str, Any]]]:
  """The adapted encoder as a pure function: `forward(base, state, x, ctx=None, *, train=False, rngs=None, **kwargs)`.

  It returns (what the encoder returns, {collection: what was sown}). `ctx` goes on to an encoder that takes one, and so
  does `train`; `kwargs` are further arguments of its call, `method` (a name) is another method than `__call__`.
  """
  def forward(base: Any, state: State, *args: Any, ctx: Ctx | None = None, train: bool = False,
              rngs: Mapping[str, jax.Array] | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
    base = _plain(base)
    blocks = {rule.name: len(_modules(base, rule)) for rule in spec if rule.site.kind == 'tokens'}
    stats = state.get('stats', {})
    stored = {name for part in (state.get('adapters', {}), stats.get('sites', {})) for path in tree.flatten(part)
              for name in path.split('/') if name.startswith(MARK)}
    by_path = {rule.name for rule in spec if not {MARK + rule.name, MARK + rule.name + FIXED} & stored}
    interceptor = Interceptor(spec, state.get('shared', {}), stats.get('shared', {}), ctx, train, blocks, by_path)
    accepted = _keywords(encoder, kwargs.get('method'))
    if ctx is not None and 'ctx' in accepted:
      kwargs['ctx'] = ctx
    if train and 'train' in accepted:
      kwargs['train'] = True
    with nn.intercept_methods(interceptor):
      return encoder.apply({'params': join(base, state)}, *args, rngs=rngs, mutable=['adapters', 'intermediates'],
                           **kwargs)

  return forward


def join(base: Any, state: State) -> dict[str, Any]:
  """The encoder's parameters with the adapters in their places."""
  flat = tree.flatten(_plain(base))
  for part in (state.get('base', {}), state.get('adapters', {}), state.get('stats', {}).get('sites', {})):
    flat |= tree.flatten(part)
  return tree.unflatten(flat)


def trainable_labels(base: Any, state: State, spec: Spec) -> tuple[Any, State]:
  """Labels for `optax.multi_transform`, in the shape of (base, state).

  'frozen' (all of base, and stats), 'adapter', 'routing' (of banks with a router), 'hypernet' (what generates), 'base'
  (the copies of the encoder's own).
  """
  kinds = {rule.name: 'hypernet' if rule.bank.generated_by is not None else 'adapter' for rule in spec}

  def label(path, _):
    part, *inside = path.split('/')
    if part in ('stats', 'base'):
      return 'frozen' if part == 'stats' else 'base'
    if inside[-1].startswith('router_'):
      return 'routing'
    rule = next((name[len(MARK):] for name in inside if name.startswith(MARK)), inside[0])
    return kinds[rule]

  return jax.tree.map(lambda _: 'frozen', base), tree.map_with_path(label, state)


def _keywords(encoder: nn.Module, method: Any) -> set[str]:
  """Of ctx and train, what a method of the encoder takes."""
  method = getattr(type(encoder), method) if isinstance(method, str) else method or type(encoder).__call__
  parameters = inspect.signature(method).parameters
  anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
  return {name for name in ('ctx', 'train') if anything or name in parameters}


def _looped(encoder: nn.Module, base: Any, example: Any, kwargs: Mapping[str, Any]) -> nn.Module:
  """The encoder without `mtjax.encoders.stack`'s scan, in which layers go by no name; of the same parameters."""
  if not getattr(encoder, 'scan', False):
    return encoder
  loop = encoder.clone(scan=False)
  try:
    jax.eval_shape(lambda base: loop.apply({'params': base}, example, **kwargs), base)
  except flax.errors.ScopeParamNotFoundError:  # another library's scan, which calls parameters otherwise
    return encoder
  return loop


def _site(rule: Rule, module: nn.Module, x: Any, y: Any) -> Site | None:
  """The facts about a module that a rule finds; None where the method does not fit."""
  first = y[0] if isinstance(y, tuple) else y
  if not hasattr(x, 'shape') or not hasattr(first, 'shape'):
    return None
  site = site_of(module, rule.site.kind, own_params(module), x, first)
  return site if rule.method.fits(site) else None


def _check_alone(spec: Spec, sites: Mapping[str, list[Site]]) -> None:
  at_output = [rule for rule in spec if rule.site.kind in ('output', 'wrap', 'span')]
  for rule in (rule for rule in at_output if rule.method.alone):
    for other in at_output:
      both = {site.path for site in sites[rule.name]} & {site.path for site in sites[other.name]}
      if other is not rule and both:
        raise ValueError(f"Rules '{rule.name}' and '{other.name}' are both at {sorted(both)[0]!r}, but "
                         f'{type(rule.method).__name__} computes that output anew; it must be alone there.')


def _copies(spec: Spec, base: Any) -> dict[str, Any]:
  if not spec.trainable_base:
    return {}
  chosen, _ = tree.partition(base, tree.select(spec.trainable_base, base))
  return jax.tree.map(jnp.array, chosen)


def _modules(base: Any, rule: Rule) -> set[str]:
  """Paths of modules with parameters that a rule finds."""
  parents = (path.split('/')[:-1] for path in tree.flatten(base))
  return {path for parts in parents for n in range(1, len(parts) + 1)
          if rule.site.finds(path := '/'.join(parts[:n]))}


def _plain(params: Any) -> Any:
  return flax.core.unfreeze(params) if isinstance(params, flax.core.FrozenDict) else params
