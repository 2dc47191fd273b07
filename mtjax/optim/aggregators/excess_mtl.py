"""ExcessMTL: tasks weighted by how far they are from their optimum, so that label noise does not attract weight.

He, Zhou, Wang, Cheng & Zhao, "Robust Multi-Task Learning with Excess Risks", ICML 2024,
https://arxiv.org/abs/2402.02009.

    S_t <- S_t + g_t^2,    e_t = sum_i g_ti^2 / sqrt(S_ti + 1e-7)           the excess risk, by a diagonal Hessian
    w_t <- w_t exp(eta e_t / e0_t) / normaliser,    d = J^T w

g_t: [P], row t of J [T, P]; S: [T, P], 0 at first; e, e0, w: [T]. e0_t is e_t at the first step, or its mean over a
warm-up during which the weights are equal. The weight multiplies the whole loss.
Differs from the authors' code: w is kept as its logarithm, which no ratio e/e0 overflows; a step at which a task's
gradient is 0 does not count as its first. per='leaf' replaces S_ti by its mean over the parameters of a leaf, one
number a task and leaf in place of T times the parameters.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_choice, check_count, check_number
from mtjax.optim.stacked import combine, zero_rows

EPSILON = 1e-7
LARGEST = 1e30           # of e / e0: beyond it one task has all the weight anyway


class ExcessMtlState(NamedTuple):
  """What is summed over the steps.

  Attributes:
    squares: S, leaves [T, *shape], or [T] with per='leaf'; float32 or more.
    log_w: [T], logarithms of weights that sum to 1 over the active tasks.
    baseline: [T], the sum of e over the steps that e0 is the mean of.
    count: [T] int32, how many of them there were.
  """
  squares: Any
  log_w: jax.Array
  baseline: jax.Array
  count: jax.Array


def own_axes(leaf: jax.Array) -> tuple[int, ...]:
  """All but that of the tasks."""
  return tuple(range(1, leaf.ndim))


def excess_risks(jac: Any, squares: Any) -> jax.Array:
  """e [T], of leaves g [T, *shape] and S [T, *shape] (or [T], the mean over the leaf)."""
  def leaf_risk(g, s):
    s = s if s.ndim == g.ndim else s.reshape(-1, *[1] * (g.ndim - 1))
    return (jnp.square(g.astype(s.dtype)) / jnp.sqrt(s + EPSILON)).sum(own_axes(g))

  return sum(jax.tree.leaves(jax.tree.map(leaf_risk, jac, squares)))


def excess_mtl(eta: float = 0.01, total: str = 'one', first: str = 'skip', warmup_steps: int = 0, per: str = 'element',
               scale_heads: bool = True) -> base.Aggregator:
  """ExcessMTL as an optax transform of stacked gradients.

  Args:
    eta: step of the weights; the authors use 0.01 to 1.
    total: what the weights sum to: 'one' (the paper) or 'tasks', the number of active tasks (LibMTL).
    first: at the first step, where e0 is not known before, 'skip' the update (which is what e / e0 = 1 for all does,
      and LibMTL), or make it with the 'raw' e in place of e / e0 (TorchJD).
    warmup_steps: e0 is the mean over so many steps (the authors: 3 epochs); 0 = the first step alone.
    per: 'element' or 'leaf', what S holds a number of.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.

  Example:
    >>> tx = optax.chain(mtjax.optim.excess_mtl(eta=0.5), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[3., 0], [0, 4]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(2)}))
    >>> print(updates['w'])
    [-1.5 -2. ]
  """
  check_number(eta, 'excess_mtl', 'eta', 0)
  check_choice(total, 'excess_mtl', 'total', ('one', 'tasks'))
  check_choice(first, 'excess_mtl', 'first', ('skip', 'raw'))
  check_count(warmup_steps, 'excess_mtl', 'warmup_steps', 0)
  check_choice(per, 'excess_mtl', 'per', ('element', 'leaf'))
  if first == 'raw' and warmup_steps:
    raise ValueError(f"excess_mtl: first='raw' moves the weights at the first step, but with warmup_steps="
                     f'{warmup_steps} they stay equal until then. Give one of the two.')

  def init(params, num_tasks):
    squares = zero_rows(params, num_tasks)
    if per == 'leaf':
      squares = jax.tree.map(lambda s: jnp.zeros(num_tasks, s.dtype), squares)
    zeros = jnp.zeros(num_tasks)
    return ExcessMtlState(squares, zeros, zeros, jnp.zeros(num_tasks, jnp.int32))

  def accumulate(s, g):
    squares = jnp.square(g.astype(s.dtype))
    return s + (squares if per == 'element' else squares.mean(own_axes(g)))

  def aggregate(jac, state, info):
    squares = jax.tree.map(accumulate, state.squares, jac)
    risks = excess_risks(jac, squares).astype(state.log_w.dtype)
    counts = info.active & (risks > 0)
    warming = state.count < max(warmup_steps, 1)
    baseline = state.baseline + jnp.where(counts & warming, risks, 0)
    count = state.count + (counts & warming)
    ratios = risks * jnp.maximum(count, 1) / jnp.where(baseline > 0, baseline, 1)
    move = counts & ~warming
    if first == 'raw':
      move, ratios = counts, jnp.where(warming, risks, ratios)
    log_w = state.log_w + eta * jnp.where(move, jnp.minimum(ratios, LARGEST), 0)
    # The same number off all, absent tasks too: their weights relative to the others' stay as they were.
    log_w -= jnp.where(info.active.any(), jax.nn.logsumexp(log_w, where=info.active), 0)
    w = jnp.where(info.active, jnp.exp(log_w), 0) * (1 if total == 'one' else info.active.sum())
    return combine(jac, w), w, ExcessMtlState(squares, log_w, baseline, count)

  return base.from_jacobian(aggregate, name='excess_mtl', init=init, scale_heads=scale_heads)
