"""The ordinal head: thresholds in order, and probabilities that are ones."""
import jax
import numpy as np
import pytest

from mtjax import heads
from mtjax.context import Features
from mtjax.heads import ordinal

FEATURES = Features(pooled=np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32))


def probabilities(log_odds):
  """log-odds of y > k [B, C - 1] -> P(y = k) [B, C]."""
  above = 1 / (1 + np.exp(-np.asarray(log_odds, np.float64)))
  above = np.pad(above, [(0, 0), (1, 1)], constant_values=[(0, 0), (1, 0)])
  return above[:, :-1] - above[:, 1:]


def test_thresholds_by_hand():
  # softplus(log(e - 1)) = 1, softplus(log(e^2 - 1)) = 2: from -1 by steps of 1 and 2.
  gaps = np.log(np.expm1(np.array([1.0, 2.0], np.float32)))
  np.testing.assert_allclose(ordinal.thresholds(np.array([-1.0], np.float32), gaps), [-1, 0, 2], atol=1e-6)


def test_thresholds_increase_whatever_the_parameters():
  rng = np.random.default_rng(0)
  for scale in (0.1, 1.0, 10.0):
    first, gaps = rng.normal(scale=scale, size=1), rng.normal(scale=scale, size=6)
    assert (np.diff(ordinal.thresholds(first.astype(np.float32), gaps.astype(np.float32))) > 0).all()


@pytest.mark.parametrize('classes', [2, 3, 7])
def test_starts_with_equal_classes_at_score_zero(classes):
  head = heads.Ordinal(classes=classes)
  variables = jax.device_get(head.init(jax.random.key(0), FEATURES))
  variables['params']['out']['kernel'] = np.zeros((3, 1), np.float32)
  np.testing.assert_allclose(probabilities(head.apply(variables, FEATURES)), 1 / classes, atol=1e-6)


def test_odds_are_proportional_and_fall_with_k():
  head = heads.Ordinal(classes=4)
  variables = head.init(jax.random.key(0), FEATURES)
  log_odds = np.asarray(head.apply(variables, FEATURES))
  assert (np.diff(log_odds, axis=1) < 0).all()
  np.testing.assert_allclose(np.diff(log_odds, axis=1) - np.diff(log_odds[:1], axis=1), 0, atol=1e-6)
  p = probabilities(log_odds)
  assert (p > 0).all()
  np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
  higher = p[np.argsort(log_odds[:, 0])] @ np.arange(4)
  assert (np.diff(higher) > 0).all()      # a larger score, a higher class
