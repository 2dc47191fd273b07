"""The projection onto the simplex: by hand, against bisection, with masks, at all scales."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax.optim.solvers import project_simplex

project = jax.jit(project_simplex)


def bisection(v):
  """max(v - theta, 0) with theta found by halving an interval until its sum is 1."""
  low, high = v.min() - 2, v.max()
  for _ in range(200):
    theta = (low + high) / 2
    low, high = (theta, high) if np.maximum(v - theta, 0).sum() > 1 else (low, theta)
  return np.maximum(v - low, 0)


@pytest.mark.parametrize('v, w', [
  ([0.5, 0.5, 0.5], [1 / 3] * 3),          # a common shift
  ([1.2, 0.1, -0.4], [1, 0, 0]),           # 1.2 - 0.2; 0.1 is below theta
  ([0.2, 0.3, 0.5], [0.2, 0.3, 0.5]),      # on the simplex already
  ([0.502, 0.492, -9], [0.505, 0.495, 0]),
])
def test_by_hand(v, w):
  np.testing.assert_allclose(project(jnp.array(v)), w, atol=1e-7)


@pytest.mark.parametrize('scale', [1e-10, 1.0, 1e10])
def test_against_bisection(scale):
  for seed in range(20):
    v = np.random.default_rng(seed).normal(size=5) * scale
    with jax.enable_x64(True):
      np.testing.assert_allclose(project(jnp.asarray(v)), bisection(v), atol=1e-15 * max(scale, 10))  # a few roundings of v
    w = project(jnp.asarray(v, jnp.float32))
    assert w.dtype == jnp.float32 and (w >= 0).all()
    np.testing.assert_allclose(w.sum(), 1, atol=1e-6)


def test_masking_is_deletion():
  for seed in range(20):
    rng = np.random.default_rng(seed)
    v, active = rng.normal(size=5).astype(np.float32), rng.random(5) < 0.6
    w = np.asarray(project(jnp.where(active, v, jnp.nan), jnp.asarray(active)))
    assert not w[~active].any()
    if active.any():
      np.testing.assert_allclose(w[active], bisection(v[active].astype(float)), atol=1e-6)  # float32


def test_one_task_ties_and_nobody():
  np.testing.assert_array_equal(project(jnp.array([-7.0])), [1.0])
  np.testing.assert_allclose(project(jnp.zeros(5)), np.full(5, 0.2), atol=1e-7)
  np.testing.assert_array_equal(project(jnp.array([3.0, 1, 2, 0, 5]), jnp.zeros(5, bool)), np.zeros(5))
