"""Where parameters enter the trunk by a matrix product or a table look-up, so that their gradients have a short form.

At such a site y = x W (N rows x [N, a], W [a, o]) the gradient of task t is x^T delta_t with delta_t = dl_t/dy [N, o],
and for the Gramian  <x^T delta_s, x^T delta_t> = <K delta_s, delta_t>  with K = x x^T [N, N]  needs no gradient at all.
A look-up of rows id_n is the same with K_nm = 1[id_n = id_m].

Layouts differ (DenseGeneral, einsums, kernels that are cast, reshaped or transposed first; layers under `lax.scan` or
`jax.checkpoint`), so each site has a canonical form: x [S, N, a], delta [T, S, N, o], S layers and batched products.
"""
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mtjax.autodiff.graph import INLINED, bind, is_literal, open_jaxpr, read

SAME_NUMBERS = ('reshape', 'transpose', 'convert_element_type', 'squeeze', 'copy', 'copy_p', 'expand_dims')


@dataclasses.dataclass(frozen=True)
class Use:
  """One site of one leaf.

  Attributes:
    path: the leaf.
    site: address of the operation: indices into the nested operations.
    operand: which operand the parameter is.
    kind: 'dense' or 'lookup'.
    loops: (length, whether each turn has its own slice of the leaf) of the loops around it, from outside.
    eqn: the operation.
    back: steps from the gradient of the operand to that of the leaf, see `undo`.
  """

  path: str
  site: tuple[int, ...]
  operand: int
  kind: str
  loops: tuple[tuple[int, bool], ...]
  eqn: Any
  back: tuple[tuple, ...]

  @property
  def sizes(self) -> tuple[int, int, int, int]:
    """(S, N, a, o) of the canonical form."""
    layers = math.prod(length for length, own in self.loops if own)
    turns = math.prod(length for length, own in self.loops if not own)
    out = self.eqn.outvars[0].aval.shape
    if self.kind == 'lookup':
      return layers, turns * math.prod(out[:-1]), self.eqn.invars[0].aval.shape[0], out[-1]
    _, (batch, contract, free) = self._dims()
    shape = self.eqn.invars[self.operand].aval.shape
    size = lambda axes: math.prod(shape[i] for i in axes)
    rows = math.prod(out) // (size(batch) * size(free))
    return layers * size(batch), turns * rows, size(contract), size(free)

  def _dims(self) -> tuple[tuple, tuple]:
    """((batch, contracted, free) axes of the other operand, the same of the parameter)."""
    contract, batch = self.eqn.params['dimension_numbers']
    sides = []
    for side in (1 - self.operand, self.operand):
      ndim = self.eqn.invars[side].aval.ndim
      free = tuple(i for i in range(ndim) if i not in (*contract[side], *batch[side]))
      sides.append((tuple(batch[side]), tuple(contract[side]), free))
    return tuple(sides)

  def rows(self, x: jax.Array) -> jax.Array:
    """What was recorded of the other operand, loops leading -> [S, N, a]; of a look-up the ids [S, N]."""
    x = self._loops_inside(x)
    num, turns = self._loop_sizes()
    if self.kind == 'lookup':
      return x.reshape(num, turns * math.prod(x.shape[2:]))
    (batch, contract, free), _ = self._dims()
    x = x.transpose(0, *(2 + i for i in batch), 1, *(2 + i for i in free), *(2 + i for i in contract))
    s, n, a, _ = self.sizes
    return x.reshape(s, n, a)

  def cotangents(self, delta: jax.Array) -> jax.Array:
    """d losses / d output [T, loops…, *out] -> [T, S, N, o]."""
    num_tasks = delta.shape[0]
    s, n, _, o = self.sizes
    if self.kind == 'lookup':
      delta = jax.vmap(self._loops_inside)(delta)
      return delta.reshape(num_tasks, s, n, o)
    (batch, _, free), (_, _, own_free) = self._dims()
    delta = jax.vmap(self._loops_inside)(delta)               # [T, S', turns, *out]; out = batch, lhs free, rhs free
    b, f, w = len(batch), len(free), len(own_free)
    rows, columns = range(b, b + f), range(b + f, b + f + w)
    if self.operand == 0:
      columns, rows = range(b, b + w), range(b + w, b + w + f)
    delta = delta.transpose(0, 1, *(3 + i for i in range(b)), 2, *(3 + i for i in rows), *(3 + i for i in columns))
    return delta.reshape(num_tasks, s, n, o)

  def gradient(self, x: jax.Array, delta: jax.Array) -> jax.Array:
    """[S, N, a], [S, N, o] -> the gradient of the leaf, x^T delta put back in its place."""
    s, _, a, o = self.sizes
    if self.kind == 'lookup':
      zeros = jnp.zeros((s, a, o), delta.dtype)
      product = jax.vmap(lambda table, ids, rows: table.at[ids].add(rows, mode='drop'))(zeros, x, delta)
    else:
      product = jnp.einsum('sna,sno->sao', x, delta)
    return self.place(product)

  def place(self, product: Any, xp: Any = jnp) -> Any:
    """[S, a, o] -> the leaf's own shape."""
    layers = tuple(length for length, own in self.loops if own)
    shape = self.eqn.invars[self.operand].aval.shape
    if self.kind == 'lookup':
      product = product.reshape(*layers, *shape)
    else:
      _, (batch, contract, free) = self._dims()
      order = (*batch, *contract, *free)
      product = product.reshape(*layers, *(shape[i] for i in order))
      inverse = np.argsort(order)
      product = product.transpose(*range(len(layers)), *(len(layers) + int(i) for i in inverse))
    return undo(product, self.back, xp)

  def _loop_sizes(self) -> tuple[int, int]:
    return (math.prod(length for length, own in self.loops if own),
            math.prod(length for length, own in self.loops if not own))

  def _loops_inside(self, x: jax.Array) -> jax.Array:
    """[loops…, *shape] -> [S', turns, *shape]."""
    num = len(self.loops)
    own = [i for i, (_, slices) in enumerate(self.loops) if slices]
    rest = [i for i in range(num) if i not in own]
    return x.transpose(*own, *rest, *range(num, x.ndim)).reshape(*self._loop_sizes(), *x.shape[num:])


