"""CoBa: convergence balancer; tasks converge at the same pace on held-out data, and those that diverge are damped.

Gong et al., "CoBa: Convergence Balancer for Multitask Finetuning of Large Language Models", EMNLP 2024,
https://arxiv.org/abs/2410.06741.

    r_t(s) = validation loss of task t at step s / that at its first step
    alpha_t(s) = least-squares slope of r_t over the last N steps,    alpha_max = max_t alpha_t
    RCS = softmax_t(T alpha_t / sum_i |alpha_i|)                       slow or rising: more
    ACS = softmax_t(-N alpha_t / sum_{u = s-N+1..s} |alpha_t(u)|)      rising against its own past: less
    DF = min(1, s softmax_u(-temperature s alpha_max(u) / sum_{v <= s} |alpha_max(v)|)[u = s])
    w = DF RCS + (1 - DF) ACS

w, RCS, ACS: [T], sum 1; DF: scalar. w is uniform in the first `warmup` steps, after which slopes begin to be recorded:
s counts recorded steps, and N those of them that the window holds. A validation loss of 0 or none (NaN) is left out.
DF weighs all recorded alpha_max anew at each step. In arrays of fixed length they are kept one by one up to `memory`,
then as pairs, fours and so on, each by its mean and variance: DF is exact for almost twice `memory` steps, then close.
With `official_code`, as in https://github.com/codefuse-ai/MFTCoder: alpha_max is the slope of max_t r_t, DF is not cut
at 1, w = softmax(T (DF RCS + (1 - DF) ACS)), and if a weight is below m = 1 / (10 T), w becomes w (1 - T m) + m.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.weightings import _common, _history


class Trend(NamedTuple):
  """All values of a series so far, as M groups of consecutive ones.

  Attributes:
    means: [M].
    variances: [M].
    sizes: [M], how many values each group holds.
    stride: int32, how many a full group holds.
    total: scalar, the sum of |value|.
    last: scalar, the latest value.
    count: int32, values so far.
  """
  means: jax.Array
  variances: jax.Array
  sizes: jax.Array
  stride: jax.Array
  total: jax.Array
  last: jax.Array
  count: jax.Array


class CoBaState(NamedTuple):
  """The histories.

  Attributes:
    initial: [T], the first validation loss of each task.
    ratios: the last N r_t.
    slopes: the last N alpha_t.
    peaks: the last N max_t r_t, a window of one row.
    trend: all alpha_max.
  """
  initial: jax.Array
  ratios: _history.Window
  slopes: _history.Window
  peaks: _history.Window
  trend: Trend


def relative_score(slopes: jax.Array, active: jax.Array) -> jax.Array:
  """RCS: alpha [T] -> [T]."""
  return jax.nn.softmax(_history.relative(slopes, active), where=active)


def absolute_score(slopes: jax.Array, past: jax.Array, active: jax.Array) -> jax.Array:
  """ACS: alpha [T], the mean of |alpha| over its window [T] -> [T]."""
  return jax.nn.softmax(jnp.where(past > 0, -slopes / jnp.where(past > 0, past, 1), 0), where=active)


def empty_trend(length: int) -> Trend:
  """A trend of M groups, without values."""
  none = jnp.zeros(length)
  return Trend(none, none, none, jnp.ones((), jnp.int32), jnp.zeros(()), jnp.zeros(()), jnp.zeros((), jnp.int32))


def extend(trend: Trend, value: jax.Array) -> Trend:
  """The trend with one value more."""
  length, value = trend.means.shape[0], value.astype(trend.means.dtype)
  slot = jax.nn.one_hot(jnp.argmax(trend.sizes < trend.stride), length, dtype=bool)
  sizes = jnp.where(slot, trend.sizes + 1, trend.sizes)
  means = jnp.where(slot, trend.means + (value - trend.means) / sizes.clip(1), trend.means)
  squares = trend.variances * trend.sizes + (value - trend.means) * (value - means)
  variances = jnp.where(slot, squares / sizes.clip(1), trend.variances)

  def pairs(x):
    return jnp.concatenate([x.reshape(-1, 2).mean(axis=1), jnp.zeros(length // 2, x.dtype)])

  full, halved = jnp.all(sizes >= trend.stride), pairs(means)
  around = variances + (means - jnp.repeat(halved[:length // 2], 2)) ** 2
  means, variances, sizes, stride = jax.tree.map(
    lambda new, old: jnp.where(full, new, old), (halved, pairs(around), 2 * pairs(sizes), 2 * trend.stride),
    (means, variances, sizes, trend.stride))
  return Trend(means, variances, sizes, stride, trend.total + jnp.abs(value), value, trend.count + 1)


def divergence_factor(trend: Trend, temperature: float) -> jax.Array:
  """s softmax_u(...)[u = s], without the cut at 1; 1 where nothing moved yet.

  A group stands for two values, mean +- deviation, half of its size each.
  """
  count = trend.count.astype(trend.means.dtype)
  sharpness = temperature * count / jnp.where(trend.total > 0, trend.total, 1)
  deviation = jnp.sqrt(trend.variances)
  points = jnp.stack([trend.means - deviation, trend.means + deviation])
  sizes = jnp.stack([trend.sizes, trend.sizes]) / 2
  log_sum = jax.nn.logsumexp(-sharpness * points, b=sizes, where=sizes > 0)
  return jnp.where(count > 0, jnp.exp(jnp.log(jnp.maximum(count, 1)) - sharpness * trend.last - log_sum), 1)


def blend(rcs: jax.Array, acs: jax.Array, factor: jax.Array, active: jax.Array, official_code: bool) -> jax.Array:
  """w [T] of the scores [T] and DF."""
  if not official_code:
    factor = jnp.minimum(factor, 1)
    return factor * rcs + (1 - factor) * acs
  num_tasks = jnp.maximum(jnp.sum(active, dtype=rcs.dtype), 1)
  w = jax.nn.softmax(num_tasks * (factor * rcs + (1 - factor) * acs), where=active)
  least = 1 / (10 * num_tasks)
  return jnp.where(jnp.any(active & (w < least)), jnp.where(active, w * (1 - num_tasks * least) + least, 0), w)


def coba(window: int = 200, warmup: int = 100, temperature: float = 5.0, official_code: bool = False, *,
         memory: int = 1024, scale_heads: bool = True) -> base.Aggregator:
  """CoBa, as an optax transform of stacked gradients; `update` wants validation_losses=[T], one held-out batch a step.

  `scalarise` has the weights of a step at the state *after* it, which has seen the step's validation losses.

  Args:
    window: N, 2 to 5 times `warmup`.
    warmup: W, steps of uniform weights; about the number of validation batches.
    temperature: tau, how soon divergence turns DF down.
    official_code: see above.
    memory: how many groups of alpha_max are kept; even.
    scale_heads: whether the weights multiply the gradients of task-owned parameters too.

  Example:
    >>> import jax.numpy as jnp, mtjax, optax
    >>> tx = optax.chain(mtjax.optim.coba(), optax.sgd(1.0))
    >>> l = jnp.ones(2)
    >>> updates, _ = tx.update({'w': jnp.eye(2)}, tx.init({'w': jnp.zeros(2)}), losses=l, validation_losses=l)
    >>> updates['w'].tolist()
    [-0.5, -0.5]
  """
  name = 'coba'
  for field, value, low in (('window', window, 2), ('warmup', warmup, 0), ('memory', memory, 2)):
    if not isinstance(value, int) or value < low or (field == 'memory' and value % 2):
      raise ValueError(f'{name}: {field} must be {"an even" if field == "memory" else "a whole"} number >= {low}, got '
                       f'{value!r}.')
  check_number(temperature, name, 'temperature', 0)

  def init(num_tasks):
    return CoBaState(jnp.zeros(num_tasks), _history.empty(num_tasks, window), _history.empty(num_tasks, window),
                     _history.empty(1, window), empty_trend(memory))

  def record(state, values, measured):
    """The state after one more validation loss of the measured tasks."""
    initial = _common.keep(measured & (state.ratios.count == 0), values, state.initial)
    r = jnp.where(measured, values / jnp.where(measured, initial, 1), 0)
    ratios = _history.push(state.ratios, r, measured)
    slopes = _history.slopes(ratios)
    ready = measured & (ratios.count > warmup)
    peak = jnp.max(jnp.where(measured, r, -jnp.inf), keepdims=True)
    peaks = _history.push(state.peaks, peak, jnp.any(measured, keepdims=True))
    top = _history.slopes(peaks)[0] if official_code else jnp.max(jnp.where(ready, slopes, -jnp.inf))
    longer = extend(state.trend, jnp.where(jnp.any(ready), top, 0))
    trend = jax.tree.map(lambda new, old: jnp.where(jnp.any(ready), new, old), longer, state.trend)
    return CoBaState(initial, ratios, _history.push(state.slopes, slopes, ready), peaks, trend)

  def omega(state, active):
    ready = active & (state.slopes.count > 0)
    slopes = _history.latest(state.slopes)
    rcs, acs = relative_score(slopes, ready), absolute_score(slopes, _history.mean_size(state.slopes), ready)
    w = blend(rcs, acs, divergence_factor(state.trend, temperature), ready, official_code)
    return _history.uniform_until(ready, w, active)

  def weights(state, info):
    losses = _common.losses_of(info, name)
    values, measured = _common.validation_losses_of(info, name)
    state = record(state, values, measured & (values > 0))
    return omega(state, info.mask).astype(losses.dtype), state

  def scalarise(losses, state, active):
    return _common.weighted_sum(omega(state, active), _common.clean(losses, active))

  return base.from_weights(weights, name=name, needs='losses', init=init, scalarise=scalarise, scale_heads=scale_heads,
                           observes='validation_losses')
