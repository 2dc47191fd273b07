"""CAGrad: the primal problem against scipy, its optimality conditions, limits in c, and stationary points."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from optim import samplers
from optim.calls import quick_jit, update

from mtjax import optim
from mtjax.optim.aggregators.cagrad import cagrad_weights


@functools.cache
def solver(c):
  return quick_jit(functools.partial(cagrad_weights, c=c))


def direction(jac, c, dtype=np.float64):
  w = np.asarray(solver(c)(jnp.asarray(jac @ jac.T, dtype)), np.float64)
  return jac.T @ w, w


def by_slsqp(jac, c):
  """max s subject to g_t . d >= s, ||d - g_0||^2 <= c^2 ||g_0||^2, over (d, s)."""
  mean = jac.mean(0)
  constraints = [
    dict(type='ineq', fun=lambda x: jac @ x[:-1] - x[-1], jac=lambda x: np.column_stack([jac, -np.ones(len(jac))])),
    dict(type='ineq', fun=lambda x: c**2 * mean @ mean - (x[:-1] - mean) @ (x[:-1] - mean),
         jac=lambda x: np.append(-2 * (x[:-1] - mean), 0)),
  ]
  start = np.append(mean, (jac @ mean).min())
  solution = scipy.optimize.minimize(lambda x: -x[-1], start, jac=lambda x: np.append(np.zeros(len(mean)), -1),
                                     constraints=constraints, options=dict(maxiter=1000, ftol=1e-14))
  return solution.x[-1]


@pytest.mark.parametrize('c', (0.2, 0.5, 1.0))
def test_no_worse_than_scipy(x64, c):
  for seed in range(5):
    jac = samplers.conditioned(np.random.default_rng(seed), 5, 8, spread=3)
    d, _ = direction(jac, c)
    assert (jac @ d).min() >= by_slsqp(jac, c) - 1e-6 * np.linalg.norm(jac) ** 2


@pytest.mark.parametrize('c', (0.2, 0.5, 1.0))
@pytest.mark.parametrize('size', ((2, 3), (5, 8), (20, 100)))
def test_optimality(x64, c, size):
  for seed in range(5):
    for spread in (1.0, 30.0):
      jac = samplers.conditioned(np.random.default_rng(seed), *size, spread=spread)
      mean = jac.mean(0)
      d, w = direction(jac, c)
      np.testing.assert_allclose(np.linalg.norm(d - mean), c * np.linalg.norm(mean), rtol=1e-9)
      multipliers, gains = w - 1 / len(jac), jac @ d
      assert multipliers.min() > -1e-12
      # g_t . d is minimal, and equal, on the support.
      support = multipliers > 1e-6 * multipliers.max()
      np.testing.assert_allclose(gains[support], gains.min(), atol=1e-7 * np.linalg.norm(jac) ** 2)


def test_rows_that_differ_by_1e4(x64):
  # Twelve Newton steps on the squared length were too few here; the weight of the shortest rows decides.
  for seed in range(5):
    jac = samplers.conditioned(np.random.default_rng(seed), 5, 8, spread=1e4)
    if np.linalg.norm(jac, axis=1).min() < 3e-4 * np.linalg.norm(jac):
      continue
    d, w = direction(jac, 0.5)
    mean = jac.mean(0)
    np.testing.assert_allclose(np.linalg.norm(d - mean), 0.5 * np.linalg.norm(mean), rtol=1e-8)
    gains, multipliers = jac @ d / np.linalg.norm(jac, axis=1), (w - 1 / 5) * np.linalg.norm(jac, axis=1)
    worst = (jac @ d).min() / np.linalg.norm(jac, axis=1)
    np.testing.assert_allclose(multipliers * (gains - worst), 0, atol=1e-6 * np.abs(multipliers * gains).max())


def test_c_zero_is_the_mean(x64):
  jac = samplers.normal(np.random.default_rng(0), 5, 8)
  np.testing.assert_allclose(direction(jac, 0)[0], jac.mean(0), rtol=1e-12)


def test_large_c_is_the_direction_of_mgda(x64):
  jac = samplers.not_weakly_stationary(np.random.default_rng(0), 5, 8)
  d, _ = direction(jac, 1e4)
  e, _, _ = update(optim.mgda(), jac)
  np.testing.assert_allclose(d / np.linalg.norm(d), e / np.linalg.norm(e), atol=1e-3)


@pytest.mark.parametrize('rescale, divisor', ((0, 1), (1, 1.25), (2, 1.5)))
def test_rescale(x64, rescale, divisor):
  jac = samplers.normal(np.random.default_rng(0), 3, 5)
  tx = optim.cagrad(c=0.5, rescale=rescale)
  d, _, _ = update(tx, jac)
  np.testing.assert_allclose(d, direction(jac, 0.5)[0] / divisor, rtol=1e-9)


@pytest.mark.parametrize('dtype', (np.float64, np.float32))
def test_no_update_at_stationary_points(dtype):
  with jax.enable_x64(dtype == np.float64):
    for seed in range(10):
      rng = np.random.default_rng(seed)
      for scale in (1e-10, 1.0, 1e10):
        jac = scale * samplers.strongly_stationary(rng, 5, 8)
        assert not direction(jac, 2.0, dtype)[0].any()
        # With c < 1 the mean's own ball does not reach that far: there the update is not 0.
        assert direction(jac, 0.2, dtype)[0].any()


def test_a_zero_row_stops_the_update_where_all_others_gain(x64):
  jac = np.abs(samplers.normal(np.random.default_rng(0), 4, 8))
  jac[2] = 0
  assert not direction(jac, 0.5)[0].any()                     # the dual's minimum is at the zero row, g_w = 0
