"""MoCo: by hand, by its limit, and both variants against a plain loop."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stateful

from mtjax import optim
from mtjax.optim.aggregators.moco import moco_weights

RNG = np.random.default_rng(2)
JACS, LOSSES = RNG.normal(size=(5, 3, 6)), RNG.uniform(0.5, 2, size=(5, 3))


def run(tx):
  """[(d, w, state)] of the steps, in float64."""
  with jax.enable_x64(True):
    state, out = tx.init(stateful.as_tree(np.zeros(6), jnp.float64), 3), []
    step = jax.jit(lambda jac, state, losses: tx.aggregate(jac, state, losses=losses))
    for jac, losses in zip(JACS, LOSSES):
      d, w, state = step(stateful.as_tree(jac, jnp.float64), state, jnp.asarray(losses))
      out.append((stateful.as_matrix(d), np.asarray(w), state.inner))
    return out


def test_one_step_by_hand():
  gram, w, both = jnp.array(stateful.A @ stateful.A.T / 100), jnp.array([0.5, 0.5]), jnp.ones(2, bool)
  # G w = (-.02, .08): w - .1 G w = (.502, .492), which sums to .994, so .003 more for each.
  np.testing.assert_allclose(moco_weights(gram, w, both, 0.1, 0.0), [0.505, 0.495], atol=1e-6)
  # softmax(.502, .492) = 1 / (1 + exp(-.01)) and the rest
  np.testing.assert_allclose(moco_weights(gram, w, both, 0.1, 0.0, 'libmtl'), [0.5025, 0.4975], atol=1e-6)


def test_beta_one_tracks_the_last_gradient():
  for (d, w, state), jac in zip(run(optim.moco(beta=1.0, sigma=0.0)), JACS):
    np.testing.assert_array_equal(stateful.as_matrix(state.tracked, (3,)), jac)
    np.testing.assert_allclose(d, w @ jac, atol=1e-12)


@pytest.mark.parametrize('variant', ['paper', 'libmtl'])
def test_against_a_loop(variant):
  y, w = np.zeros((3, 6)), np.full(3, 1 / 3)
  steps = run(optim.moco(beta=0.6, gamma=0.3, sigma=0.5, rho=0.2, variant=variant))
  for k, ((d, weights, state), jac, losses) in enumerate(zip(steps, JACS, LOSSES), start=1):
    if variant == 'libmtl':
      jac = jac / np.linalg.norm(jac, axis=1, keepdims=True) * losses[:, None]
    y = y - 0.6 / k**0.5 * (y - jac)
    moved = w - 0.3 / k**0.5 * (y @ y.T + 0.2 * np.eye(3)) @ w
    w = stateful.simplex(moved) if variant == 'paper' else np.exp(moved) / np.exp(moved).sum()
    np.testing.assert_allclose(stateful.as_matrix(state.tracked, (3,)), y, atol=1e-12)   # float64
    np.testing.assert_allclose(weights, w, atol=1e-12)
    np.testing.assert_allclose(d, w @ y, atol=1e-12)
    assert int(state.count) == k


def test_an_absent_task_keeps_what_was_tracked():
  tx, active = optim.moco(), jnp.array([True, False, True])
  _, state = tx.update(stateful.as_tree(JACS[0]), tx.init(stateful.as_tree(np.zeros(6))))
  before = stateful.as_matrix(state.inner.tracked, (3,))
  _, state = tx.update(stateful.as_tree(JACS[1]), state, active=active)
  after = stateful.as_matrix(state.inner.tracked, (3,))
  np.testing.assert_array_equal(after[1], before[1])
  assert (after[[0, 2]] != before[[0, 2]]).all()
