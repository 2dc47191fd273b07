"""UPGrad, DualProj and PCD: optimality, preferences, scale."""
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from optim import calls, samplers

from mtjax import optim

A = np.array([[-4.0, 1, 1], [6, 1, 1]])


def update(tx, jac, **extra):
  return calls.update(tx, jac, **extra)[:2]


def project(jac, x):
  """The nearest point with J d >= 0, by Moreau's decomposition and non-negative least squares."""
  return x + jac.T @ scipy.optimize.nnls(jac.T, -x, maxiter=10_000)[0]


@pytest.mark.parametrize('preference', (None, (0.2, 0.0, 1.5, 0.1)))
def test_upgrad_adds_projections_and_dualproj_projects_the_sum(x64, preference):
  upgrad, dualproj = (make(preference=preference, regularisation=0.0) for make in (optim.upgrad, optim.dualproj))
  p = np.full(4, 0.25) if preference is None else np.array(preference)
  for seed in range(5):
    jac = samplers.normal(np.random.default_rng(seed), 4, 7)
    np.testing.assert_allclose(update(upgrad, jac)[0], sum(project(jac, p[t] * jac[t]) for t in range(4)), atol=1e-8)
    np.testing.assert_allclose(update(dualproj, jac)[0], project(jac, jac.T @ p), atol=1e-8)


def test_a_preference_is_used_as_it_is(x64):
  d, w = update(optim.upgrad(preference=(1, 1)), A)
  np.testing.assert_allclose(w, 2 * update(optim.upgrad(), A)[1], rtol=1e-9)


@pytest.mark.parametrize('scale', (1e-8, 1e-3, 1e3))
def test_upgrad_of_small_gradients_is_not_the_mean(x64, scale):
  # With an absolute 1e-4 beside J J^T the rule would be the mean, and g_1 . d = -2 in units of scale^2.
  d, _ = update(optim.upgrad(), scale * A)
  np.testing.assert_allclose(scale * A[0] @ d / scale**2, 2.63158, rtol=1e-5)
  np.testing.assert_allclose(A[0] @ A.mean(0), -2)


def test_dualproj_is_not_linear_under_scaling(x64):
  tx, a, b = optim.dualproj(), np.array([[1.0], [1.0]]), np.array([[4.0], [1.0]])  # the mean harms task 1, then task 2
  together = update(tx, (a + b) * A)[0]
  apart = update(tx, a * A)[0] + update(tx, b * A)[0]
  assert np.abs(together - apart).max() > 0.1


class TestPCD:
  """Two tasks have a closed form; more are a projection onto a polyhedron."""

  @pytest.mark.parametrize('tau', (0.0, 0.3, 1.0))
  def test_two_tasks(self, x64, tau):
    tx = optim.pcd(tau=tau)
    for seed in range(5):
      jac = samplers.normal(np.random.default_rng(seed), 2, 5)
      u = jac / np.linalg.norm(jac, axis=1, keepdims=True)
      d = u[0] + max(tau - u[1] @ u[0], 0) * u[1]
      d *= np.linalg.norm(jac[0]) / np.linalg.norm(d)
      np.testing.assert_allclose(update(tx, jac)[0], d, atol=1e-9)

  def test_nearest_point_of_the_polyhedron(self, x64):
    tx = optim.pcd(tau=0.4)
    for seed in range(5):
      jac = samplers.conditioned(np.random.default_rng(seed), 4, 7, spread=10)
      u = jac / np.linalg.norm(jac, axis=1, keepdims=True)
      d, w = update(tx, jac)
      np.testing.assert_allclose(np.linalg.norm(d), np.linalg.norm(jac[0]))
      # Before rescaling d* = u_1 + sum mu_j u_j, so the weight of u_1 tells the factor.
      star = d / (w[0] * np.linalg.norm(jac[0]))
      mu = w[1:] * np.linalg.norm(jac[1:], axis=1) / (w[0] * np.linalg.norm(jac[0]))
      slack = u[1:] @ star - 0.4
      assert slack.min() > -1e-9 and mu.min() >= 0
      np.testing.assert_allclose(mu * slack, 0, atol=1e-9)

  def test_without_conflict_the_first_gradient(self, x64):
    jac = np.abs(samplers.normal(np.random.default_rng(0), 3, 5))
    np.testing.assert_allclose(update(optim.pcd(tau=0.0), jac)[0], jac[0], rtol=1e-12)

  def test_the_first_active_task_is_primary(self, x64):
    jac = samplers.normal(np.random.default_rng(0), 4, 5)
    d, _ = update(optim.pcd(), jac, active=jnp.array([False, True, True, False]))
    np.testing.assert_allclose(d, update(optim.pcd(), jac[1:3])[0], rtol=1e-9)

  def test_full_opposition_is_no_update(self, x64):
    d, _ = update(optim.pcd(tau=0.0), np.array([[1.0, 2], [-2, -4]]))
    np.testing.assert_allclose(d, 0, atol=1e-12)
