"""Gradients apart for rows that go through a network together.

Streams s = 1 … S have rows of their own. Their gradients in shared parameters W,

    g_s = sum over the rows n of stream s of  x_n delta_n^T,

cost no more than their sum, if nothing adds them up. So each stream gets a *sink*: zeros [*W.shape] that the output
does not depend on, and that the backward pass hands the weight gradient to, in place of W. Under `jax.vmap` over
streams the network itself sees W unbatched (one large matrix product forward, one backward to the inputs), and the
sinks [S, *W.shape] receive the stacked gradients: batched products of the same size in all.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.autodiff import sites
from mtjax.autodiff.graph import bind, inline, open_jaxpr


def apply_with_sinks(fn: Callable[..., Any], params: Any, sinks: Any, *args: Any) -> Any:
  """fn(params, *args), with gradients for `sinks` in place of `params`.

  To be called within `jax.vmap` over streams: `jax.vmap(functools.partial(apply_with_sinks, fn, params))(sinks, x)`.

  Args:
    fn: a network as a function of its parameters.
    params: nested dict, the same for all streams.
    sinks: one stream's zeros, of the shapes of those parameters that are trained (the others get no gradient).
    *args: one stream's inputs.
  """
  leaves, own = tree.flatten(params), tree.flatten(sinks)
  flat_args, structure = jax.tree.flatten(args)

  def flat_fn(*values):
    result = fn(tree.unflatten(dict(zip(leaves, values))), *jax.tree.unflatten(structure, values[len(leaves):]))
    flat, flat_fn.result = jax.tree.flatten(result)
    return flat

  arguments = [*leaves.values(), *flat_args]
  jaxpr, constants = open_jaxpr(jax.make_jaxpr(lambda *values: inline(jax.make_jaxpr(flat_fn)(*values), values))(
    *arguments))
  leaf_vars = {var: path for var, path in zip(jaxpr.invars, leaves) if path in own}
  uses = {path: found for path, found in sites.all_uses(jaxpr.eqns, leaf_vars).items() if all(map(_returns, found))}
  where = {use.site: use for found in uses.values() for use in found}
  extras = {site: sites.Extra(own[use.path], tuple(slices for _, slices in use.loops)) for site, use in where.items()}

  def handler(eqn, operand, values, sink):
    use = next(use for use in where.values() if use.eqn is eqn)
    return _site_with_sink(use)(tuple(values[:operand]), values[operand], tuple(values[operand + 1:]), sink), ()

  env = dict(zip(jaxpr.constvars, constants)) | dict(zip(jaxpr.invars, arguments))
  for var, path in leaf_vars.items():
    if path not in uses:  # no site: a copy a stream, which its gradient stays apart in
      env[var] = leaves[path] + own[path]
  sites.run(jaxpr.eqns, env, {site: use.operand for site, use in where.items()}, extras, handler)
  return jax.tree.unflatten(flat_fn.result, [env[atom] if not hasattr(atom, 'val') else atom.val
                                             for atom in jaxpr.outvars])


def _returns(use: sites.Use) -> bool:
  """Whether the operand's gradient can be brought back to the leaf within the innermost loop around the site."""
  inside = sum(slices for _, slices in use.loops)
  return all(layers == inside for _, layers, _ in use.back)


def _site_with_sink(use: sites.Use):
  """(operands before, parameter, operands after, sink) -> output; backward, the sink gets the parameter's gradient."""
  run = lambda before, parameter, after: bind(use.eqn, [*before, parameter, *after])[0]

  @jax.custom_vjp
  def site(before, parameter, after, sink):
    del sink
    return run(before, parameter, after)

  def forward(before, parameter, after, sink):
    del sink
    return run(before, parameter, after), (before, parameter, after)

  def backward(saved, dy):
    before, parameter, after = saved
    inexact = lambda x: jnp.issubdtype(x.dtype, jnp.inexact)
    pick = [x for x in (*before, *after) if inexact(x)]

    def of_inputs(inputs, parameter):
      given = iter(inputs)
      put = lambda xs: tuple(next(given) if inexact(x) else x for x in xs)
      return run(put(before), parameter, put(after))

    _, pullback = jax.vjp(of_inputs, pick, parameter)
    dinputs, dparameter = pullback(dy)
    given = iter(dinputs)
    back = lambda xs: tuple(next(given) if inexact(x) else None for x in xs)
    before_cots = back(before)
    steps = tuple((kind, 0, what) for kind, _, what in use.back)
    return before_cots, None, back(after), sites.undo(dparameter, steps)

  site.defvjp(forward, backward)
  return site