@dataclasses.dataclass(frozen=True)
class _View:
  """A variable that holds the numbers of a leaf, perhaps in another shape."""

  path: str
  loops: tuple[tuple[int, bool], ...] = ()
  back: tuple[tuple, ...] = ()


def find_uses(eqns: Sequence[Any], leaf_vars: Mapping[Any, str]) -> dict[str, list[Use]]:
  """{path: its sites} for the leaves all of whose uses are sites of one layout; the others are left out.

  Args:
    eqns: operations of the trunk.
    leaf_vars: {variable: path}.
  """
  return {path: found for path, found in all_uses(eqns, leaf_vars).items() if _one_layout(found)}


def all_uses(eqns: Sequence[Any], leaf_vars: Mapping[Any, str]) -> dict[str, list[Use]]:
  """The same for the leaves all of whose uses are sites, of whatever layouts."""
  uses: dict[str, list[Use]] = {}
  opaque: set[str] = set()
  _walk(eqns, {var: _View(path) for var, path in leaf_vars.items()}, (), (), uses, opaque)
  return {path: found for path, found in uses.items() if path not in opaque}


def _walk(eqns, views: dict[Any, _View], address, loops, uses, opaque) -> dict[Any, _View]:
  """Follows views of leaves through operations; what is no site and no view makes a leaf opaque."""
  views = dict(views)
  for index, eqn in enumerate(eqns):
    held = {i: views[atom] for i, atom in enumerate(eqn.invars) if not is_literal(atom) and atom in views}
    if not held:
      continue
    here = (*address, index)
    name = eqn.primitive.name
    if name in SAME_NUMBERS and eqn.outvars[0].aval.size == eqn.invars[0].aval.size:
      views[eqn.outvars[0]] = _through(held[0], eqn)
    elif name == 'dot_general' and len(held) == 1:
      (operand, view), = held.items()
      uses.setdefault(view.path, []).append(_use(view, here, operand, 'dense', loops, eqn))
    elif name == 'gather' and list(held) == [0] and _is_lookup(eqn):
      uses.setdefault(held[0].path, []).append(_use(held[0], here, 0, 'lookup', loops, eqn))
    elif name in INLINED or name in ('remat', 'remat2', 'checkpoint'):
      inner, _ = open_jaxpr(eqn.params['jaxpr'])
      inside = {inner.invars[i]: view for i, view in held.items()}
      after = _walk(inner.eqns, inside, here, loops, uses, opaque)
      _outputs(eqn, inner, after, views, opaque)
    elif name == 'scan':
      body, num_consts, num_carry = scan_parts(eqn)
      inside: dict[Any, _View] = {}
      for i, view in held.items():
        if num_consts <= i < num_consts + num_carry:
          opaque.add(view.path)
          continue
        slices = i >= num_consts + num_carry
        inside[body.invars[i]] = dataclasses.replace(
          view, loops=(*view.loops, (eqn.params['length'], slices)))
      after = _walk(body.eqns, inside, here, (*loops, eqn.params['length']), uses, opaque)
      opaque.update(after[atom].path for atom in body.outvars if not is_literal(atom) and atom in after)
    else:
      opaque.update(view.path for view in held.values())
  return views


