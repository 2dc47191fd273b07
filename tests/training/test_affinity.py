"""What gradients say of each other: the numbers of the cards, a slow loop, limits."""
import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax.training import affinity as aff

CARD = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
GRAM = CARD @ CARD.T
TARGETS = jnp.array([1.0, -1.0])


def test_examples():
  result = doctest.testmod(aff, extraglobs={'jax': jax, 'jnp': jnp})
  assert result.attempted >= 8 and result.failed == 0


def test_affinity_of_the_card():
  z = aff.affinity(lambda theta: 0.5 * (theta - TARGETS) ** 2, jnp.zeros(()), aff.sgd(0.1))
  np.testing.assert_allclose(z, [[0.19, -0.21], [-0.21, 0.19]], rtol=1e-5)  # float32


W = jax.random.normal(jax.random.key(0), (3, 4))
OWN = jax.random.normal(jax.random.key(1), (3,))


def toy(shared):
  """Three tasks, each with a parameter of its own that is closed over."""
  return jnp.square(W @ jnp.tanh(shared['a']) * shared['b'] - OWN) + 0.1


SHARED = {'a': jax.random.normal(jax.random.key(2), (4,)), 'b': jnp.array(0.7)}


def test_affinity_by_a_slow_loop_with_the_optimizers_update():
  tx = optax.adam(0.05)
  state = tx.init(SHARED)
  _, state = tx.update(jax.grad(lambda p: toy(p).sum())(SHARED), state, SHARED)
  for update in (aff.sgd(0.05), lambda g: tx.update(g, state, SHARED)[0]):
    z = jax.jit(lambda shared, update=update: aff.affinity(toy, shared, update))(SHARED)
    before = toy(SHARED)
    for i in range(3):
      moved = optax.apply_updates(SHARED, update(jax.grad(lambda p, i=i: toy(p)[i])(SHARED)))
      for j in range(3):
        np.testing.assert_allclose(z[i, j], 1 - toy(moved)[j] / before[j], rtol=1e-4, atol=1e-5)  # a ratio near 1 in float32


def test_affinity_limits():
  z = aff.affinity(toy, SHARED, lambda g: jax.tree.map(jnp.zeros_like, g))
  np.testing.assert_allclose(z, 0, atol=5e-7)  # no step, no change but for rounding of the compiled losses
  eta = 1e-3
  z = aff.affinity(toy, SHARED, aff.sgd(eta))
  jac = jnp.concatenate([jax.jacrev(toy)(SHARED)['a'], jax.jacrev(toy)(SHARED)['b'][:, None]], axis=1)
  # first order: Z[i, j] = eta g_i . g_j / L_j; the rest is of second order in eta
  np.testing.assert_allclose(z, eta * (jac @ jac.T) / toy(SHARED)[None], rtol=0.05, atol=1e-4)
  zero = aff.affinity(lambda x: jnp.stack([x ** 2, 0 * x]), jnp.array(1.0), aff.sgd(0.1))
  assert jnp.isnan(zero[:, 1]).all() and jnp.isfinite(zero[:, 0]).all()
  with pytest.raises(ValueError, match='eta must be > 0'):
    aff.sgd(0.0)
  with pytest.raises(ValueError, match='one number a task'):
    aff.affinity(lambda x: x ** 2, jnp.array(1.0), aff.sgd(0.1))


def test_gramian_numbers_of_the_card():
  np.testing.assert_allclose(aff.cosines(GRAM)[0, 1], -0.7071, atol=5e-5)
  np.testing.assert_allclose(aff.magnitude_similarity(GRAM)[0, 1], 2 * np.sqrt(2) / 3, rtol=1e-6)
  np.testing.assert_allclose(aff.norm_share(GRAM), np.array([1, np.sqrt(2)]) / (1 + np.sqrt(2)), rtol=1e-6)
  assert aff.conflict_rate(GRAM).tolist() == [1, 1, 1, 1, 1] and aff.conflict_rate(GRAM, [-0.8]).tolist() == [0]
  # (1 - 1/2) |(2, -1)|^2 / |(0, 1)|^2 = 2.5
  np.testing.assert_allclose(aff.curvature_measure(GRAM), [[0, 2.5], [2.5, 0]], rtol=1e-5)
  # eigenvalues of [[1, -1], [-1, 2]]: (3 ± sqrt 5) / 2
  np.testing.assert_allclose(aff.condition_number(GRAM), (3 + np.sqrt(5)) / (3 - np.sqrt(5)), rtol=1e-5)


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2 ** 31))
def test_gramian_functions_by_a_slow_loop(seed):
  jac = np.random.default_rng(seed).normal(size=(2, 3, 5)).astype(np.float32)
  gram = jnp.asarray(jac @ jac.transpose(0, 2, 1))
  cosine, similarity, curvature = aff.cosines(gram), aff.magnitude_similarity(gram), aff.curvature_measure(gram)
  below = 0
  for step in range(2):
    for i in range(3):
      for j in range(3):
        g, h = jac[step, i].astype(float), jac[step, j].astype(float)
        a, b = np.linalg.norm(g), np.linalg.norm(h)
        c = g @ h / (a * b)
        below += i < j and c < -0.1
        np.testing.assert_allclose(cosine[step, i, j], c, atol=1e-5)  # float32 products
        np.testing.assert_allclose(similarity[step, i, j], 2 * a * b / (a * a + b * b), rtol=1e-5)
        if i != j:
          np.testing.assert_allclose(curvature[step, i, j], (1 - c * c) * ((g - h) ** 2).sum() / ((g + h) ** 2).sum(), rtol=1e-2, atol=1e-4)  # 1 - c^2 cancels
    # the smallest eigenvalue of a Gramian loses digits in proportion to the condition number
    reference = np.linalg.cond(jac[step].astype(float)) ** 2
    np.testing.assert_allclose(aff.condition_number(gram)[step], reference, rtol=1e-5 * reference + 1e-4)
  assert aff.conflict_rate(gram, [-0.1])[0] == pytest.approx(below / 6)
  assert ((similarity > 0) & (similarity <= 1)).all()


@pytest.mark.parametrize('scale', [1e-15, 1.0, 1e15])
def test_scale_changes_nothing(scale):
  gram = GRAM * scale
  for fn in (aff.cosines, aff.magnitude_similarity, aff.norm_share, aff.conflict_rate, aff.condition_number):
    np.testing.assert_allclose(fn(gram), fn(GRAM), rtol=1e-4)


def test_rows_of_zero():
  gram = jnp.zeros((3, 3)).at[0, 0].set(4.0)
  assert aff.cosines(gram)[0].tolist() == [1, 0, 0] and aff.magnitude_similarity(gram).tolist() == [[1, 0, 0], [0, 1, 1], [0, 1, 1]]
  assert aff.conflict_rate(gram).tolist() == [0] * 5 and jnp.isinf(aff.condition_number(gram))
  assert aff.norm_share(jnp.zeros((2, 2))).tolist() == [0.5, 0.5] and aff.norm_share(gram).tolist() == [1, 0, 0]
  assert aff.conflict_rate(jnp.array([[1.0]])).tolist() == [0] * 5  # one task: no pair
  with pytest.raises(ValueError, match='cosines in'):
    aff.conflict_rate(gram, [-2.0])
