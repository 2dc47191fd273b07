"""SDMGrad and MoDo: by hand, by their limits, and against plain loops on two batches."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stateful

from mtjax import optim
from mtjax.optim.aggregators.modo import modo_weights
from mtjax.optim.aggregators.sdmgrad import sdmgrad_weights, unit_scale

RNG = np.random.default_rng(1)
JACS = RNG.normal(size=(5, 3, 6))
OTHERS = JACS + 0.3 * RNG.normal(size=JACS.shape)     # another batch of the same tasks
EQUAL, BOTH = np.full(2, 0.5), np.ones(2, bool)


def run(tx, jacs=JACS, others=OTHERS):
  """[(d, w)] of the steps, in float64."""
  with jax.enable_x64(True):
    state, out = tx.init(stateful.as_tree(np.zeros(6), jnp.float64), len(jacs[0])), []
    step = jax.jit(tx.aggregate)
    for jac, other in zip(jacs, others):
      d, w, state = step(stateful.as_tree(jac, jnp.float64), state, jac_other=stateful.as_tree(other, jnp.float64))
      out.append((stateful.as_matrix(d), np.asarray(w)))
    return out


def test_sdmgrad_by_hand():
  # A / (mean sqrt(A_tt))^2 with sqrt(18) and sqrt(38), squared mean 27.0767; A w = (-2, 8), over it (-.07386, .29546).
  # One step of rate 1 from (.5, .5): (.57386, .20454), projected by adding .11080 to both.
  w = sdmgrad_weights(jnp.array(stateful.A @ stateful.A.T), jnp.array(EQUAL), jnp.array(EQUAL), jnp.array(BOTH),
                      lambda_=0.0, learning_rate=1.0, momentum=0.0, num_iters=1)
  np.testing.assert_allclose(w, [0.68466, 0.31534], atol=1e-5)


def test_sdmgrad_against_a_loop_on_two_batches():
  preference, lambda_ = np.array([0.5, 0.3, 0.2]), 0.7
  w = np.full(3, 1 / 3)
  tx = optim.sdmgrad(lambda_, learning_rate=0.1, momentum=0.4, num_iters=7, preference=tuple(5 * preference))
  assert tx.double_sampling and tx.needs == 'gramian'
  for (d, weights), jac, other in zip(run(tx), JACS, OTHERS):
    a = jac @ other.T
    a = a / np.mean(np.sqrt(np.maximum(np.diag(a), 0))) ** 2
    velocity = 0
    for _ in range(7):
      velocity = 0.4 * velocity + a @ (w + lambda_ * preference)
      w = stateful.simplex(w - 0.1 * velocity)
    assert (w > 0).sum() > 1                                         # not stuck in a corner
    expected = (w + lambda_ * preference) / (1 + lambda_)
    np.testing.assert_allclose(weights, expected, atol=1e-12)        # float64
    np.testing.assert_allclose(d, expected @ jac, atol=1e-12)


def test_sdmgrad_limits():
  eye = jnp.eye(3)
  third = jnp.full(3, 1 / 3)
  w = sdmgrad_weights(eye, third, third, jnp.ones(3, bool), 0.3, 10.0, 0.5, 20)
  np.testing.assert_allclose(w, third, atol=1e-6)                    # A = I: nothing moves
  for _, w in run(optim.sdmgrad(lambda_=1e12)):
    np.testing.assert_allclose(w, 1 / 3, atol=1e-12)                 # lambda -> infinity: the mean
  # lambda = 0 and small steps: MGDA, whose weights on this matrix are (.6, .4).
  w = sdmgrad_weights(jnp.array(stateful.A @ stateful.A.T), jnp.array(EQUAL), jnp.array(EQUAL), jnp.array(BOTH),
                      lambda_=0.0, learning_rate=0.3, momentum=0.0, num_iters=200)
  np.testing.assert_allclose(w, [0.6, 0.4], atol=1e-5)


@pytest.mark.parametrize('scale', [1e-10, 1e-3, 1e10])
def test_sdmgrad_does_not_see_the_scale_of_the_gradients(scale):
  a = jnp.array(JACS[0] @ OTHERS[0].T, jnp.float32)
  active = jnp.ones(3, bool)
  np.testing.assert_allclose(unit_scale(a * scale**2, active), unit_scale(a, active), rtol=1e-5)    # float32
  # Two batches whose every row disagrees: the diagonal says nothing about the scale, the other entries do.
  assert np.isfinite(unit_scale(-scale**2 * jnp.ones((3, 3)), active)).all()


def test_modo_by_hand():
  gram = jnp.array(stateful.A @ stateful.A.T / 100)
  # w - .1 G w = (.502, .492), projected (.505, .495)
  np.testing.assert_allclose(modo_weights(gram, jnp.array(EQUAL), jnp.array(BOTH), gamma=0.1, rho=0.0), [0.505, 0.495],
                             atol=1e-6)
  # rho pulls together: from (.8, .2) with G = 0 it is (.8 - .04, .2 - .01), projected by adding .025.
  np.testing.assert_allclose(modo_weights(0 * gram, jnp.array([0.8, 0.2]), jnp.array(BOTH), gamma=0.1, rho=0.5),
                             [0.785, 0.215], atol=1e-6)


def test_modo_against_a_loop_on_two_batches():
  w = np.full(3, 1 / 3)
  tx = optim.modo(gamma=0.2, rho=0.1)
  assert tx.double_sampling
  for (d, weights), jac, other in zip(run(tx), JACS, OTHERS):
    w = stateful.simplex(w - 0.2 * (jac @ other.T @ w + 0.1 * w))
    np.testing.assert_allclose(weights, w, atol=1e-12)               # float64
    np.testing.assert_allclose(d, w @ jac, atol=1e-12)
  for _, weights in run(optim.modo(), np.broadcast_to(np.eye(3, 6), (3, 3, 6)), np.broadcast_to(np.eye(3, 6), (3, 3, 6))):
    np.testing.assert_allclose(weights, 1 / 3, atol=1e-12)           # A = I: nothing moves


@pytest.mark.parametrize('make', [optim.sdmgrad, optim.modo, optim.moco])
def test_heads_are_scaled_on_demand(make):
  w, info = jnp.array([0.25, 0.75]), optim.Info(losses=jnp.ones(2))
  np.testing.assert_array_equal(make().head_weights(w, info), [1, 1])
  np.testing.assert_array_equal(make(scale_heads=True).head_weights(w, info), w)
