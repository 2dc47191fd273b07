"""Fresh parameters for the sites that a rule found.

A module under `nn.scan` has its layers stacked on a leading axis; its adapters get the same axis, in front of that of
the bank: [layers, slots, *shape]. Sites of equal shapes are drawn in one call, so that compiling does not grow with
depth.
"""
import dataclasses
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.adapters.intercept import FIXED, MARK, strip
from mtjax.adapters.method import Leaves, Method
from mtjax.adapters.sites import Site
from mtjax.adapters.spec import Rule


def at_sites(key: jax.Array, rule: Rule, sites: Sequence[Site], base: Any) -> dict[str, jax.Array]:
  """{path: array} of what is stored at the sites of a rule."""
  bank, method = rule.bank, rule.method

  def stored(key, site):
    if bank.generated_by is not None:
      return bank.generated_by.init_site(key, site, method)
    leaves = bank.init(key, lambda key: method.init(key, site))
    if bank.router is not None:
      leaves = {**leaves, **bank.router.init_site(jax.random.fold_in(key, 1), bank)}
    return leaves

  keys = [jax.random.fold_in(key, zlib.crc32(site.path.encode())) for site in sites]
  found: dict[str, jax.Array] = {}
  if method.reads_weights:
    for own, site in zip(keys, sites):
      leaves = with_weights(site, base, lambda site, own=own: stored(own, site))
      found |= _under(site.path, MARK + rule.name, leaves)
    return found
  groups: dict[Any, list[int]] = {}
  for i, site in enumerate(sites):
    groups.setdefault((site.in_shape, site.out_shape, num_layers(site, base)), []).append(i)
  for (_, _, layers), members in groups.items():
    make = lambda key, site=sites[members[0]]: stored(key, site)
    if layers:
      make = lambda key, make=make, layers=layers: jax.vmap(make)(jax.random.split(key, layers))
    leaves = jax.vmap(make)(jnp.stack([keys[i] for i in members]))
    for row, i in enumerate(members):
      found |= _under(sites[i].path, MARK + rule.name, {name: x[row] for name, x in leaves.items()})
  return found


def fixed_at_sites(rule: Rule, sites: Sequence[Site], base: Any) -> dict[str, jax.Array]:
  """{path: array} of what sites need besides and do not learn."""
  found: dict[str, jax.Array] = {}
  if type(rule.method).fixed is not Method.fixed:
    for site in sites:
      found |= _under(site.path, MARK + rule.name + FIXED, with_weights(site, base, rule.method.fixed))
  return found


def shared(key: jax.Array, rule: Rule, sites: Sequence[Site]) -> Leaves:
  """What the sites of a rule share."""
  bank, method = rule.bank, rule.method
  if bank.generated_by is not None:
    return bank.generated_by.init_shared(key, bank, sites, method)
  common = {leaf: x for leaf, x in method.shared(key, sites).items() if leaf in method.common}
  leaves = bank.init(key, lambda key: {leaf: x for leaf, x in method.shared(key, sites).items()
                                       if leaf not in method.common})
  if bank.router is not None:
    leaves = {**leaves, **bank.router.init_shared(jax.random.fold_in(key, 1), bank)}
  return {**leaves, **common}


def with_weights(site: Site, base: Any, fn: Callable[[Site], Leaves]) -> Leaves:
  """fn of the site with the module's weights in it; for each layer of a scan."""
  own = module_params(base, site.path)
  call = lambda own: fn(dataclasses.replace(site, params=own))
  return jax.vmap(call)(own) if num_layers(site, base) else call(own)


def num_layers(site: Site, base: Any) -> int:
  """How many layers a scan has stacked into the module's parameters; 0 = it is no part of a scan.

  Raises ValueError where they are stacked, but not on the first axis.
  """
  own, seen = tree.flatten(module_params(base, site.path)), tree.flatten(dict(site.params))
  for name, shape in seen.items():
    stacked, single = own[name].shape, shape.shape
    if len(stacked) > len(single):
      if stacked[1:] != single:
        raise ValueError(f"{site.path!r} has {name} {list(single)}, but stacked {list(stacked)}; allowed are layers "
                         f'that are stacked once, on the first axis.')
      return stacked[0]
  return 0


def module_params(base: Any, path: str) -> Mapping[str, Any]:
  """The parameters of a module, {} where it has none."""
  for name in filter(None, path.split('/')):
    base = base.get(name, {})
  return strip(base)


def _under(path: str, name: str, leaves: Leaves) -> dict[str, jax.Array]:
  return {'/'.join(filter(None, (path, name, leaf))): x for leaf, x in leaves.items()}
