r"""What a family of published checkpoints is called, tensor by tensor, and how each becomes ours.

A family is one file (`mtjax/interop/_bert.py` is the example to read) that ends in `FAMILY = Family(…)`, and a line for
each of its architectures in `mtjax.interop.hf.FAMILIES`. Its heart is a table of rows

    Row(their name, our path, transform)

written out for a module by ordinary Python (one comprehension over the layers). Three shapes of a row:

    Row('bert.pooler.dense.weight', 'pooler/kernel', LINEAR)                     one tensor, one leaf
    Row('h.0.attn.c_attn.weight', ('block_0/attn/query/kernel', …), qkv)         one tensor, cut into several leaves
    Row(('experts.0.w1.weight', 'experts.1.w1.weight'), 'moe/w1', LINEAR)        several tensors, stacked into one leaf

Transforms are views of arrays, never copies on loading, so that a tensor is in memory once beside its leaf.
Linear layers of PyTorch are (out, in), ours [in, out]; convolutions (out, in, h, w), ours [h, w, in, out]; heads are an
axis of their own with us.
"""
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn


class Transform(NamedTuple):
  """A tensor as it is in the file <-> as it is with us.

  Attributes:
    load: array -> view, or a tuple of views where a row has several leaves.
    save: the inverse: array(s) -> array.
  """
  load: Callable[..., Any]
  save: Callable[..., Any]


class Row(NamedTuple):
  """One line of the table.

  Attributes:
    theirs: the tensor's name on disk, or the names of several that are stacked on a new leading axis.
    ours: the path of our leaf, or of several.
    transform: between the two.
  """
  theirs: str | tuple[str, ...]
  ours: str | tuple[str, ...]
  transform: Transform


class Family(NamedTuple):
  """What `mtjax.interop.hf` knows of a family.

  Attributes:
    base: what the names of the bare model begin with where a head is around it ('bert.'); read with and without.
    module: (config, architecture, names in the file, without `base`) -> the module.
    config: (module, params) -> the fields of config.json, `architectures` among them.
    rows: module -> the table, with `base` in the names.
    example: config -> an input by which the shapes of the parameters are known.
    kind: the class of the module, by which `save` finds the family.
    bare: the architectures without a head, whose files leave out `base`.
    renames: (pattern, replacement) pairs: other spellings of a name -> that of the table.
    twins: config -> {name: the name in the table of the same tensor}, of tied tensors, which a file may hold twice.
    ignored: patterns of names in the file that hold no parameter.
  """
  base: str
  module: Callable[[Mapping[str, Any], str, frozenset[str]], nn.Module]
  config: Callable[[nn.Module, Mapping[str, Any]], dict[str, Any]]
  rows: Callable[[nn.Module], list[Row]]
  example: Callable[[Mapping[str, Any]], Any]
  kind: type[nn.Module]
  bare: tuple[str, ...]
  renames: Sequence[tuple[str, str]] = ()
  twins: Callable[[Mapping[str, Any]], Mapping[str, str]] = lambda config: {}
  ignored: Sequence[str] = ()

  def resolve(self, names: Sequence[str], known: Mapping[str, Any],
              config: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Names in a file -> ({name of the table: name in the file}, the names that mean nothing)."""
    found, twins, extra = {}, {}, []
    for name in names:
      ours = self.rename(name)
      twin = next((other for other in (ours, self.base + ours) if other in self.twins(config)), None)
      ours = ours if ours in known else self.base + ours
      if twin is not None:
        twins[self.twins(config)[twin]] = name
      elif ours in known and ours not in found:
        found[ours] = name
      elif ours in known or not any(re.search(pattern, name) for pattern in self.ignored):
        extra.append(name)
    return twins | found, extra

  def rename(self, name: str) -> str:
    """A name in the spelling of the table, but for `base`."""
    for pattern, replacement in self.renames:
      name = re.sub(pattern, replacement, name)
    return name


SAME = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(lambda x: x.T, lambda x: x.T)
CONV = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1))
FIRST = Transform(lambda x: x[0], lambda x: x[None])                      # (1, L, D) <-> [L, D]
FIRST_TWO = Transform(lambda x: x[0, 0], lambda x: x[None, None])         # (1, 1, D) <-> [D]


def heads_in(heads: int) -> Transform:
  """The kernel of a query, key or value: (H K, D) <-> [D, H, K]."""
  return Transform(lambda x: x.T.reshape(x.shape[1], heads, -1), lambda x: x.reshape(x.shape[0], -1).T)


def heads_bias(heads: int) -> Transform:
  """Its bias: (H K) <-> [H, K]."""
  return Transform(lambda x: x.reshape(heads, -1), lambda x: x.reshape(-1))


def heads_out(heads: int) -> Transform:
  """The kernel behind the heads: (D, H K) <-> [H, K, D]."""
  return Transform(lambda x: x.T.reshape(heads, -1, x.shape[0]), lambda x: x.reshape(-1, x.shape[2]).T)


def dense(theirs: str, ours: str, bias: bool = True) -> list[Row]:
  """The rows of a linear layer."""
  rows = [Row(f'{theirs}.weight', f'{ours}/kernel', LINEAR)]
  return [*rows, Row(f'{theirs}.bias', f'{ours}/bias', SAME)] if bias else rows


def norm(theirs: str, ours: str, bias: bool = True) -> list[Row]:
  """The rows of a norm."""
  rows = [Row(f'{theirs}.weight', f'{ours}/scale', SAME)]
  return [*rows, Row(f'{theirs}.bias', f'{ours}/bias', SAME)] if bias else rows


def attention(theirs: Mapping[str, str], ours: str, heads: int, kv_heads: int | None = None,
              bias: bool = True) -> list[Row]:
  """The rows of an attention whose four layers, 'query', 'key', 'value' and 'out', are called `theirs`."""
  rows = []
  for part, name in theirs.items():
    count = heads if part in ('query', 'out') else kv_heads or heads
    kernel = heads_out(count) if part == 'out' else heads_in(count)
    rows.append(Row(f'{name}.weight', f'{ours}/{part}/kernel', kernel))
    if bias:
      rows.append(Row(f'{name}.bias', f'{ours}/{part}/bias', SAME if part == 'out' else heads_bias(count)))
  return rows
