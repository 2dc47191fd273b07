"""CR-MOGM: any rule's weights, averaged over steps so that they correlate less with the step's own noise.

Zhou et al., "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond", NeurIPS 2022,
https://openreview.net/forum?id=ScwfQ7hdwyP.

    w <- alpha w_prev + (1 - alpha) w_hat,    d = J^T w,    w_hat the weights of the wrapped rule

w: [T]. alpha may grow to 1 as the learning rate falls, by a schedule of the number of updates.
Differs from the paper: starts from the first w_hat, not from 1/T, since not every rule's weights sum to 1; a task that
is absent keeps its average.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number


class CRMOGMState(NamedTuple):
  """What is kept between steps.

  Attributes:
    w: [T], the average.
    seen: [T] bool, whether a task has taken part yet.
    count: int32, updates so far.
    inner: the state of the wrapped aggregator.
  """

  w: jax.Array
  seen: jax.Array
  count: jax.Array
  inner: Any


def cr_mogm(aggregator: base.Aggregator, alpha: float | Callable[[jax.Array], jax.Array] = 0.9) -> base.Aggregator:
  """CR-MOGM around an aggregator that works by weights.

  Args:
    aggregator: needs 'losses' or 'gramian'.
    alpha: in [0, 1], or a schedule, count -> alpha. 0 is the wrapped rule.

  Example:
    >>> tx = optax.chain(mtjax.optim.cr_mogm(mtjax.optim.mgda(), alpha=0.5), optax.adamw(1e-3))
  """
  if not callable(alpha):
    check_number(alpha, 'cr_mogm', 'alpha', 0, 1)
  if aggregator.needs == 'jacobian':
    raise ValueError(f"cr_mogm averages weights, but {aggregator.name!r} (needs='jacobian') has none.")

  def init(num_tasks):
    return CRMOGMState(jnp.zeros(num_tasks), jnp.zeros(num_tasks, bool), jnp.int32(0), aggregator.init({}, num_tasks))

  def weights(state, info):
    new, inner = aggregator.weights(state.inner, info)
    rate = jnp.asarray(alpha(state.count) if callable(alpha) else alpha, new.dtype)
    averaged = jnp.where(state.seen, rate * state.w.astype(new.dtype) + (1 - rate) * new, new)
    w = jnp.where(info.mask, averaged, state.w.astype(new.dtype))
    return w, CRMOGMState(w.astype(state.w.dtype), state.seen | info.mask, state.count + 1, inner)

  def observe(state, losses_after, active):
    return state._replace(inner=aggregator.observe(state.inner, losses_after, active))

  return base.from_weights(
    weights, name=f'cr_mogm({aggregator.name})', needs=aggregator.needs, init=init,
    head_weights=aggregator.head_weights, observe=observe if aggregator.observe else None,
    observes=aggregator.observes, double_sampling=aggregator.double_sampling)
