"""M-ConFIG: ConFIG of the tasks' momenta, so that a step needs the gradient of one task only.

Liu et al., "ConFIG: Towards Conflict-free Training of Physics Informed Neural Networks", ICLR 2025, Algorithm 1,
https://arxiv.org/abs/2408.11104.

    m_i <- beta m_i + (1 - beta) g_i for the tasks i of this step;   m^_i = m_i / (1 - beta^{k_i}), k_i its steps
    d = ConFIG(m^_1, ..., m^_T);    f_t = d (1 - beta^t);    update = (f_t - beta f_{t-1}) / (1 - beta)

m: leaves [T, *shape]; d, f: [*shape]; t the number of this step. The update is the gradient whose momentum is f: Adam
with b1 = beta makes of it the momentum d and takes its second moment from it, which is the paper's optimizer:
`optax.chain(m_config(beta=0.9), optax.adam(lr, b1=0.9))`. The tasks of a step are those of `active`; d is over all
tasks that have been seen.
"""
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number, check_preference
from mtjax.optim.aggregators._preference import preference_vector
from mtjax.optim.aggregators.config import config_weights
from mtjax.optim.stacked import combine, gramian


class MConfigState(NamedTuple):
  """What M-ConFIG remembers.

  Attributes:
    momenta: m, leaves [T, *shape].
    steps: [T] int32, in how many steps each task took part.
    f: leaves [*shape], the last d (1 - beta^t).
    count: int32, updates so far.
  """

  momenta: Any
  steps: jax.Array
  f: Any
  count: jax.Array


def m_config(beta: float = 0.9, preference: Sequence[float] | None = None) -> base.Aggregator:
  """M-ConFIG as an optax transform of stacked gradients, to be followed by Adam with b1 = beta.

  Args:
    beta: of the momenta, in [0, 1).
    preference: as in `config`.

  Example:
    >>> tx = optax.chain(mtjax.optim.m_config(beta=0.9), optax.adam(1e-3, b1=0.9))
  """
  check_number(beta, 'm_config', 'beta', 0, 1, open_high=True)
  preference = check_preference(preference, 'm_config')

  def init(params, num_tasks):
    zeros = lambda *axes: jax.tree.map(
      lambda p: jnp.zeros(axes + jnp.shape(p), jnp.promote_types(jnp.result_type(p), jnp.float32)), params)
    return MConfigState(zeros(num_tasks), jnp.zeros(num_tasks, jnp.int32), zeros(), jnp.int32(0))

  def aggregate(jac, state, info):
    per_row = lambda x, leaf: x.reshape((-1,) + (1,) * (leaf.ndim - 1))
    momenta = jax.tree.map(
      lambda m, g: jnp.where(per_row(info.active, g), beta * m + (1 - beta) * g.astype(m.dtype), m), state.momenta, jac)
    steps, count = state.steps + info.active, state.count + 1
    seen = steps > 0
    correction = lambda k: 1 - beta ** k.astype(jnp.result_type(float))
    scale = jnp.where(seen, 1 / correction(jnp.maximum(steps, 1)), 0)
    corrected = jax.tree.map(lambda m: m * per_row(scale, m).astype(m.dtype), momenta)
    gram = gramian(corrected)
    w = config_weights(gram, preference_vector(preference, seen, gram.dtype, 'm_config', default=1), seen.sum())
    f = jax.tree.map(lambda d: d * correction(count).astype(d.dtype), combine(corrected, w))
    update = jax.tree.map(lambda new, old, g: ((new - beta * old) / (1 - beta)).astype(g.dtype), f, state.f, jac)
    return update, None, MConfigState(momenta, steps, f, count)

  return base.from_jacobian(aggregate, name='m_config', init=init)
