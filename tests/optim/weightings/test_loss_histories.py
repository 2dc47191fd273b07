"""Weightings by the course of the losses, against loops in numpy."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trajectories import follow, positive, softmax

import mtjax.optim
from mtjax.optim import Info
from mtjax.optim.weightings import _history
from mtjax.optim.weightings.coba import absolute_score, blend, divergence_factor, empty_trend, extend, relative_score
from mtjax.optim.weightings.dwa import dwa_weights
from mtjax.optim.weightings.self_paced import self_paced_weights

EXACT = dict(rtol=1e-9, atol=1e-12)    # float64 against float64


def test_dwa_by_hand():
  w = dwa_weights(jnp.array([0.5, 1.0, 0.8]), 2.0, jnp.ones(3, bool))
  np.testing.assert_allclose(w, [0.87061, 1.11789, 1.01150], atol=5e-6)    # the card's five digits


@pytest.mark.parametrize('told', [False, True])
def test_dwa_in_numpy(told):
  length, losses = 3, positive((14, 3))
  ends = np.arange(14) % length == length - 1
  if told:
    w, _ = follow(mtjax.optim.dwa(temperature=0.5), losses, epoch_end=ends)
  else:
    w, _ = follow(mtjax.optim.dwa(0.5, steps_per_epoch=length), losses)
  means = losses[:12].reshape(4, 3, 3).mean(axis=1)
  for k in range(14):
    epoch = k // length
    expected = np.ones(3) if epoch < 2 else 3 * softmax(means[epoch - 1] / means[epoch - 2] / 0.5)
    np.testing.assert_allclose(w[k], expected, **EXACT)


def test_dwa_averages_over_the_steps_a_task_took_part_in():
  losses, active = positive((6, 2)), np.ones((6, 2), bool)
  active[[1, 2], 1] = False    # task 1 has one loss in each of the first two epochs, the last step of epoch 0 is not its own
  losses[~active] = np.nan
  w, states = follow(mtjax.optim.dwa(steps_per_epoch=2), losses, active=active)
  r = np.array([losses[2:4, 0].mean() / losses[:2, 0].mean(), losses[3, 1] / losses[0, 1]])
  np.testing.assert_allclose(w[4], 2 * softmax(r / 2), **EXACT)
  assert states.epochs[-1].tolist() == [3, 3] and states.counts[-1].tolist() == [0, 0]


def test_dwa_takes_a_newcomer_for_one_that_stands_still():
  losses, active = positive((8, 2)), np.ones((8, 2), bool)
  active[:4, 1] = False
  w, _ = follow(mtjax.optim.dwa(steps_per_epoch=2), losses, active=active)
  r = np.array([losses[2:4, 0].mean() / losses[:2, 0].mean(), 1])
  np.testing.assert_allclose(w[4], 2 * softmax(r / 2), **EXACT)


def test_slope_by_hand():
  values = jnp.array([[3.0, 2.0, 1.0, 0.0], [1.0, 5.0, 0.0, 0.0], [7.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
  window = _history.Window(values, jnp.array([3, 2, 1, 0], jnp.int32))
  slopes, latest, size = jax.jit(lambda w: (_history.slopes(w), _history.latest(w), _history.mean_size(w)))(window)
  np.testing.assert_allclose(slopes, [-1, 4, 0, 0], rtol=1e-6)    # 3, 2, 1 at 0, 1, 2 => -1
  np.testing.assert_allclose(latest, [1, 5, 7, 0])
  np.testing.assert_allclose(size, [2, 3, 7, 0])
  holes = _history.Window(jnp.array([[4.0, 0.0, 2.0, 0.0]]), jnp.array([4], jnp.int32))
  np.testing.assert_allclose(jax.jit(lambda w: _history.slopes(w, without_zeros=True))(holes), [-1], rtol=1e-6)    # 4 and 2, two steps apart


def test_window_in_numpy():
  values = positive((11, 2)) - 1
  chosen = np.random.default_rng(1).random((11, 2)) < 0.7
  kept = [[], []]
  push = jax.jit(lambda window, new, chosen: (lambda w: (w, _history.slopes(w), _history.latest(w)))(
    _history.push(window, new, chosen)))
  window = _history.empty(2, 4)
  for new, mask in zip(values, chosen):
    window, slopes, latest = push(window, new, mask)
    for t in np.flatnonzero(mask):
      kept[t].append(new[t])
    for t in (0, 1):
      last = kept[t][-4:]
      np.testing.assert_allclose(slopes[t], np.polyfit(range(len(last)), last, 1)[0] if len(last) > 1 else 0,
                                 rtol=1e-4, atol=1e-6)    # float32
      np.testing.assert_allclose(latest[t], last[-1] if last else 0, rtol=1e-6)


def test_self_paced_in_numpy():
  length, validation = 4, positive((10, 3))
  validation[5, 1] = 0.0    # left out of the fit, and so is NaN
  given = validation.copy()
  given[5, 1] = np.nan
  w, _ = follow(mtjax.optim.self_paced(length, scale=3.0), positive((10, 3), 2), validation_losses=validation)
  same, _ = follow(mtjax.optim.self_paced(length, scale=3.0), positive((10, 3), 2), validation_losses=given)
  np.testing.assert_array_equal(w, same)
  for k in range(10):
    if k < length:
      np.testing.assert_allclose(w[k], 1 / 3, **EXACT)
      continue
    slopes = np.zeros(3)
    for t in range(3):
      steps = [s for s in range(k - length + 1, k + 1) if validation[s, t] != 0]
      slopes[t] = np.polyfit(steps, validation[steps, t], 1)[0]
    n = 3 * slopes / np.abs(slopes).sum()
    np.testing.assert_allclose(w[k], softmax(3.0 * softmax(n) * -n), **EXACT)


def test_self_paced_is_uniform_where_nothing_moves():
  weights = jax.jit(lambda slopes: self_paced_weights(slopes, 50.0, jnp.ones(4, bool)))
  np.testing.assert_allclose(weights(jnp.zeros(4)), 0.25)
  falling = weights(jnp.array([-0.1, 0.1, 0.0, 0.1]))
  assert falling[0] > 0.8 and falling[1] < 1e-6    # what still falls gets the weight


def test_scores_of_coba_by_hand():
  both = jnp.ones(2, bool)    # T a / sum |a| = (-4/3, -2/3)
  np.testing.assert_allclose(relative_score(jnp.array([-0.2, -0.1]), both), [0.3392, 0.6608], atol=5e-5)
  np.testing.assert_allclose(absolute_score(jnp.array([-0.2, 0.1]), jnp.array([0.2, 0.1]), both), softmax(np.array([1, -1])), rtol=1e-6)
  # Equal constant slopes: all is uniform.
  three, same = jnp.ones(3, bool), jnp.full(3, -0.3)
  rcs, acs = relative_score(same, three), absolute_score(same, -same, three)
  np.testing.assert_allclose([rcs, acs], np.full((2, 3), 1 / 3), rtol=1e-6)
  for official_code in (False, True):
    np.testing.assert_allclose(blend(rcs, acs, jnp.array(0.4), three, official_code), 1 / 3, rtol=1e-6)
  w = blend(jnp.array([1.0, 0.0]), jnp.array([1.0, 0.0]), jnp.array(1.0), both, True)    # softmax(2, 0) = (.88, .12): above 1/20
  np.testing.assert_allclose(w, softmax(np.array([2, 0])), rtol=1e-6)
  w = blend(jnp.array([3.0, -1.0]), jnp.array([0.0, 0.0]), jnp.array(1.0), both, True)
  np.testing.assert_allclose(w, softmax(np.array([6, -2])) * 0.9 + 0.05, rtol=1e-6)
  np.testing.assert_allclose(blend(jnp.array([0.9, 0.1]), jnp.array([0.2, 0.8]), jnp.array(1.7), both, False), [0.9, 0.1])


def divergence_in_numpy(series, tau):
  s = len(series)
  return s * softmax(-tau * s * np.array(series) / np.abs(series).sum())[-1]


def test_divergence_factor_is_exact_up_to_its_memory_and_close_beyond():
  series = np.sin(np.linspace(0, 4, 60)) * 0.01 - 0.005    # slopes of 200 steps change slowly
  step = jax.jit(lambda trend, x: (lambda new: (new, divergence_factor(new, 5.0)))(extend(trend, x)))
  whole, short = empty_trend(64), empty_trend(16)
  assert jax.jit(divergence_factor)(whole, 5.0) == 1    # nothing recorded yet
  for k, x in enumerate(series):
    whole, exact = step(whole, jnp.asarray(x))
    short, close = step(short, jnp.asarray(x))
    expected = divergence_in_numpy(series[:k + 1], 5.0)
    np.testing.assert_allclose(exact, expected, rtol=1e-4)    # float32
    np.testing.assert_allclose(close, expected, rtol=1e-4 if k < 31 else 0.06)    # then 8 groups of 4
  assert int(short.count) == 60 and int(short.sizes.sum()) == 60 and int(short.stride) == 4
  constant = empty_trend(16)
  for _ in range(3):
    constant, factor = step(constant, jnp.asarray(-0.2))
    np.testing.assert_allclose(factor, 1, rtol=1e-6)


@pytest.mark.parametrize('official_code', [False, True])
def test_coba_in_numpy(official_code):
  window, warmup, tau, steps = 5, 3, 2.0, 14
  trend = np.linspace(1, [0.2, 0.8, 1.5], steps)    # one falls, one hardly, one rises
  validation = trend + 0.1 * positive((steps, 3))
  w, states = follow(mtjax.optim.coba(window, warmup, tau, official_code), positive((steps, 3), 2), validation_losses=validation)
  r, past, tops = validation / validation[0], [], []
  for k in range(steps):
    if k < warmup:
      np.testing.assert_allclose(w[k], 1 / 3, **EXACT)
      continue
    last = slice(max(0, k - window + 1), k + 1)
    x = np.arange(k + 1)[last]
    alpha = np.array([np.polyfit(x, r[last, t], 1)[0] for t in range(3)])
    past.append(alpha)
    tops.append(np.polyfit(x, r[last].max(axis=1), 1)[0] if official_code else alpha.max())
    rcs = softmax(3 * alpha / np.abs(alpha).sum())
    recent = np.abs(past[-window:])
    acs = softmax(-len(recent) * alpha / recent.sum(axis=0))
    df = divergence_in_numpy(tops, tau)
    if official_code:
      expected = softmax(3 * (df * rcs + (1 - df) * acs))
      if (expected < 1 / 30).any():
        expected = expected * (1 - 3 / 30) + 1 / 30
    else:
      df = min(df, 1)
      expected = df * rcs + (1 - df) * acs
    np.testing.assert_allclose(w[k], expected, **EXACT)
    np.testing.assert_allclose(w[k].sum(), 1, rtol=1e-9)
  assert states.trend.count[-1] == steps - warmup


def test_coba_damps_what_diverges():
  steps = 40
  falling = np.linspace(1, 0.5, steps)
  turning = np.where(np.arange(steps) < 20, falling, falling[20] + 0.03 * np.arange(-20, steps - 20))
  w, _ = follow(mtjax.optim.coba(window=10, warmup=5), np.ones((steps, 2)), validation_losses=np.stack([falling, turning], 1))
  np.testing.assert_allclose(w[10:19], 0.5, atol=1e-6)    # as long as both fall at one rate
  assert w[-1, 1] < 0.3
  slow, _ = follow(mtjax.optim.coba(window=10, warmup=5), np.ones((steps, 2)),
                   validation_losses=np.stack([falling, 0.5 + falling / 2], 1))
  assert slow[-1, 1] > 0.6    # the one that falls more slowly is helped


@pytest.mark.parametrize('tx', [mtjax.optim.coba(4, 1), mtjax.optim.self_paced(2)])
def test_a_task_that_was_not_measured_keeps_its_history(tx):
  validation = positive((6, 2))
  gap = np.insert(validation, 3, [[np.nan, np.nan]], axis=0)
  w, _ = follow(tx, np.ones((6, 2)), validation_losses=validation, active=np.ones((6, 2), bool))
  later, _ = follow(tx, np.ones((7, 2)), validation_losses=gap, active=np.array([[True, True]] * 3 + [[False, False]] + [[True, True]] * 3))
  np.testing.assert_allclose(later[[0, 1, 2, 4, 5, 6]], w, **EXACT)


def test_a_task_without_a_history_has_its_equal_share():
  tx = mtjax.optim.coba(window=4, warmup=2, memory=4)
  validation = positive((6, 3))
  validation[:4, 2] = np.nan
  w, states = follow(tx, np.ones((6, 3)), validation_losses=validation)
  np.testing.assert_allclose(w[3:, 2], 1 / 3, **EXACT)
  np.testing.assert_allclose(w.sum(axis=1), 1, rtol=1e-9)
  assert states.ratios.count[-1].tolist() == [6, 6, 2] and (w[3, :2] != 1 / 3).all()


def test_scalarise_has_the_weights_of_the_step():
  tx = mtjax.optim.self_paced(2)
  state = tx.init({})
  for v in positive((5, 2)):
    w, state = tx.weights(state, Info(losses=jnp.ones(2), validation_losses=jnp.asarray(v)))
  assert (w != 0.5).all()
  np.testing.assert_allclose(tx.scalarise(jnp.array([1.0, 10.0]), state), w @ jnp.array([1.0, 10.0]), rtol=1e-6)
