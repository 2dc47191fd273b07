"""Task-owned parameters: trees each of whose leaves belongs to one task, known before compilation."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.optim.sharpness._algebra import dot


def owners_of(owners: Any, heads: Any, head_grads: Any, num_tasks: int) -> list[int]:
  """The owner of each leaf, in the order of `jax.tree.leaves(heads)`. Raises ValueError where one is missing or wrong.

  Args:
    owners: a tree of ints that `heads` may continue below its leaves, or {path in heads: int}.
    heads: the task-owned parameters.
    head_grads: their gradients, for a check of the structure.
    num_tasks: T.
  """
  flat = tree.flatten(heads)
  if head_grads is None or jax.tree.structure(head_grads) != jax.tree.structure(heads):
    raise ValueError(f'ftl: head_grads must be a tree like heads, {jax.tree.structure(heads)}, got '
                     f'{None if head_grads is None else jax.tree.structure(head_grads)}.')
  if isinstance(owners, dict) and set(owners) == set(flat):
    found = [owners[path] for path in flat]
  else:
    try:
      found = jax.tree.leaves(jax.tree.map(lambda t, below: jax.tree.map(lambda _: t, below), owners, heads))
    except ValueError as error:
      raise ValueError(f'ftl: owners must name the task of each leaf of heads ({", ".join(flat)}), got {owners!r}.'
                       ) from error
  for path, t in zip(flat, found):
    if not isinstance(t, int) or not 0 <= t < num_tasks:
      raise ValueError(f'ftl: the owner of {path!r} must be a task in 0 … {num_tasks - 1} as an int, got {t!r}.')
  if len(found) != len(flat):
    raise ValueError(f'ftl: owners must name the task of each leaf of heads ({", ".join(flat)}), got {owners!r}.')
  return found


def map_owned(fn: Callable[..., jax.Array], owner: list[int], *trees: Any) -> Any:
  """`jax.tree.map` whose function gets the owner first: fn(t, leaf, *other_leaves)."""
  leaves = zip(*map(jax.tree.leaves, trees))
  return jax.tree.unflatten(jax.tree.structure(trees[0]), [fn(t, *xs) for t, xs in zip(owner, leaves)])


def squared_norms(x: Any, owner: list[int], num_tasks: int) -> jax.Array:
  """[T], the squared norm of what each task owns; 0 for a task that owns nothing."""
  squares = jnp.stack([dot(leaf, leaf) for leaf in jax.tree.leaves(x)])
  return jax.ops.segment_sum(squares, jnp.array(owner), num_tasks)
