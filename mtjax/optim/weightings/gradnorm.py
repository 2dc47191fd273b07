"""GradNorm: weights trained until the gradients of all weighted losses have norms that match their training rates.

Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018,
https://arxiv.org/abs/1711.02257.

    Gamma_t = w_t n_t,  n_t = ||grad_W l_t||,    r_t = (l_t / l_t(0)) / mean_i(l_i / l_i(0))
    L_gn = sum_t |Gamma_t - c_t|,  c_t = mean(Gamma) r_t^alpha held constant,    dL_gn/dw_t = n_t sign(Gamma_t - c_t)

Each step the model's gradient is sum_t w_t g_t; then Adam moves w (alone) down dL_gn/dw, and w is scaled to sum T.
w, l, n: [T]; W: the last shared layer. l_t(0): the loss of the task's first step. Only the diagonal of the Gramian is
read, so that of a single layer will do: `layer` here, or config.gradients.layers.
Variant 'libmtl', after LibMTL's code: w = T softmax(u) with u trained, W = all shared parameters, l_t(0) = the mean
loss of the first epoch, in which all w are 1 and u rests.
Differs from the paper: w is kept >= 0; |Gamma_t - c_t| within rounding of 0 counts as 0; Adam's epsilon is 1e-16, so
that gradients of 1e-10 are balanced too. Losses below 0 count as 0, and l_t(0) below 1e-12 as 1e-12.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtjax.optim import base, stacked
from mtjax.optim._checks import check_number
from mtjax.optim.weightings import _common

VARIANTS = ('paper', 'libmtl')


class GradNormState(NamedTuple):
  """The weights and what the training rates are measured against.

  Attributes:
    parameter: [T], w ('paper') or u ('libmtl'), what is trained.
    initial: [T], l_t(0).
    known: [T] bool, whether `initial` is.
    sums: [T], of the losses of the running epoch ('libmtl').
    counts: [T] int32, of the steps behind `sums`.
    step: int32, steps so far.
    opt_state: of the parameter's optimizer, one a task.
  """
  parameter: jax.Array
  initial: jax.Array
  known: jax.Array
  sums: jax.Array
  counts: jax.Array
  step: jax.Array
  opt_state: Any


def gradnorm_targets(w: jax.Array, norms: jax.Array, rates: jax.Array, alpha: float, active: jax.Array) -> jax.Array:
  """c_t = mean(Gamma) r_t^alpha: [T], [T], l / l(0) [T] -> [T]; means over the active tasks."""
  shares = stacked.equal_shares(active, norms.dtype)
  mean_rate = jnp.sum(shares * rates)
  r = jnp.where(mean_rate > 0, rates / jnp.where(mean_rate > 0, mean_rate, 1), 1)
  return jnp.sum(shares * w * norms) * r ** alpha


def gradnorm_loss(w: jax.Array, norms: jax.Array, rates: jax.Array, alpha: float, active: jax.Array) -> jax.Array:
  """L_gn: [T], [T], l / l(0) [T] -> scalar, differentiable in w."""
  targets = jax.lax.stop_gradient(gradnorm_targets(w, norms, rates, alpha, active))
  return jnp.sum(jnp.where(active, jnp.abs(w * norms - targets), 0))


def gradnorm_gradient(w: jax.Array, norms: jax.Array, rates: jax.Array, alpha: float, active: jax.Array) -> jax.Array:
  """dL_gn/dw: [T], [T], l / l(0) [T] -> [T], 0 where Gamma_t is on target up to rounding."""
  norm, target = w * norms, gradnorm_targets(w, norms, rates, alpha, active)
  balanced = jnp.abs(norm - target) <= 16 * jnp.finfo(norms.dtype).eps * jnp.maximum(norm, target)
  return jnp.where(active & ~balanced, norms * jnp.sign(norm - target), 0)


def share_out(parameter: jax.Array, active: jax.Array, variant: str) -> jax.Array:
  """The weights [T] of a parameter [T]: >= 0, 0 for inactive tasks, with sum T (the number of active tasks).

  1 each where w of all active tasks has come down to 0, so that one that is alone in a batch is still trained.
  """
  num_tasks = jnp.sum(active, dtype=parameter.dtype)
  if variant == 'libmtl':
    return num_tasks * jax.nn.softmax(parameter, where=active)
  w = jnp.where(active, parameter, 0)
  total = jnp.sum(w)
  return jnp.where(total > 0, w * num_tasks / jnp.where(total > 0, total, 1), active.astype(w.dtype))


def gradnorm(alpha: float = 1.5, learning_rate: optax.ScalarOrSchedule = 0.025, variant: str = 'paper',
             layer: str | None = None, steps_per_epoch: int | None = None, *,
             optimizer: optax.GradientTransformation | None = None, scale_heads: bool = True) -> base.Aggregator:
  """GradNorm, as an optax transform of stacked gradients; needs their norms and the losses.

  `scalarise` holds w constant: what w descends is `gradnorm_loss`, not the sum of losses.

  Args:
    alpha: how strongly slow tasks are favoured; 1.5 where tasks are very unequal, 0.12 where they are alike.
    learning_rate: of w (or u), a number or an optax schedule.
    variant: 'paper' or 'libmtl', see above.
    layer: regular expression for the paths of the parameters W; None = all that `update` is given.
    steps_per_epoch: for 'libmtl', the length of an epoch; None: `update` is told by `epoch_end`.
    optimizer: in place of Adam at `learning_rate`.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.gradnorm(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[1.0, 0.0], [0.0, 3.0]])}
    >>> updates, state = tx.update(jac, tx.init({'w': jnp.zeros(2)}), losses=jnp.ones(2))
    >>> updates['w'].tolist(), [round(float(w), 3) for w in state[0].inner.parameter]
    ([-1.0, -3.0], [1.025, 0.975])
  """
  name = 'gradnorm'
  check_number(alpha, name, 'alpha', 0)
  _common.check_epochs(steps_per_epoch, name)
  if variant not in VARIANTS:
    raise ValueError(f'{name}: variant must be one of {VARIANTS}, got {variant!r}.')
  # Adam divides by |gradient| + epsilon: its usual 1e-8 is no longer small beside norms of 1e-10.
  adam = _common.parameter_optimizer(learning_rate, optimizer, name, eps=1e-16)

  def init(num_tasks):
    zeros, parameter = jnp.zeros(num_tasks), jnp.full(num_tasks, float(variant == 'paper'))
    return GradNormState(parameter, zeros, jnp.zeros(num_tasks, bool), zeros, jnp.zeros(num_tasks, jnp.int32),
                         jnp.zeros((), jnp.int32), _common.init_each(adam, parameter))

  def first_losses(state, info, losses):
    """(state with what this step tells of l(0), the tasks whose weights are trained in this step)."""
    active = info.mask
    if variant == 'paper':
      initial = _common.keep(active & ~state.known, losses, state.initial)
      return state._replace(initial=initial, known=state.known | active), active
    trained = active & state.known
    sums, counts = _common.keep(active & ~state.known, (state.sums + losses, state.counts + 1),
                                (state.sums, state.counts))
    epoch_end = _common.ends_epoch(info, state.step, steps_per_epoch, name)
    learnt = epoch_end & ~state.known & (counts > 0)
    initial = _common.keep(learnt, sums / jnp.maximum(counts, 1).astype(sums.dtype), state.initial)
    return state._replace(initial=initial, known=state.known | learnt, sums=sums, counts=counts), trained

  def weights(state, info):
    losses = _common.losses_of(info, name)
    if info.gramian is None:
      raise ValueError(f'{name} needs the norms of the gradients: give the Gramian.')
    norms = jnp.sqrt(jnp.maximum(jnp.where(info.mask, jnp.diagonal(info.gramian), 0), 0))
    w = share_out(state.parameter, info.mask, variant)
    state, trained = first_losses(state, info, losses)

    rates = jnp.where(trained, jnp.maximum(losses, 0) / jnp.maximum(state.initial, _common.FLOOR), 0)
    share = share_out(state.parameter, trained, variant)
    gradient = gradnorm_gradient(share, norms, rates, alpha, trained)
    if variant == 'libmtl':    # through w = T softmax(u)
      gradient = share * (gradient - jnp.sum(share * gradient) / jnp.maximum(jnp.sum(share), 1))
    parameter, opt_state = _common.train_each(adam, gradient, state.opt_state, state.parameter, trained)
    if variant == 'paper':     # the active tasks share what they had together: over all tasks the sum stays T
      total = jnp.sum(jnp.where(trained, state.parameter, 0))
      moved = jnp.where(trained, jnp.maximum(parameter, 0), 0)
      scale = total / jnp.maximum(jnp.sum(moved), jnp.finfo(moved.dtype).tiny)
      parameter = _common.keep(trained & (jnp.sum(moved) > 0), moved * scale, state.parameter)
    state = state._replace(parameter=parameter, opt_state=opt_state, step=state.step + 1)
    return w.astype(losses.dtype), state

  def scalarise(losses, state, active):
    return _common.weighted_sum(share_out(state.parameter, active, variant), _common.clean(losses, active))

  return base.from_weights(weights, name=name, needs='gramian', init=init, scalarise=scalarise,
                           scale_heads=scale_heads, layer=layer)
