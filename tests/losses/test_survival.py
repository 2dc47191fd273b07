"""The likelihood of discrete times: a distribution, by hand, and labels of times."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import experiment, losses

ODDS = np.random.default_rng(0).normal(size=(1, 4)).astype(np.float32)


def test_events_and_survival_are_a_distribution():
  h = 1 / (1 + np.exp(-ODDS[0].astype(np.float64)))
  labels = np.array([(k, 1) for k in range(4)] + [(4, 0)])
  p = np.exp(-np.asarray(losses.hazard_nll(np.repeat(ODDS, 5, axis=0), labels)))
  by_hand = [h[0], (1 - h[0]) * h[1], (1 - h[0]) * (1 - h[1]) * h[2]]
  np.testing.assert_allclose(p[:3], by_hand, rtol=1e-5)
  np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)
  curve = np.asarray(losses.survival_curve(ODDS))[0]
  np.testing.assert_allclose(curve, 1 - np.cumsum(p[:4]), atol=1e-6)


def test_censored_rows_say_what_they_survived():
  censored = np.exp(-np.asarray(losses.hazard_nll(np.repeat(ODDS, 5, axis=0), np.array([(k, 0) for k in range(5)]))))
  np.testing.assert_allclose(censored, [1, *np.asarray(losses.survival_curve(ODDS))[0]], rtol=1e-5)


def test_finite_however_sure():
  label = jnp.array([[0, 1], [2, 0]])
  value, gradient = jax.value_and_grad(lambda o: losses.hazard_nll(o, label).sum())(jnp.array([[-90.0, 90], [90, -90]]))
  assert np.isfinite(value) and np.isfinite(gradient).all()
  assert losses.hazard_nll(ODDS.astype(jnp.bfloat16), np.array([[1, 1]])).dtype == jnp.float32


def test_labels_of_times():
  label = losses.survival_intervals(np.array([0, 1, 1.99, 2, 5]), np.array([1, 1, 0, 1, 0]), ends=(1, 2))
  np.testing.assert_array_equal(label, [[0, 1], [1, 1], [1, 0], [2, 0], [2, 0]])
  for ends in ((), (0, 1), (2, 1)):
    with pytest.raises(ValueError, match='increasing numbers > 0'):
      losses.survival_intervals(np.zeros(1), np.zeros(1), ends)
  with pytest.raises(ValueError, match='events .* of 0 and 1'):
    losses.survival_intervals(np.zeros(1), np.full(1, 2), (1,))


def test_a_format_of_times():
  make = experiment.FORMATS.build(dict(name='survival_intervals', time='days', event='died', ends=(1.0, 2.0)), 'format')
  assert make.columns == ('days', 'died')
  got = make({'days': np.array([0.5, 1.5, 1.5, 9.0], np.float32), 'died': np.array([1, 1, 0, 1])})
  assert got.dtype == np.int32 and got.tolist() == [[0, 1], [1, 1], [1, 0], [2, 0]]


def test_shapes_are_named():
  with pytest.raises(ValueError, match=r'outputs \[B, K\] and labels \[B, 2\] .* \[1, 4\] and \[1\]'):
    losses.hazard_nll(ODDS, np.zeros(1, int))
