"""DB-MTL: invariance, equal norms, by hand, against autodiff of log(l) and a plain loop."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stateful

from mtjax import optim
from mtjax.optim.aggregators.db_mtl import db_mtl_weights

RNG = np.random.default_rng(3)
JACS, LOSSES = RNG.normal(size=(4, 3, 6)), RNG.uniform(0.5, 2, size=(4, 3))


def run(tx, jacs=JACS, losses=LOSSES):
  """[(d, w, state)] of the steps, in float64."""
  with jax.enable_x64(True):
    state, out = tx.init(stateful.as_tree(np.zeros(6), jnp.float64), 3), []
    step = jax.jit(lambda jac, state, losses: tx.aggregate(jac, state, losses=losses))
    for jac, loss in zip(jacs, losses):
      d, w, state = step(stateful.as_tree(jac, jnp.float64), state, jnp.asarray(loss))
      out.append((stateful.as_matrix(d), np.asarray(w), state.inner))
    return out


def test_by_hand():
  # n = (3, 8), l = (1, 4): n / l = (3, 2), the largest 3; w = 3 / n.
  w = db_mtl_weights(jnp.diag(jnp.array([9.0, 64.0])), jnp.array([1.0, 4.0]))
  np.testing.assert_allclose(w, [1.0, 3 / 8], rtol=1e-6)


def test_beta_zero_needs_the_gramian_only_and_holds_nothing():
  tx = optim.db_mtl()
  assert tx.needs == 'gramian' and not jax.tree.leaves(tx.init(stateful.as_tree(np.zeros(6)), 3))
  assert optim.db_mtl(beta=0.1).needs == 'jacobian'
  for (d, w, _), jac, losses in zip(run(tx), JACS, LOSSES):
    norms = np.linalg.norm(jac, axis=1)
    np.testing.assert_allclose(w, (norms / losses).max() / norms, rtol=1e-7)     # 1e-8 beside l
    np.testing.assert_allclose(d, w @ jac, rtol=1e-10)
    summands = np.linalg.norm(w[:, None] * jac, axis=1)
    np.testing.assert_allclose(summands, summands[0], rtol=1e-10)                # all rows of the sum have one norm


def test_scaled_losses_change_nothing():
  factors = np.array([1e-2, 1.0, 1e3])
  scaled = run(optim.db_mtl(), JACS * factors[:, None], LOSSES * factors)
  for (d, _, _), (other, _, _) in zip(run(optim.db_mtl()), scaled):
    np.testing.assert_allclose(d, other, rtol=1e-5)       # 1e-8 beside a loss of about 1e-2


@pytest.mark.parametrize('sigma', [0.0, 0.5])
def test_average_against_a_loop(sigma):
  average = np.zeros((3, 6))
  for k, ((d, w, state), jac, losses) in enumerate(zip(run(optim.db_mtl(0.5, sigma)), JACS, LOSSES), start=1):
    fresh = jac / (losses + 1e-8)[:, None]
    average = fresh + 0.5 / k**sigma * (average - fresh)
    norms = np.linalg.norm(average, axis=1)
    np.testing.assert_allclose(stateful.as_matrix(state.average, (3,)), average, atol=1e-12)   # float64
    np.testing.assert_allclose(w, norms.max() / norms, rtol=1e-12)
    np.testing.assert_allclose(d, w @ average, atol=1e-12)
    summands = np.linalg.norm(w[:, None] * average, axis=1)
    np.testing.assert_allclose(summands, summands[0], rtol=1e-12)


def test_beta_to_zero_is_the_gramian_form():
  for (d, _, _), (other, _, _) in zip(run(optim.db_mtl()), run(optim.db_mtl(beta=1e-9))):
    np.testing.assert_allclose(d, other, rtol=1e-6)       # of the order of beta


@pytest.mark.parametrize('beta', [0.0, 0.5])
def test_heads_get_the_gradient_of_the_logarithm(beta):
  loss = lambda phi: 0.5 + phi**2                         # at phi = .5: .75
  slope = jax.grad(lambda phi: jnp.log(loss(phi) + 1e-8))(0.5) / jax.grad(loss)(0.5)
  info = optim.Info(losses=jnp.array([0.75, 4.0, jnp.nan]), active=jnp.array([True, True, False]))
  np.testing.assert_allclose(optim.db_mtl(beta).head_weights(jnp.ones(3), info), [slope, 0.25, 0], rtol=1e-6)


def test_the_whole_is_the_gradient_of_scaled_logarithms():
  losses = lambda theta: jnp.stack([jnp.sum((theta - 1) ** 2) + 1, 10 * jnp.sum(theta**4) + 2])
  theta = jnp.array([0.3, -0.7])
  jac = jax.jacrev(losses)(theta)
  d, _ = optim.db_mtl().update(jac, optim.db_mtl().init(theta), theta, losses=losses(theta))
  logs = jax.jacrev(lambda theta: jnp.log(losses(theta) + 1e-8))(theta)
  norms = jnp.linalg.norm(logs, axis=1)
  np.testing.assert_allclose(d, (norms.max() / norms) @ logs, rtol=1e-5)         # float32
