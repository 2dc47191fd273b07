"""ExcessMTL: by hand, against a plain loop, in log space, and the proxy of a number a leaf."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stateful

from mtjax import optim

RNG = np.random.default_rng(4)
JACS = RNG.normal(size=(5, 3, 6))


def run(tx, jacs=JACS):
  """[(d, w, state)] of the steps, in float64."""
  with jax.enable_x64(True):
    state, out = tx.init(stateful.as_tree(np.zeros(6), jnp.float64), len(jacs[0])), []
    step = jax.jit(lambda jac, state: tx.aggregate(jac, state))
    for jac in jacs:
      d, w, state = step(stateful.as_tree(jac, jnp.float64), state)
      out.append((stateful.as_matrix(d), np.asarray(w), state.inner))
    return out


def test_by_hand():
  # One parameter, g = (1, 2) then (1, 0). Step 1: S = g^2, e0 = g^2 / |g| = (1, 2), w equal.
  # Step 2: S = (2, 4), e = (1 / sqrt 2, 0), e / e0 = (.70711, 0); eta = 1: w = (e^.70711, 1) / sum = (.66976, .33024).
  tx = optim.excess_mtl(eta=1.0)
  _, w, state = tx.aggregate(jnp.array([[1.0], [2.0]]), tx.init(jnp.zeros(1)))
  np.testing.assert_allclose(w, [0.5, 0.5], atol=1e-6)
  d, w, state = tx.aggregate(jnp.array([[1.0], [0.0]]), state)
  np.testing.assert_allclose(w, [0.66976, 0.33024], atol=1e-5)
  np.testing.assert_allclose(d, [0.66976], atol=1e-5)
  np.testing.assert_allclose(state.inner.squares, [[2], [4]], atol=1e-6)


@pytest.mark.parametrize('settings', [dict(), dict(first='raw', total='tasks'), dict(warmup_steps=3), dict(per='leaf')],
                         ids=str)
def test_against_a_loop(settings):
  squares, w, history = np.zeros((3, 6)), np.full(3, 1 / 3), []
  warmup = settings.get('warmup_steps', 1)
  tx = optim.excess_mtl(eta=0.7, **settings)
  assert tx.needs == 'jacobian'
  for k, (d, weights, _) in enumerate(run(tx, JACS)):
    jac, added = JACS[k], JACS[k] ** 2
    if settings.get('per') == 'leaf':                       # leaves of 2 and 4 parameters
      added = np.repeat(np.stack([added[:, :2].mean(1), added[:, 2:].mean(1)], 1), [2, 4], axis=1)
    squares = squares + added
    risks = (jac**2 / np.sqrt(squares + 1e-7)).sum(1)
    if k < warmup:
      history.append(risks)
      if settings.get('first') == 'raw':
        w = w * np.exp(0.7 * risks)
    else:
      w = w * np.exp(0.7 * risks / np.mean(history, axis=0))
    w = w / w.sum()
    np.testing.assert_allclose(weights, w * (3 if settings.get('total') == 'tasks' else 1), rtol=1e-10)   # float64
    np.testing.assert_allclose(d, weights @ jac, atol=1e-12)


def test_equal_rows_keep_equal_weights():
  for _, w, _ in run(optim.excess_mtl(eta=1.0, first='raw'), np.repeat(JACS[:, :1], 3, axis=1)):
    np.testing.assert_allclose(w, 1 / 3, rtol=1e-12)


def test_no_ratio_overflows_and_a_late_start_is_a_start():
  tx = optim.excess_mtl(eta=1.0)
  jac = lambda *rows: jnp.array(rows, jnp.float32)[:, None]
  _, _, state = tx.aggregate(jac(1e-15, 1.0, 0.0), tx.init(jnp.zeros(1)))       # e0 = 3e-27, 1, none yet
  _, w, state = tx.aggregate(jac(1e10, 1.0, 1.0), state)
  np.testing.assert_allclose(w, [1, 0, 0], atol=1e-6)
  assert np.isfinite(np.asarray(state.inner.log_w)).all()
  np.testing.assert_array_equal(state.inner.count, [1, 1, 1])
  np.testing.assert_allclose(state.inner.baseline[2], 1.0, rtol=1e-5)           # the third task's first gradient
  _, w, _ = tx.aggregate(jac(1e10, 1.0, 1.0), state)
  assert np.isfinite(np.asarray(w)).all()


def test_the_proxy_is_exact_where_a_leaf_has_one_size_and_is_small():
  # Entries of one size in each leaf: the mean over the leaf is what each of its elements has.
  signs = np.sign(JACS)
  jacs = signs * np.repeat(RNG.uniform(0.5, 2, size=(5, 3, 2)), [2, 4], axis=2)
  for (d, w, _), (other, other_w, state) in zip(run(optim.excess_mtl(0.5), jacs), run(optim.excess_mtl(0.5, per='leaf'), jacs)):
    np.testing.assert_allclose(w, other_w, rtol=1e-10)
    np.testing.assert_allclose(d, other, rtol=1e-10)
    assert [leaf.shape for leaf in jax.tree.leaves(state.squares)] == [(3,), (3,)]


def test_heads_are_scaled_and_the_other_name():
  w, info = jnp.array([0.25, 0.75]), optim.Info(losses=jnp.ones(2))
  np.testing.assert_array_equal(optim.excess_mtl().head_weights(w, info), w)
  np.testing.assert_array_equal(optim.excess_mtl(scale_heads=False).head_weights(w, info), [1, 1])
  assert optim.excessmtl is optim.excess_mtl


def test_an_absent_task_keeps_its_weight_relative_to_the_others():
  tx = optim.excess_mtl(eta=1.0)
  state = tx.init(jnp.zeros(2))
  for jac in ([[1.0, 0], [0, 1], [1, 1]], [[1.0, 0], [0, 3], [1, 2]]):
    _, before, state = tx.aggregate(jnp.array(jac), state)
  still = jnp.zeros((3, 2))                                                     # no risk, so nobody moves
  _, w, state = tx.aggregate(still, state, active=jnp.array([True, False, True]))
  np.testing.assert_allclose(w, before * np.array([1, 0, 1]) / (before[0] + before[2]), rtol=1e-5)
  _, w, _ = tx.aggregate(still, state)
  np.testing.assert_allclose(w, before, rtol=1e-5)
