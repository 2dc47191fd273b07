"""Parameters of equal layers, stacked: block_0 … block_{n-1} as one `blocks` with leaves [n, …].

A module with scan=True takes its parameters either way (`mtjax.encoders.stack`). Checkpoints, patterns over paths and
decoding know them block by block; what is compiled is smaller, and runs without a copy of the parameters and their
gradients, where they are stacked before the optimizer is made and unstacked to be saved:

    params = stack_blocks(params);   opt_state = tx.init(params);   …   save(unstack_blocks(params))

Both functions work on whatever holds dicts shaped like parameters: gradients, or the state of an optimizer.
"""
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax.encoders._compiler import unknown_indices

STACKED = 'blocks'
_BLOCK = re.compile(r'block_\d+')


def stack_blocks(params: Any) -> Any:
  """The same tree with the blocks of every dict that has them stacked.

  Dicts with fewer than two blocks, or with blocks that are not alike in names, shapes and dtypes, stay. For modules
  with a field `scan`: others do not look for stacked blocks.

  Example:
    >>> stack_blocks({'block_0': {'w': jnp.zeros(3)}, 'block_1': {'w': jnp.ones(3)}})['blocks']['w'].shape
    (2, 3)
  """
  def change(node):
    names = [f'block_{i}' for i in range(sum(_BLOCK.fullmatch(name) is not None for name in node))]
    if len(names) < 2 or any(name not in node for name in names) or len({_alike(node[name]) for name in names}) > 1:
      return None
    rest = {name: child for name, child in node.items() if name not in names}
    return rest | {STACKED: stack_trees([node[name] for name in names])}

  return _change_dicts(params, change)


def unstack_blocks(params: Any) -> Any:
  """The inverse of `stack_blocks`.

  Example:
    >>> sorted(unstack_blocks({'blocks': {'w': jnp.zeros((2, 3))}}))
    ['block_0', 'block_1']
  """
  def change(node):
    if STACKED not in node:
      return None
    rest, stacked = {name: child for name, child in node.items() if name != STACKED}, node[STACKED]
    depth = len(jax.tree.leaves(stacked)[0])
    return rest | {f'block_{i}': jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(depth)}

  return _change_dicts(params, change)


def check_stacked(name: str, stacked: Any, depth: int, scan: bool) -> None:
  """Raises ValueError unless a module `name` of `depth` blocks can run with these parameters stacked."""
  if not scan:
    raise ValueError(f"{name} has scan=False, but its parameters are stacked (they hold '{STACKED}'); allowed is "
                     f'scan=True, or parameters block by block, as unstack_blocks gives them.')
  lengths = sorted({x.shape[0] for x in jax.tree.leaves(stacked)})
  if lengths != [depth]:
    raise ValueError(f"{name} has {depth} blocks, but its parameters '{STACKED}' hold "
                     f'{" or ".join(map(str, lengths))}.')


def stack_trees(trees: Sequence[Any]) -> Any:
  """n trees alike -> one with leaves [n, …]."""
  return _stack_on_cpu(tuple(trees)) if jax.default_backend() == 'cpu' else _stack(trees)


def _stack(trees):
  return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.custom_jvp
def _stack_on_cpu(trees):
  return _stack(trees)


@_stack_on_cpu.defjvp
def _stack_tangents(primals, tangents):
  # What counts is the transpose of this sum: the gradients taken apart at indices that the compiler does not know. It
  # makes one kernel of each shape then, and would make one for each leaf of each layer of indices that it knows: half
  # of all that is to be compiled.
  indices = unknown_indices(len(tangents[0]))

  def stack(*leaves):
    zeros = jnp.zeros((len(leaves), *leaves[0].shape), leaves[0].dtype)
    return sum(jax.lax.dynamic_update_index_in_dim(zeros, x, i, 0) for i, x in zip(indices, leaves))

  return _stack_on_cpu(*primals), jax.tree.map(stack, *tangents[0])


def _alike(tree: Any) -> Any:
  """What trees that can be stacked have in common."""
  leaves, structure = jax.tree.flatten(tree)
  return structure, tuple((x.shape, str(x.dtype)) for x in leaves)


def _change_dicts(tree: Any, change: Callable[[dict], dict | None]) -> Any:
  """The tree with change(dict) in place of its dicts; those for which that is None are looked into."""
  def walk(node):
    if not isinstance(node, dict):
      return node
    changed = change(node)
    return {name: _change_dicts(child, change) for name, child in node.items()} if changed is None else changed

  return jax.tree.map(walk, tree, is_leaf=lambda node: isinstance(node, dict))