def _outputs(eqn, inner, after, views, opaque) -> None:
  for outer, atom in zip(eqn.outvars, inner.outvars):
    if not is_literal(atom) and atom in after:
      if eqn.primitive.name in INLINED:
        views[outer] = after[atom]
      else:
        opaque.add(after[atom].path)


def _use(view: _View, address, operand, kind, loops, eqn) -> Use:
  assert tuple(length for length, _ in view.loops) == loops, 'a view carries every loop around it'
  return Use(view.path, address, operand, kind, view.loops, eqn, view.back)


def _through(view: _View, eqn: Any) -> _View:
  """The view after an operation that keeps all numbers: the way back is one step longer."""
  operand = eqn.invars[0].aval
  layers = sum(own for _, own in view.loops)
  if eqn.primitive.name == 'transpose':
    step = ('transpose', layers, tuple(int(i) for i in np.argsort(eqn.params['permutation'])))
  elif eqn.primitive.name == 'convert_element_type':
    step = ('cast', layers, operand.dtype)
  else:
    step = ('reshape', layers, operand.shape)
  return dataclasses.replace(view, back=(step, *view.back))


def undo(x: Any, steps: Sequence[tuple], xp: Any = jnp) -> Any:
  """The way back from a view's gradient to the leaf's; the first `layers` axes are loops that slice the leaf."""
  for kind, layers, what in steps:
    if kind == 'transpose':
      x = x.transpose(*range(layers), *(layers + i for i in what))
    elif kind == 'reshape':
      x = x.reshape(*x.shape[:layers], *what)
    elif xp is jnp:
      x = x.astype(what)
  return x


def _is_lookup(eqn: Any) -> bool:
  """Whether a gather takes whole rows of a table [V, D] by ids [..., 1]."""
  numbers, table = eqn.params['dimension_numbers'], eqn.invars[0].aval
  out = eqn.outvars[0].aval
  return (table.ndim == 2 and tuple(numbers.offset_dims) == (out.ndim - 1,)
          and tuple(numbers.collapsed_slice_dims) == (0,) and tuple(numbers.start_index_map) == (0,)
          and not numbers.operand_batching_dims and tuple(eqn.params['slice_sizes']) == (1, table.shape[1]))


def _one_layout(sites: Sequence[Use]) -> bool:
  """Whether the sites of a leaf can be put one under the other: one kind, one layout of [S, a, o] in the leaf."""
  if len(sites) == 1:
    return True
  if len({(use.kind, use.sizes[0], *use.sizes[2:]) for use in sites}) > 1:
    return False
  s, _, a, o = sites[0].sizes
  places = [use.place(np.arange(s * a * o).reshape(s, a, o), np) for use in sites]
  return all(np.array_equal(places[0], other) for other in places[1:])


