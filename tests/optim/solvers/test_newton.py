"""alpha-fair weights: the equation itself, scipy's roots, homogeneity, and what happens where no solution exists."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from optim import samplers
from optim.calls import quick_jit

from mtjax.optim.solvers import fair_weights


@functools.cache
def solver(alpha):
  return quick_jit(functools.partial(fair_weights, alpha=alpha))


def residual(gram, w, alpha):
  """max_t |(G w)_t w_t^(1/alpha) - 1|."""
  return np.abs((gram @ w) * w ** (1 / alpha) - 1).max()


def by_root(gram, alpha):
  """scipy on x = log w."""
  start = -alpha / (1 + alpha) * np.log(np.diagonal(gram))
  function = lambda x: np.log(np.maximum(gram @ np.exp(x), 1e-300)) + x / alpha
  solution = scipy.optimize.root(function, start, method='lm', options=dict(xtol=1e-14, ftol=1e-14))
  assert np.abs(solution.fun).max() < 1e-9
  return np.exp(solution.x)


@pytest.mark.parametrize('alpha', (0.5, 1.0, 2.0))
@pytest.mark.parametrize('kind', ('normal', 'not weakly stationary'))
@pytest.mark.parametrize('size', ((2, 3), (5, 8), (20, 100)))
def test_residual_at_full_rank(x64, alpha, kind, size):
  for seed in range(10):
    rng = np.random.default_rng(seed)
    jac = samplers.KINDS[kind](rng, *size)
    if seed % 2:
      jac = jac * 10 ** rng.uniform(0, 4, size=(size[0], 1))  # lengths that differ by 1e4
    gram = jac @ jac.T
    w = np.asarray(solver(alpha)(jnp.asarray(gram)))
    assert w.min() > 0
    assert residual(gram, w, alpha) < 1e-9


@pytest.mark.parametrize('alpha', (0.5, 1.0, 2.0))
def test_scipy_root(x64, alpha):
  for seed in range(5):
    jac = samplers.conditioned(np.random.default_rng(seed), 5, 8, spread=10)
    gram = jac @ jac.T
    np.testing.assert_allclose(solver(alpha)(jnp.asarray(gram)), by_root(gram, alpha), rtol=1e-8)


def test_one_task_by_hand(x64):
  # 4 w = w^(-1/alpha): w = 4^(-alpha / (alpha + 1)).
  np.testing.assert_allclose(solver(1.0)(jnp.array([[4.0]])), [0.5])
  np.testing.assert_allclose(solver(2.0)(jnp.array([[4.0]])), [4 ** (-2 / 3)])


@pytest.mark.parametrize('alpha', (0.5, 1.0, 2.0))
@pytest.mark.parametrize('dtype', (np.float64, np.float32))
def test_homogeneity(alpha, dtype):
  with jax.enable_x64(dtype == np.float64):
    jac = samplers.conditioned(np.random.default_rng(0), 5, 8)
    w = np.asarray(solver(alpha)(jnp.asarray(jac @ jac.T, dtype)))
    for scale in (1e-20, 1e-6, 1e6, 1e20):
      scaled = np.asarray(solver(alpha)(jnp.asarray(scale * (jac @ jac.T), dtype)))
      rtol = 1e-9 if dtype == np.float64 else 1e-4
      np.testing.assert_allclose(scaled, scale ** (-alpha / (1 + alpha)) * w, rtol=rtol)


@pytest.mark.parametrize('alpha', (5.0, 10.0))
def test_large_alpha(x64, alpha):
  for seed in range(5):
    jac = samplers.conditioned(np.random.default_rng(seed), 5, 8, spread=100)
    gram = jac @ jac.T
    assert residual(gram, np.asarray(solver(alpha)(jnp.asarray(gram))), alpha) < 1e-9


@pytest.mark.parametrize('dtype', (np.float64, np.float32))
@pytest.mark.parametrize('kind', ('strongly stationary', 'weakly stationary'))
def test_bounded_where_there_is_no_solution(dtype, kind):
  with jax.enable_x64(dtype == np.float64):
    for seed in range(10):
      jac = samplers.KINDS[kind](np.random.default_rng(seed), 5, 8)
      w = np.asarray(solver(1.0)(jnp.asarray(jac @ jac.T, dtype)), np.float64)
      # The spectrum of C is raised to 1e-6: (w n)^T (C + 1e-6 I) (w n) = T bounds w n by sqrt(T / 1e-6).
      assert np.isfinite(w).all() and (w * np.linalg.norm(jac, axis=1)).max() < 1.5 * np.sqrt(5 / 1e-6)
      d = jac.T @ w
      assert np.linalg.norm(d) <= 1.1 * np.sqrt(5)


def test_zero_rows_and_absent_tasks(x64):
  jac = samplers.conditioned(np.random.default_rng(0), 3, 5)
  alone = np.asarray(fair_weights(jnp.asarray(jac @ jac.T)))
  wide = np.zeros((5, 5))
  wide[np.ix_([0, 2, 4], [0, 2, 4])] = jac @ jac.T
  np.testing.assert_allclose(solver(1.0)(jnp.asarray(wide))[jnp.array([0, 2, 4])], alone, rtol=1e-10)
  np.testing.assert_allclose(solver(1.0)(jnp.asarray(wide))[jnp.array([1, 3])], 1)
  wide[3] = wide[:, 3] = np.nan
  w = solver(1.0)(jnp.asarray(wide), active=jnp.array([True, True, True, False, True]))
  np.testing.assert_allclose(w[jnp.array([0, 2, 4])], alone, rtol=1e-10)
  np.testing.assert_allclose(w[jnp.array([1, 3])], [1, 0])
