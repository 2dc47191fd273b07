"""GradDrop: by hand with given draws, in expectation, by its limits, and on a representation."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stateful

from mtjax import optim
from mtjax.optim.aggregators.graddrop import drop_signs, positive_share

NONE = jnp.zeros(2)


def update(tx, jac, params=None, **extra):
  params = jax.tree.map(lambda g: g[0], jac) if params is None else params
  return tx.update(jac, tx.init(params), params, **extra)[0]


def test_by_hand():
  g = jnp.array([[3.0, 3.0, -1.0, 0.0], [-1.0, -1.0, -2.0, 0.0]])
  np.testing.assert_allclose(positive_share(g), [0.75, 0.75, 0.0, 0.5])
  uniform = jnp.array([0.7, 0.8, 0.0, 0.4])
  # P = .75 > .7: up; .75 < .8: down; both negative: both stay, also at U = 0; nothing there: nothing.
  np.testing.assert_allclose(drop_signs(g, uniform, NONE), [3.0, -1.0, -3.0, 0.0])
  # A leak of .5 in the second task: its dropped -1 counts half.
  np.testing.assert_allclose(drop_signs(g, uniform, jnp.array([0.0, 0.5])), [2.5, -1.0, -3.0, 0.0])


def test_one_sign_is_the_sum_exactly():
  g = np.random.default_rng(0).uniform(0.1, 1, size=(3, 100_000)).astype(np.float32)
  for sign in (1, -1):
    np.testing.assert_allclose(update(optim.graddrop(), jnp.asarray(sign * g)), sign * g.sum(0), rtol=1e-6)


def test_full_leak_is_the_sum():
  jac = stateful.as_tree(np.random.default_rng(1).normal(size=(3, 6)))
  for leak in (1.0, (1.0, 1.0, 1.0)):
    d = update(optim.graddrop(leak=leak), jac)
    np.testing.assert_allclose(stateful.as_matrix(d), stateful.as_matrix(jac, (3,)).sum(0), rtol=1e-6)


def test_expectation():
  a, b, count = 3.0, 1.0, 40_000
  d = np.asarray(update(optim.graddrop(), jnp.broadcast_to(jnp.array([[a], [-b]]), (2, count))))
  assert set(np.unique(d)) == {a, -b}
  share = a / (a + b)
  error = (a + b) * np.sqrt(share * (1 - share) / count)
  assert abs(d.mean() - (share * a - (1 - share) * b)) < 4 * error       # four standard errors, at a fixed seed


def test_draws_follow_key_seed_and_step_and_differ_between_leaves():
  jac = {'a': jnp.array([[1.0] * 64, [-1.0] * 64])}
  jac['b'] = jac['a']
  tx = optim.graddrop()
  state = tx.init(jax.tree.map(lambda g: g[0], jac))
  first, later = tx.update(jac, state)
  again, _ = tx.update(jac, state)
  second, _ = tx.update(jac, later)
  np.testing.assert_array_equal(first['a'], again['a'])
  assert (first['a'] != second['a']).any() and (first['a'] != first['b']).any()
  assert (first['a'] != update(optim.graddrop(seed=1), jac)['a']).any()
  alone = update(optim.graddrop(), {'a': jac['a']})                      # another leaf changes nothing
  np.testing.assert_array_equal(alone['a'], first['a'])
  keyed = [update(optim.graddrop(seed=seed), jac, key=jax.random.key(7)) for seed in (0, 1)]
  np.testing.assert_array_equal(keyed[0]['a'], keyed[1]['a'])


def test_on_a_representation():
  rng = np.random.default_rng(2)
  z, g = rng.normal(size=(5, 7)).astype(np.float32), rng.normal(size=(2, 5, 7)).astype(np.float32)
  uniform = rng.uniform(size=7).astype(np.float32)
  expected = np.zeros_like(z)
  for feature in range(7):
    sums = [sum(np.sign(z[n, feature]) * g[t, n, feature] for n in range(5)) for t in range(2)]
    share = 0.5 * (1 + sum(sums) / sum(map(abs, sums)))
    for t in range(2):
      if (share > uniform[feature]) == (sums[t] > 0):
        expected[:, feature] += g[t, :, feature]                         # for all rows of the batch alike
  d = drop_signs(jnp.asarray(g), jnp.asarray(uniform), NONE, jnp.asarray(z))
  np.testing.assert_allclose(d, expected, rtol=1e-5, atol=1e-6)          # float32

  tx = optim.graddrop(per='feature')
  assert (tx.at, tx.needs, optim.graddrop().at) == ('features', 'jacobian', 'parameters')
  d = np.asarray(update(tx, jnp.asarray(g), jnp.asarray(z)))
  choices = np.stack([0 * z, g[0], g[1], g[0] + g[1]])                   # what a mask of two tasks can leave
  for feature in range(7):
    assert any(np.allclose(d[:, feature], choice[:, feature], rtol=1e-6) for choice in choices)


@pytest.mark.parametrize('per', ['element', 'feature'])
def test_one_task_passes_unchanged(per):
  # On the representation of one task a feature whose signed sum has either sign is kept; only z = 0 hides it.
  g, z = jnp.arange(-3.0, 3.0).reshape(1, 2, 3), jnp.array([[1.0, -1, 2], [2.0, 3, -1]])
  np.testing.assert_allclose(update(optim.graddrop(per=per), g, z), g[0])