def scan_parts(eqn: Any) -> tuple[Any, int, int]:
  """(body, number of constants, number of carries) of a scan, told by shapes: sliced operands have one axis more."""
  body, _ = open_jaxpr(eqn.params['jaxpr'])
  sliced = 0
  for outer, inner in zip(reversed(eqn.invars), reversed(body.invars)):
    if outer.aval.ndim != inner.aval.ndim + 1:
      break
    sliced += 1
  carries = 0
  for outer, inner in zip(eqn.outvars, body.outvars):
    if outer.aval.ndim != inner.aval.ndim:
      break
    carries += 1
  return body, len(eqn.invars) - sliced - carries, carries


# --- running the trunk with its sites replaced


@dataclasses.dataclass(frozen=True)
class Extra:
  """An array that a site is given besides its operands.

  Attributes:
    value: the array; axes of the loops that slice it lead.
    loops: of each loop around the site, from outside, whether it slices `value`.
  """

  value: Any
  loops: tuple[bool, ...]


def run(eqns: Sequence[Any], env: dict[Any, Any], sites: Mapping[tuple, int], extras: Mapping[tuple, Extra],
        handler: Callable[..., tuple[Any, Any]], address: tuple = ()) -> dict[tuple, Any]:
  """Runs operations, each site by `handler(eqn, operand, values, extra) -> (output, record)`.

  Args:
    eqns: the operations.
    env: values of what they read; gets those of what they compute.
    sites: {address: which operand is the parameter}.
    extras: {address: what the site is given besides}.
    handler: runs a site.
    address: of the operation that these are nested in.

  Returns:
    {address: record, loops leading}.
  """
  records: dict[tuple, Any] = {}
  for index, eqn in enumerate(eqns):
    here = (*address, index)
    values = [read(env, atom) for atom in eqn.invars]
    below = {site: operand for site, operand in sites.items() if site[:len(here)] == here}
    if here in below:
      extra = extras[here].value if here in extras else None
      output, records[here] = handler(eqn, sites[here], values, extra)
      results = [output]
    elif below:
      inside = {site: extras[site] for site in below if site in extras}
      results, inner = _run_nested(eqn, values, below, inside, handler, here)
      records.update(inner)
    else:
      results = bind(eqn, values)
    env.update(zip(eqn.outvars, results))
  return records


def _run_nested(eqn, values, sites, extras, handler, address):
  """One operation that holds others."""
  jaxpr, constants = open_jaxpr(eqn.params['jaxpr'])

  def call(values, arrays, loops):
    env = dict(zip(jaxpr.constvars, constants)) | dict(zip(jaxpr.invars, values))
    inside = {site: Extra(array, loops[site]) for site, array in arrays.items()}
    records = run(jaxpr.eqns, env, sites, inside, handler, address)
    return [read(env, atom) for atom in jaxpr.outvars], records

  loops = {site: extra.loops for site, extra in extras.items()}
  arrays = {site: extra.value for site, extra in extras.items()}
  name = eqn.primitive.name
  if name in INLINED:
    return call(values, arrays, loops)
  if name != 'scan':
    again = jax.checkpoint(lambda values, arrays: call(values, arrays, loops), policy=eqn.params['policy'],
                           prevent_cse=eqn.params['prevent_cse'])
    return again(values, arrays)
  _, num_consts, num_carry = scan_parts(eqn)
  consts, carry = values[:num_consts], values[num_consts:num_consts + num_carry]
  sliced = {site: array for site, array in arrays.items() if loops[site][0]}
  whole = {site: array for site, array in arrays.items() if not loops[site][0]}

  def turn(carry, slices):
    xs, sliced = slices
    results, records = call([*consts, *carry, *xs], {**whole, **sliced}, {s: flags[1:] for s, flags in loops.items()})
    return results[:num_carry], (results[num_carry:], records)

  carry, (ys, records) = jax.lax.scan(
    turn, carry, (values[num_consts + num_carry:], sliced), length=eqn.params['length'],
    reverse=eqn.params['reverse'], unroll=eqn.params['unroll'])
  return [*carry, *ys], records
