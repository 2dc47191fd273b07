"""Projection onto the simplex: by hand, by bisection, with absent tasks."""
import jax.numpy as jnp
import numpy as np
import pytest
from optim.calls import quick_jit

from mtjax.optim.solvers import project_simplex

project = quick_jit(project_simplex)


def by_bisection(v):
  """theta with sum max(v - theta, 0) = 1."""
  low, high = v.min() - 1, v.max()
  for _ in range(200):
    theta = (low + high) / 2
    low, high = (theta, high) if np.maximum(v - theta, 0).sum() > 1 else (low, theta)
  return np.maximum(v - theta, 0)


def test_by_hand(x64):
  np.testing.assert_allclose(project(jnp.array([0.5, 0.5, 0.5])), [1 / 3] * 3)
  np.testing.assert_allclose(project(jnp.array([1.2, 0.1, -0.4])), [1, 0, 0], atol=1e-12)
  np.testing.assert_allclose(project(jnp.array([0.502, 0.492])), [0.505, 0.495])


@pytest.mark.parametrize('scale', (1e-3, 1.0, 1e3))
def test_bisection(x64, scale):
  for seed in range(10):
    v = scale * np.random.default_rng(seed).normal(size=7)
    np.testing.assert_allclose(project(jnp.asarray(v)), by_bisection(v), atol=1e-9)


def test_what_lies_on_the_simplex_stays(x64):
  w = np.random.default_rng(0).dirichlet(np.ones(7))
  np.testing.assert_allclose(project(jnp.asarray(w)), w, atol=1e-12)


def test_large_common_shift_in_float32():
  w = project(jnp.array([1e6, 1e6, 1e6 - 10]))
  np.testing.assert_allclose(w, [0.5, 0.5, 0])


def test_absent_tasks(x64):
  v = np.array([0.3, 5.0, -0.2, np.nan, 0.4])
  active = np.array([True, False, True, False, True])
  w = project(jnp.asarray(v), jnp.asarray(active))
  np.testing.assert_allclose(w[active], by_bisection(v[active]), atol=1e-12)
  assert not w[~active].any()
  assert not project(jnp.asarray(v), jnp.zeros(5, bool)).any()


def test_one_task(x64):
  np.testing.assert_allclose(project(jnp.array([-3.0])), [1])
