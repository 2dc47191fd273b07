"""RotoGrad: lengths against a plain loop, rotations by hand, orthogonal, and found where there is one to find."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import stateful

from mtjax import optim
from mtjax.optim.aggregators.rotograd import rotate, rotation_gradients, rotograd_weights

RNG = np.random.default_rng(5)


def test_lengths_by_hand():
  # n = (3, 1), n0 = (3, 2): ratios (1, .5), kappa (2/3, 1/3), common length 2/3 * 3 + 1/3 * 1 = 7/3.
  np.testing.assert_allclose(rotograd_weights(jnp.array([3.0, 1.0]), jnp.array([3.0, 2.0])), [7 / 9, 7 / 3], rtol=1e-6)
  # A length of 0, or one that never was known, counts for nothing.
  np.testing.assert_allclose(rotograd_weights(jnp.array([3.0, 0.0, 2.0]), jnp.array([3.0, 2.0, 0.0])), [1, 0, 0])


def test_lengths_against_a_loop_with_the_burn_in():
  tx = optim.rotograd()
  assert (tx.at, tx.needs) == ('features', 'gramian')
  steps = RNG.normal(size=(25, 3, 6)) * RNG.uniform(0.1, 3, size=(25, 3, 1))
  with jax.enable_x64(True):
    z = stateful.as_tree(np.zeros(6), jnp.float64)
    state, step, initial = tx.init(z, 3), jax.jit(tx.aggregate), None
    for k, u in enumerate(steps):
      d, w, state = step(stateful.as_tree(u, jnp.float64), state, z)
      n = np.linalg.norm(u, axis=1)
      initial = n if k in (0, 20) else initial
      kappa = n / initial / np.sum(n / initial)
      np.testing.assert_allclose(stateful.as_matrix(d), sum(u / n[:, None]) * (kappa @ n), atol=1e-12)   # float64
      np.testing.assert_allclose(np.linalg.norm(w[:, None] * u, axis=1), kappa @ n, rtol=1e-12)          # one length
      np.testing.assert_allclose(state.inner.initial, initial, rtol=1e-12)


def test_equal_lengths_and_ratios_give_the_plain_sum():
  u = RNG.normal(size=(3, 6))
  u = u / np.linalg.norm(u, axis=1, keepdims=True)
  tx, z = optim.rotograd(), stateful.as_tree(np.zeros(6))
  _, state = tx.update(stateful.as_tree(u), tx.init(z), z)
  d, _ = tx.update(stateful.as_tree(0.3 * u), state, z)
  np.testing.assert_allclose(stateful.as_matrix(d), 0.3 * u.sum(0), atol=1e-6)


def test_a_late_task_starts_when_it_comes():
  weights, state = optim.rotograd().weights, optim.rotograd().init(None, 2)
  info = lambda *norms: optim.Info(gramian=jnp.diag(jnp.array(norms) ** 2))
  _, state = weights(state, info(2.0, 0.0))
  _, state = weights(state, info(2.0, 5.0))
  np.testing.assert_array_equal(state.inner.initial, [2, 5])
  np.testing.assert_array_equal(state.inner.count, [2, 1])


def test_cayley():
  np.testing.assert_array_equal(optim.cayley(jnp.zeros((3, 3))), np.eye(3))
  # S/2 = [[0, -a], [a, 0]] turns by 2 arctan(a); a = 1: a quarter turn.
  np.testing.assert_allclose(optim.cayley(jnp.array([[0.0, -1], [1, 0]])), [[0, -1], [1, 0]], atol=1e-6)
  with jax.enable_x64(True):
    a = jnp.asarray(RNG.normal(size=(4, 4)))
    rotation = np.asarray(optim.cayley(a))
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1, rtol=1e-12)
    small = 1e-3 * a
    s = np.asarray(small - small.T)
    exponential = np.eye(4) + s + s @ s / 2 + s @ s @ s / 6
    np.testing.assert_allclose(optim.cayley(small), exponential, atol=1e-7)     # they differ by |S|^3 / 12


def test_rotation_turns_the_leading_features_only():
  x = jnp.arange(6.0).reshape(2, 3)
  quarter = jnp.array([[0.0, -1], [1, 0]])
  np.testing.assert_allclose(rotate(quarter, x), [[-1, 0, 2], [-4, 3, 5]])


def test_rotation_loss_by_hand():
  g, c = jnp.array([[1.0, 0], [0, 2]]), jnp.array([[0.0, 1], [-2, 0]])          # c is g after a quarter turn
  np.testing.assert_allclose(optim.rotation_loss(jnp.zeros((2, 2)), g, c), (2 + 8) / 2)
  np.testing.assert_allclose(optim.rotation_loss(jnp.array([[0.0, -1], [1, 0]]), g, c), 0, atol=1e-10)


def test_gradients_are_of_all_rotation_losses_with_the_rest_held():
  with jax.enable_x64(True):
    a, u = jnp.asarray(RNG.normal(size=(3, 2, 2))), jnp.asarray(RNG.normal(size=(3, 5, 4)))
    update = jnp.asarray(RNG.normal(size=(5, 4)))
    active, loss = jnp.array([True, True, False]), jax.jit(optim.rotation_loss)
    gradients = jax.jit(rotation_gradients)(a, u, update, active)
    for t in range(2):
      cotangent = rotate(optim.cayley(a[t]), u[t])
      for i, j in np.ndindex(2, 2):                                             # central differences, error about h^2
        h = jnp.zeros((2, 2)).at[i, j].set(1e-5)
        slope = (loss(a[t] + h, update / 2, cotangent) - loss(a[t] - h, update / 2, cotangent)) / 2e-5
        np.testing.assert_allclose(gradients[t, i, j], slope, atol=1e-8)
    np.testing.assert_array_equal(gradients[2], 0)


def test_descent_finds_the_rotation_and_stays_orthogonal():
  truth = optim.cayley(jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32))
  g = jnp.asarray(RNG.normal(size=(20, 3)), jnp.float32)
  c, tx = rotate(truth, g), optax.adam(0.05)

  def step(carry, _):
    a, state = carry
    loss, grad = jax.value_and_grad(optim.rotation_loss)(a, g, c)
    updates, state = tx.update(grad, state)
    return (a + updates, state), loss

  start = jnp.zeros((3, 3))
  (a, _), losses = jax.lax.scan(step, (start, tx.init(start)), None, 100)
  assert losses[-1] < 0.01 * losses[0]
  rotation = np.asarray(optim.cayley(a), np.float64)
  np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)       # after 100 steps
