"""Cheaper Gramians, and what is done to a Gramian before a method sees it."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def sub_batch(batch: Any, share: float) -> Any:
  """The first of every 1 / share rows of each array [B, …] of a batch; at least one row."""
  def rows(x):
    num = max(1, int(len(x) * share + 1e-9))
    return x[:: len(x) // num][:num]

  return jax.tree.map(rows, batch)


def sketch(losses: Callable[[Any], jax.Array], leaves: Any, key: jax.Array, num: int) -> jax.Array:
  """G ~ (1 / k) sum_i (J v_i)(J v_i)^T, v_i ~ N(0, I): unbiased, relative error about sqrt(2 / k).

  Every J v_i is one forward-mode pass, for all tasks at once; worth it for very many tasks (T >~ 64) only, and the
  signs of small cosines are not to be trusted.

  Args:
    losses: leaves -> [T].
    leaves: a tree, the shared parameters.
    key: of the directions.
    num: k.

  Returns:
    [T, T] float32.
  """
  flat, structure = jax.tree.flatten(leaves)

  def product(key):
    keys = jax.random.split(key, len(flat))
    direction = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, flat)]
    return jax.jvp(losses, (leaves,), (jax.tree.unflatten(structure, direction),))[1]

  products = jax.lax.map(product, jax.random.split(key, num)).astype(jnp.float32)  # [k, T]
  return products.T @ products / num


def average(old: jax.Array, new: jax.Array, active: jax.Array, decay: float) -> jax.Array:
  """EMA of the Gramian, decay * old + (1 - decay) * new, for pairs of active tasks; one seen first starts at `new`."""
  both = active[:, None] & active[None, :]
  fresh = jnp.diag(old) == 0
  start = fresh[:, None] | fresh[None, :]
  return jnp.where(both, jnp.where(start, new, decay * old + (1 - decay) * new), old)


def groups(gram: jax.Array, active: jax.Array, threshold: float) -> tuple[jax.Array, jax.Array]:
  """Tasks joined by chains of cosines above the threshold -> (M [T, T], representatives [T] bool).

  Row r of M is 1 for the tasks of the group that r stands for (the first of its tasks), 0 for tasks that stand for
  none: the rows of M J are the sums over groups, their Gramian is M G M^T, and weights v of the groups give w = M^T v.
  """
  num_tasks = len(gram)
  norms = jnp.sqrt(jnp.maximum(jnp.diag(gram), 0))
  products = norms[:, None] * norms[None, :]
  linked = (gram > threshold * products) & (products > 0) & active[:, None] & active[None, :]
  linked = linked | jnp.eye(num_tasks, dtype=bool)
  for _ in range(max(1, num_tasks.bit_length())):
    linked = (linked.astype(jnp.float32) @ linked.astype(jnp.float32)) > 0
  first = jnp.argmax(linked, axis=1)
  stands = (first == jnp.arange(num_tasks)) & active
  return jnp.where(stands[:, None], linked & active[None, :], False).astype(gram.dtype), stands
