"""Paths and patterns over parameter trees.

Parameters are plain nested dicts of arrays. A *path* joins the keys by '/': 'encoder/block_3/attn/query/kernel'.
A subset of parameters is a list of regular expressions over paths, searched in order; the first match wins.
"""
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Tree = Any


def flatten(tree: Tree) -> dict[str, Any]:
  """Nested dict -> {path: leaf}, in the order of `jax.tree.leaves`. Sequences and dataclasses count as levels."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {'/'.join(_name(key) for key in path): leaf for path, leaf in leaves}


def unflatten(flat: Mapping[str, Any]) -> dict:
  """The inverse of `flatten` for nested dicts."""
  tree: dict = {}
  for path, leaf in flat.items():
    *parents, last = path.split('/')
    node = tree
    for key in parents:
      node = node.setdefault(key, {})
    node[last] = leaf
  return tree


def map_with_path(fn: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
  """`jax.tree.map` whose function gets the path first: fn(path, leaf, *other_leaves)."""
  return jax.tree_util.tree_map_with_path(lambda path, *xs: fn('/'.join(_name(k) for k in path), *xs), tree, *rest)


def match(patterns: Sequence[str | tuple[str, Any]], path: str, default: Any = None) -> Any:
  """The value of the first pattern that `re.search` finds in `path`.

  Args:
    patterns: regular expressions, each a string (its value is True) or a pair (pattern, value).
    path: a parameter path.
    default: what a path that nothing matches gets.

  Example:
    >>> match([(r'bias$', 0.0), (r'.*', 0.1)], 'encoder/fc1/kernel')
    0.1
  """
  for pattern in patterns:
    regex, value = (pattern, True) if isinstance(pattern, str) else pattern
    if re.search(regex, path):
      return value
  return default


def select(patterns: Sequence[str], tree: Tree) -> dict[str, bool]:
  """{path: whether any of `patterns` matches}. Raises ValueError for a pattern that is no regex or matches nothing."""
  paths = list(flatten(tree))
  for pattern in patterns:
    try:
      found = any(re.search(pattern, path) for path in paths)
    except re.error as error:
      raise ValueError(f'Pattern {pattern!r} is not a regular expression: {error}.') from error
    if not found:
      shown = ', '.join(paths[:8]) + (', …' if len(paths) > 8 else '')
      raise ValueError(f'Pattern {pattern!r} matches no parameter. Parameters: {shown}')
  return {path: bool(match(patterns, path)) for path in paths}


def partition(tree: Tree, keep: Mapping[str, bool]) -> tuple[dict, dict]:
  """Splits a nested dict into (leaves whose path `keep` holds true, the others); `merge` puts them together again."""
  flat = flatten(tree)
  chosen = {path: leaf for path, leaf in flat.items() if keep[path]}
  return unflatten(chosen), unflatten({path: leaf for path, leaf in flat.items() if path not in chosen})


def merge(*trees: Tree) -> dict:
  """The union of nested dicts with disjoint paths."""
  return unflatten({path: leaf for tree in trees for path, leaf in flatten(tree).items()})


def count(tree: Tree) -> int:
  """How many numbers the leaves hold."""
  return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def fingerprint(tree: Tree) -> jax.Array:
  """A checksum per leaf: uint32 [number of leaves]. Jit-able, and the same however the leaves are sharded.

      f(x) = sum_i (2 i + 1) * bits(x_i)   mod 2^32

  Integer addition is associative, so the order of reduction, hence the topology, does not matter.
  """
  return jnp.stack([_checksum(leaf) for leaf in jax.tree.leaves(tree)] or [jnp.zeros((), jnp.uint32)])


def _checksum(x: jax.Array) -> jax.Array:
  if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
    x = jax.random.key_data(x)
  if x.dtype == jnp.bool_:
    x = x.astype(jnp.uint8)
  unsigned = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}[x.dtype.itemsize]
  bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
  index = jnp.zeros(bits.shape, jnp.uint32)
  for axis, size in enumerate(bits.shape):
    index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis)
  return jnp.sum((2 * index + 1) * bits, dtype=jnp.uint32)


def table(tree: Tree, columns: Mapping[str, Callable[[str, Any], Any]] | None = None) -> str:
  """One line a parameter: path, shape, dtype, and what `columns` computes from (path, leaf)."""
  rows = [('parameter', 'shape', 'dtype', *(columns or {}))]
  for path, leaf in flatten(tree).items():
    extra = (str(fn(path, leaf)) for fn in (columns or {}).values())
    rows.append((path, 'x'.join(map(str, leaf.shape)) or 'scalar', str(leaf.dtype), *extra))
  return align(rows)


def align(rows: Iterable[Sequence[str]]) -> str:
  """Rows of text cells -> one string with aligned columns."""
  rows = [tuple(str(cell) for cell in row) for row in rows]
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return '\n'.join('  '.join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


def _name(key: Any) -> str:
  for attribute in ('key', 'idx', 'name'):
    if hasattr(key, attribute):
      return str(getattr(key, attribute))
  return str(key)
