"""Projection onto the dual cone: optimality conditions, and least squares over the cone's generators."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from optim import samplers
from optim.calls import quick_jit

from mtjax.optim.solvers import project_weights

project = quick_jit(lambda gram, u: project_weights(gram, u, 1e-7))


def by_least_squares(jac, u):
  """pi_J(x) = x + J^T z with z the non-negative least squares solution of J^T z = -x (Moreau)."""
  x = jac.T @ u
  return x + jac.T @ scipy.optimize.nnls(jac.T, -x, maxiter=10_000)[0]


@pytest.mark.parametrize('dtype', (np.float64, np.float32))
def test_least_squares(dtype):
  with jax.enable_x64(dtype == np.float64):
    for seed in range(10):
      rng = np.random.default_rng(seed)
      jac = samplers.normal(rng, 20, 100)
      v = np.asarray(project(jnp.asarray(jac @ jac.T, dtype), jnp.full(20, 1 / 20, dtype)), np.float64)
      error = np.linalg.norm(jac.T @ v - by_least_squares(jac, np.full(20, 1 / 20)))
      # 1e-7 tr(G) I is 2e-6 of a mean row, which the solution's condition magnifies.
      assert error < 1e-4 * np.linalg.norm(jac)


def test_optimality(x64):
  for kind in samplers.KINDS.values():
    for seed in range(5):
      rng = np.random.default_rng(seed)
      jac = kind(rng, 20, 100) * 10 ** rng.uniform(0, 2, size=(20, 1))
      gram, u = jac @ jac.T, np.abs(rng.normal(size=20))
      v = np.asarray(project(jnp.asarray(gram), jnp.asarray(u)))
      matrix = gram / np.trace(gram) + 1e-7 * np.eye(20)
      y = matrix @ v
      # v >= u, y = M v >= 0, y^T (v - u) = 0: to the rounding of y.
      rounding = 1e-12 * (np.abs(matrix) @ np.abs(v)).max()
      assert (v >= u).all()
      assert y.min() > -rounding
      assert np.abs(y * (v - u)).max() < rounding * np.abs(v).max()


def test_short_rows_count_in_float32():
  # The second row is 1000 times shorter; without scaling it is lost in 1e-7 tr(G) and harmed.
  jac = np.array([[1.0, 0.0], [-1e-3, 1e-3]])
  with jax.enable_x64(True):
    double = np.asarray(project(jnp.asarray(jac @ jac.T), jnp.array([0.5, 0.5])))
  single = np.asarray(project(jnp.asarray(jac @ jac.T, jnp.float32), jnp.full(2, 0.5, jnp.float32)))
  np.testing.assert_allclose(single, double, rtol=1e-4)


def test_zero_rows_and_zero_matrix(x64):
  u = jnp.array([0.2, 0.5, 0.3])
  np.testing.assert_allclose(project(jnp.zeros((3, 3)), u), u)
  jac = np.array([[1.0, 0], [0, 0], [-2, 1]])
  v = project(jnp.asarray(jac @ jac.T), u)
  assert v[1] == 0.5
  np.testing.assert_allclose(project_weights(jnp.asarray(jac @ jac.T), u, 0.0), v, atol=1e-5)
