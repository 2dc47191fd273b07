import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax import losses
from mtjax.losses.masking import sanitise
from mtjax.losses.ordinal import log_probabilities


def test_cross_entropies_by_hand():
  logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
  np.testing.assert_allclose(losses.softmax_xent(logits, jnp.array([1, 2])), -np.log([0.2, 0.5]), rtol=1e-6)
  smooth = losses.softmax_xent(logits, jnp.array([1, 2]), label_smoothing=0.3)
  target = 0.7 * np.eye(3)[[1, 2]] + 0.1
  np.testing.assert_allclose(smooth, losses.soft_xent(logits, jnp.asarray(target)), rtol=1e-5)
  np.testing.assert_allclose(losses.soft_xent(logits, jnp.eye(3)[jnp.array([1, 2])]), -np.log([0.2, 0.5]), rtol=1e-6)


def test_sigmoid_is_the_mean_over_known_labels():
  logits, label = jnp.array([[0.0, 100.0], [3.0, -100.0]]), jnp.array([[1, 0], [1, 0]])
  all_known = losses.sigmoid_xent(logits, label)
  np.testing.assert_allclose(all_known, [(np.log(2) + 100) / 2, np.log1p(np.exp(-3)) / 2], rtol=1e-5)
  some = losses.sigmoid_xent(logits, label, mask=jnp.array([[True, False], [False, False]]))
  np.testing.assert_allclose(some, [np.log(2), 0.0], rtol=1e-6)
  np.testing.assert_allclose(losses.sigmoid_xent(jnp.zeros(2), jnp.array([0, 1])), np.log([2, 2]), rtol=1e-6)


def test_errors_of_numbers_by_hand():
  f, y = jnp.array([[1.0, 2.0], [0.0, 4.0]]), jnp.array([[0.0, 2.0], [0.0, 0.0]])
  np.testing.assert_allclose(losses.mse(f, y), [0.5, 8.0])
  np.testing.assert_allclose(losses.mae(f, y), [0.5, 2.0])
  np.testing.assert_allclose(losses.huber(f, y, delta=2.0), [0.25, (2 * (4 - 1)) / 2])
  known = jnp.array([[True, False], [False, False]])
  np.testing.assert_allclose(losses.mse(f, y, mask=known), [1.0, 0.0])
  np.testing.assert_allclose(losses.mae(jnp.array([1.0, -2.0]), jnp.zeros(2)), [1.0, 2.0])
  with pytest.raises(ValueError, match=r'Outputs have shape \[2\], but labels \[2, 1\]'):
    losses.mse(jnp.zeros(2), jnp.zeros((2, 1)))


@given(st.lists(st.floats(-6, 6), min_size=2, max_size=6, unique=True))
@settings(max_examples=30, deadline=None)
def test_ordinal_is_a_difference_of_sigmoids(odds):
  odds = -np.sort(-np.asarray(odds))
  if np.diff(odds).max() > -1e-2:
    return
  above = np.concatenate([[1.0], 1 / (1 + np.exp(-odds)), [0.0]])
  p = np.exp(np.asarray(log_probabilities(jnp.asarray(odds, jnp.float32))))
  np.testing.assert_allclose(p, above[:-1] - above[1:], rtol=2e-4, atol=1e-6)
  np.testing.assert_allclose(p.sum(), 1, rtol=1e-5)


@pytest.mark.parametrize('shift', [-80.0, -50.0, 0.0, 50.0, 80.0])
def test_ordinal_is_finite_however_sure(shift):
  odds = jnp.array([2.0, 1.0, -1.0]) + shift
  for label in range(4):
    value, gradient = jax.value_and_grad(lambda o: losses.ordinal_nll(o[None], jnp.array([label]))[0])(odds)  # noqa: B023
    assert np.isfinite(value) and np.isfinite(gradient).all()
  equal = jax.grad(lambda o: losses.ordinal_nll(o[None], jnp.array([1]))[0])(jnp.array([1.0, 1.0]))
  assert np.isfinite(equal).all()


def test_garbage_behind_a_mask_has_no_gradient():
  mask = jnp.array([True, False])
  label = sanitise(jnp.array([1.0, jnp.nan]), mask)
  gradient = jax.grad(lambda f: jnp.sum(jnp.where(mask, losses.mse(f, label), 0)))(jnp.array([2.0, 5.0]))
  np.testing.assert_allclose(gradient, [2.0, 0.0])
  assert sanitise(jnp.array([[3, -1], [-1, -1]]), jnp.array([True, False])).tolist() == [[3, -1], [0, 0]]


@pytest.mark.parametrize('loss, label', [(losses.softmax_xent, jnp.array([1])), (losses.mse, jnp.ones((1, 3))),
                                         (losses.sigmoid_xent, jnp.ones((1, 3))), (losses.ordinal_nll, jnp.array([1])),
                                         (losses.soft_xent, jnp.ones((1, 3)) / 3)])
def test_losses_are_float32_in_bfloat16(loss, label):
  outputs = jnp.array([[2.0, 1.0, 0.5]], jnp.bfloat16)
  assert loss(outputs, label).dtype == jnp.float32
