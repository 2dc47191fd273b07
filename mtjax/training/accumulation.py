"""Gradient accumulation: what a large batch gives, from the memory of a small one.

The micro-batches k = 1 … K of a batch have S_tk, the sum of the losses of task t, and N_tk, the number of its labelled
rows. The loss of the batch and its gradient are

    L = sum_t w_t S_t / N_t,   S_t = sum_k S_tk,   N_t = sum_k N_tk;     dL = sum_k d(sum_t (w_t / N_t) S_tk)

whatever rows a micro-batch has labels for: the mean over micro-batches of their own losses would be another. N_t is a
matter of masks, not of parameters, so all N_tk are counted first: of that pass the compiler keeps what the counts
depend on, and drops the network. The gradient engine adds up S_tk and their stacked gradients in the same way, and
weighs them at the end. Sums are float32. A loss that compares the rows of a batch (`info_nce`) sees those of a
micro-batch.

One compiled loop runs over k. Micro-batch k has the rows k, k + K, …, so that every device takes its share of each from
its own rows. The key of its dropout is `micro_key(rng, k)`: with dropout, K micro-batches draw other masks than one
batch does.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.extend
import jax.numpy as jnp

from mtjax.objective import Losses
from mtjax.training.engine import cost


def micro_batches(batch: Any, num: int, what: str) -> Any:
  """[B, …] -> [num, B / num, …]; micro-batch k has the rows k, k + num, …, so that a sharded axis stays where it is.

  Raises ValueError where the rows are not a multiple of `num`; `what` begins its text.
  """
  def split(x):
    if len(x) % num:
      raise ValueError(f'{what}: {num} parts do not divide the {len(x)} rows of a batch; choose a divisor.')
    return jnp.swapaxes(x.reshape(len(x) // num, num, *x.shape[1:]), 0, 1)

  return jax.tree.map(split, batch)


def micro_key(rng: jax.Array, k: Any) -> jax.Array:
  """The key of micro-batch k."""
  return jax.random.fold_in(rng, k)


def add_up(fn: Callable[[Any, jax.Array], Any], batch: Any, num: int) -> Any:
  """sum_k fn(micro-batch k, k), in float32 or more.

  Args:
    fn: its results are trees of arrays.
    batch: a tree of arrays [B, …], B a multiple of `num`.
    num: K.

  Example:
    >>> add_up(lambda rows, k: (rows.sum(), len(rows)), jnp.arange(6.0), 3)
    (Array(15., dtype=float32), Array(6, dtype=int32))
  """
  parts = micro_batches(batch, num, "'gradients.accumulate'")
  first = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), parts)
  jaxpr, shapes = jax.make_jaxpr(fn, return_shape=True)(first, jax.ShapeDtypeStruct((), jnp.int32))
  shapes, structure = jax.tree.flatten(shapes)
  wide = lambda dtype: jnp.promote_types(dtype, jnp.float32) if jnp.issubdtype(dtype, jnp.floating) else dtype
  zeros = [jnp.zeros(x.shape, wide(x.dtype)) for x in shapes]

  def turn(totals, part):
    found = jax.extend.core.jaxpr_as_fun(jaxpr)(*jax.tree.leaves(part))
    return [total + jnp.asarray(x, total.dtype) for total, x in zip(totals, found)], None

  # Written out where convolutions prevail: a CPU is slow at them within loops.
  unroll = jax.default_backend() == 'cpu' and cost.share_of_convolutions(jaxpr.eqns) > 0.1
  return jax.tree.unflatten(structure, jax.lax.scan(turn, zeros, (parts, jnp.arange(num)), unroll=unroll)[0])


def losses(objective: Callable[..., Losses], params: Any, batch: Any, rng: jax.Array, step: Any, num: int) -> Losses:
  """The losses of a batch, `num` micro-batches one after the other."""
  if num == 1:
    return objective(params, batch, rng, step)
  return add_up(lambda part, k: objective(params, part, micro_key(rng, k), step), batch, num)


def weighted_gradient(losses_of: Callable[[Any, Any, jax.Array], Losses], learnt: Any, batch: Any, rng: jax.Array,
                      task_weights: jax.Array, num: int) -> tuple[Any, Losses]:
  """(gradient of sum_t w_t S_t / N_t, the losses).

  Args:
    losses_of: (learnt, batch, rng) -> Losses, whose `weights` do not depend on `learnt`.
    learnt: what is differentiated.
    batch, rng: of the step.
    task_weights: w, [T].
    num: K; 1 = the whole batch at once.
  """
  if num == 1:
    def total_loss(learnt):
      found = losses_of(learnt, batch, rng)
      return found.total(task_weights), found

    return jax.grad(total_loss, has_aux=True)(learnt)

  counts = add_up(lambda part, k: losses_of(learnt, part, micro_key(rng, k)).weights, batch, num)
  factors = jnp.where(counts > 0, task_weights / jnp.where(counts > 0, counts, 1), 0)

  def share(part, k):
    def total_loss(learnt):
      found = losses_of(learnt, part, micro_key(rng, k))
      return jnp.sum(factors * found.sums), found

    return jax.grad(total_loss, has_aux=True)(learnt)

  return add_up(share, batch, num)
