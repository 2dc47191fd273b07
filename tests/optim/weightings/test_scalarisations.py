"""Fixed and random scalarisations: sums, logarithms, soft maxima, random weights."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trajectories import follow, positive, softmax

import mtjax.optim
from mtjax.optim import Info
from mtjax.optim.weightings.rlw import KINDS, random_weights
from mtjax.optim.weightings.stch import soft_maximum, stch_loss

ALL = jnp.ones(3, bool)


def weights(tx, losses, **info):
  return np.asarray(jax.jit(tx.weights)(tx.init({}), Info(losses=jnp.asarray(losses), **info))[0])


def value(tx, losses):
  return jax.jit(tx.scalarise)(jnp.asarray(losses), tx.init({}))


def test_sum_and_mean_are_explicit():
  assert weights(mtjax.optim.ew(), [3.0, 1.0]).tolist() == [1, 1]
  assert weights(mtjax.optim.ew(reduction='mean'), [3.0, 1.0]).tolist() == [0.5, 0.5]
  assert weights(mtjax.optim.ew([2.0, 0.5]), [3.0, 1.0]).tolist() == [2, 0.5]
  active = jnp.array([True, False, True])    # T counts the active tasks
  assert weights(mtjax.optim.ew([2.0, 1.0, 4.0], 'mean'), [3.0, 1.0, 1.0], active=active).tolist() == [1, 0, 2]
  assert mtjax.optim.ew is mtjax.optim.linear_scalarisation


def test_the_update_is_the_gradient_of_the_weighted_sum():
  x = jnp.array([1.0, -2.0])
  def losses(x):
    return jnp.stack([jnp.sum(x ** 2), jnp.exp(x[0]), 1 + x[1] ** 2])
  for tx in (mtjax.optim.ew([2.0, 1.0, 0.5]), mtjax.optim.si(), mtjax.optim.gls(), mtjax.optim.stch(0.5)):
    state = tx.init(x)
    both = jax.jit(lambda x: (tx.update(jax.jacobian(losses)(x), state, x, losses=losses(x))[0],    # noqa: B023
                              jax.grad(lambda x: tx.scalarise(losses(x), state))(x)))    # noqa: B023
    np.testing.assert_allclose(*both(x), rtol=1e-5)


def test_logarithms_weigh_by_the_inverse():
  np.testing.assert_allclose(weights(mtjax.optim.si(), [0.5, 4.0, 1e-10]), [2, 0.25, 1e10], rtol=1e-6)
  np.testing.assert_allclose(value(mtjax.optim.si(), jnp.array([0.5, 4.0])), np.log(2), rtol=1e-6)
  # A loss of 0 or less counts as 1e-12.
  np.testing.assert_allclose(weights(mtjax.optim.si(), [0.0, -3.0, 2.0]), [1e12, 1e12, 0.5], rtol=1e-6)


def test_geometric_mean_by_hand():
  tx = mtjax.optim.gls()    # sqrt(1 * 8) = 2.828; 2.828 / (2 * 1), 2.828 / (2 * 8)
  np.testing.assert_allclose(weights(tx, [1.0, 8.0]), [1.41421, 0.17678], rtol=1e-4)
  np.testing.assert_allclose(value(tx, [1.0, 8.0]), 2.82843, rtol=1e-5)
  np.testing.assert_allclose(value(tx, jnp.full(40, 1e10)), 1e10, rtol=1e-4)    # the product is 1e400


def test_soft_maximum_by_hand():
  tx = mtjax.optim.stch(mu=0.5)
  row = jnp.array([1.0, 2.0, 3.0])
  np.testing.assert_allclose(weights(tx, row), [0.04945, 0.09631, 0.18758], atol=5e-6)    # the card's five digits
  np.testing.assert_allclose(value(tx, row), 1.28747, atol=5e-6)


@pytest.mark.parametrize('mu', [1e-3, 0.1, 1.0, 10.0])
def test_soft_maximum_is_near_the_maximum(mu):
  row, share, ideal = positive(3), np.array([0.5, 0.2, 0.3]), np.array([0.1, 0.0, -0.2])
  top = np.max(share * (row - ideal))
  tx = mtjax.optim.stch(mu, preference=[5.0, 2.0, 3.0], ideal=ideal.tolist())
  soft = value(tx, row)
  assert top - 1e-6 <= soft <= top + mu * np.log(3) + 1e-6
  np.testing.assert_allclose(weights(tx, row), share * softmax(share * (row - ideal) / mu), rtol=1e-4, atol=1e-6)
  if mu == 1e-3:    # in the limit it is Tchebycheff
    hard = mtjax.optim.tchebycheff([5.0, 2.0, 3.0], ideal.tolist())
    np.testing.assert_allclose(soft, top, rtol=1e-5)
    np.testing.assert_allclose(weights(tx, row), weights(hard, row), atol=1e-6)
    np.testing.assert_allclose(value(hard, jnp.asarray(row)), top, rtol=1e-6)


def test_soft_maximum_of_nothing_and_of_much():
  none = jnp.zeros(3, bool)
  assert soft_maximum(jnp.array([jnp.nan] * 3), 0.1, none) == 0
  most, slope = jax.jit(jax.value_and_grad(stch_loss))(jnp.array([1e10, -1e10, jnp.nan]), jnp.array([0.5, 0.5, 0.0]), 0.0, 0.01,
                                               jnp.array([True, True, False]))
  assert most == 5e9 and slope.tolist() == [0.5, 0, 0]


def test_the_recipe_of_stch_in_numpy():
  warm, long, mu, losses = 2, 3, 0.3, positive((8, 3))
  tx = mtjax.optim.stch(mu, warmup_steps=warm, nadir_steps=long)
  w, _ = follow(tx, losses)
  nadir = losses[warm:warm + long].mean(axis=0)
  for k, row in enumerate(losses):
    expected = 1 / row if k < warm + long else 3 * softmax(np.log(row / nadir) / mu) / row
    np.testing.assert_allclose(w[k], expected, rtol=1e-12)
  state = tx.init({}, num_tasks=3)
  state = state.replace(inner=state.inner._replace(steps=jnp.full(3, 5), sums=jnp.asarray(3 * nadir, jnp.float32)))
  expected = 3 * mu * np.log(np.exp(np.log(losses[6] / nadir) / mu).sum())
  np.testing.assert_allclose(tx.scalarise(jnp.asarray(losses[6]), state), expected, rtol=1e-5)
  assert isinstance(mtjax.optim.stch(mu).init({}).inner, optax.EmptyState)


def test_cosmos_by_hand():
  # l = (3, 4), r = (1, 1) / 2: cos = 7 / (5 sqrt 2); its gradient is (r / |r| - cos l / |l|) / |l| = (4, -3) / (125 sqrt 2).
  tx = mtjax.optim.cosmos(lam=2.0)
  row = jnp.array([3.0, 4.0])
  np.testing.assert_allclose(value(tx, row), 3.5 - 2 * 7 / (5 * np.sqrt(2)), rtol=1e-6)
  np.testing.assert_allclose(weights(tx, row), 0.5 - 2 * np.array([4, -3]) / (125 * np.sqrt(2)), rtol=1e-5)
  np.testing.assert_allclose(weights(mtjax.optim.cosmos([3.0, 1.0], lam=0.0), row), [0.75, 0.25], rtol=1e-6)
  assert np.isfinite(weights(tx, [0.0, 0.0])).all()


def test_pbi_by_hand():
  # l - z* = (3, 4), u = (1, 0): d1 = 3, d2 = 4, with gradients (1, 0) and (0, 1).
  tx = mtjax.optim.pbi(theta=5.0, preference=[1.0, 0.0], ideal=[1.0, -1.0])
  row = jnp.array([4.0, 3.0])
  np.testing.assert_allclose(value(tx, row), 23, rtol=1e-6)
  np.testing.assert_allclose(weights(tx, row), [1, 5], rtol=1e-6)
  np.testing.assert_allclose(weights(mtjax.optim.pbi(), [2.0, 2.0]), np.ones(2) / np.sqrt(2), rtol=1e-5)    # on the ray: d2 = 0


def test_equal_largest_losses_share_tchebycheff():
  np.testing.assert_allclose(weights(mtjax.optim.tchebycheff(), [2.0, 2.0, 1.0]), [1 / 6, 1 / 6, 0], rtol=1e-6)


@pytest.mark.parametrize('kind', KINDS)
def test_random_weights_are_fair(kind):
  keys = jax.random.split(jax.random.key(0), 100_000)
  w = np.asarray(jax.jit(jax.vmap(lambda key: random_weights(key, ALL, kind)))(keys))
  np.testing.assert_allclose(w.sum(axis=1), 1, rtol=1e-5)
  assert (w >= 0).all()
  # Standard deviations of the mean are below .5 / sqrt(1e5) = .0016: five of them.
  np.testing.assert_allclose(w.mean(axis=0), 1 / 3, atol=0.008)
  if kind == 'normal':
    z = jax.random.normal(jax.random.fold_in(keys[0], 0))
    np.testing.assert_allclose(np.log(w[0, 0] / w[0, 1]), z - jax.random.normal(jax.random.fold_in(keys[0], 1)), rtol=1e-4)
  if kind == 'dirichlet':    # flat on the simplex: the variance of a coordinate is 2 / (9 * 4)
    np.testing.assert_allclose(w.var(axis=0), 1 / 18, rtol=0.03)
  if kind == 'one_task':
    assert set(np.unique(w)) == {0.0, 1.0}


def test_random_weights_differ_by_step_and_agree_by_key():
  tx = mtjax.optim.rlw(seed=7)
  w, states = follow(tx, np.ones((4, 3)))
  assert len({row.tobytes() for row in w}) == 4 and states.count.tolist() == [1, 2, 3, 4]
  again, _ = follow(mtjax.optim.rlw(seed=7), np.ones((4, 3)))
  np.testing.assert_array_equal(w, again)
  other, _ = follow(mtjax.optim.rlw(seed=8), np.ones((4, 3)))
  assert (w != other).all()
  key, row = jax.random.key(5), jnp.ones(3)    # a key that is given decides, whatever the seed
  np.testing.assert_array_equal(weights(tx, row, key=key), weights(mtjax.optim.rlw(seed=8), row, key=key))
