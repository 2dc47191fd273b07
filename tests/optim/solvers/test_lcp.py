"""Block principal pivoting against enumeration of all free sets, and against non-negative least squares."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from optim import samplers
from optim.calls import quick_jit

from mtjax.optim.solvers import regularised, solve_lcp

solve = quick_jit(solve_lcp)
solve_all = quick_jit(lambda matrix, qs: jax.vmap(lambda q: solve_lcp(matrix, q))(qs))


def by_enumeration(matrix, q):
  """The one free set of which z >= 0 and y >= 0."""
  size = len(q)
  for chosen in itertools.chain.from_iterable(itertools.combinations(range(size), k) for k in range(size + 1)):
    free, z = list(chosen), np.zeros(size)
    z[free] = np.linalg.solve(matrix[np.ix_(free, free)], -q[free])
    if z.min() >= 0 and np.delete(matrix @ z + q, free).min(initial=0) >= 0:
      return z
  raise AssertionError('a positive definite matrix has exactly one')


def by_least_squares(matrix, q):
  """argmin_{z >= 0} 1/2 z^T M z + q^T z with M = L L^T is that of ||L^T z + L^-1 q||."""
  factor = np.linalg.cholesky(matrix)
  return scipy.optimize.nnls(factor.T, -np.linalg.solve(factor, q), maxiter=10_000)[0]


def spread_gramian(rng, kind, num_tasks, num_columns):
  jac = samplers.KINDS[kind](rng, num_tasks, num_columns) * 10 ** rng.uniform(0, 4, size=(num_tasks, 1))
  gram = jac @ jac.T
  return gram / np.trace(gram)


def test_by_hand(x64):
  # Free {0}: z_0 = 1/2, y_1 = -1 * 1/2 + 3 > 0.
  z, free = solve(jnp.array([[2.0, -1.0], [-1.0, 2.0]]), jnp.array([-1.0, 3.0]))
  np.testing.assert_allclose(z, [0.5, 0])
  assert free.tolist() == [True, False]
  # Both free: z = M^-1 (1, 1) = (1, 1).
  np.testing.assert_allclose(solve(jnp.array([[2.0, -1.0], [-1.0, 2.0]]), -jnp.ones(2))[0], [1, 1])


def test_nothing_to_do_where_q_is_positive(x64):
  z, free = solve(jnp.eye(5), jnp.arange(5.0))
  assert not z.any() and not free.any()


@pytest.mark.parametrize('seed', range(20))
def test_enumeration(x64, seed):
  rng = np.random.default_rng(seed)
  factor = rng.normal(size=(5, 5))
  matrix, q = factor @ factor.T + 0.01 * np.eye(5), rng.normal(size=5)
  z, free = solve(jnp.asarray(matrix), jnp.asarray(q))
  np.testing.assert_allclose(z, by_enumeration(matrix, q), atol=1e-9)
  assert (np.asarray(z) > 0).tolist() == free.tolist()


@pytest.mark.parametrize('kind', samplers.KINDS)
@pytest.mark.parametrize('num_columns', (5, 100))
def test_least_squares_on_all_kinds_of_gramians_float64(x64, kind, num_columns):
  for seed in range(10):
    rng = np.random.default_rng(seed)
    matrix = spread_gramian(rng, kind, 20, num_columns) + 1e-7 * np.eye(20)
    qs = np.concatenate([matrix / 20, [matrix @ np.full(20, 1 / 20)]])
    zs = np.asarray(solve_all(jnp.asarray(matrix), jnp.asarray(qs))[0])
    for z, q in zip(zs, qs):
      assert z.min() >= 0
      y = matrix @ z + q
      # Complementarity, to the rounding of y.
      assert y.min() > -1e-12 * np.abs(matrix * z).max() - 1e-14 and np.abs(y * z).max() < 1e-9
      error = z - by_least_squares(matrix, q)
      assert error @ matrix @ error <= (1e-11) ** 2 * max(q @ np.linalg.solve(matrix, q), 1)


@pytest.mark.parametrize('kind', samplers.KINDS)
def test_least_squares_on_all_kinds_of_gramians_float32(kind):
  for seed in range(10):
    rng = np.random.default_rng(seed)
    gram = spread_gramian(rng, kind, 20, 5).astype(np.float32)
    matrix = np.asarray(regularised(jnp.asarray(gram), 1e-4))
    q = matrix @ np.full(20, 1 / 20, np.float32)
    error = np.asarray(solve(jnp.asarray(matrix), jnp.asarray(q))[0], np.float64)
    error -= by_least_squares(matrix.astype(np.float64), q.astype(np.float64))
    # In the length that the solution has as an update, relative to the mean's: the card's 5e-5 at this regularisation.
    p = np.full(20, 1 / 20)
    assert error @ matrix @ error <= (5e-5) ** 2 * (p @ matrix @ p)


def test_a_start_from_the_solution_ends_there(x64):
  rng = np.random.default_rng(3)
  factor = rng.normal(size=(20, 20))
  matrix, q = jnp.asarray(factor @ factor.T), jnp.asarray(rng.normal(size=20))
  z, free = solve(matrix, q)
  again, same = solve(matrix, q, free)
  np.testing.assert_allclose(again, z, atol=1e-12)
  assert (same == free).all()
  other, _ = solve(matrix, q, ~free)
  np.testing.assert_allclose(other, z, atol=1e-12)


def test_singular_in_float32_ends_near_a_solution():
  # Rank 5 of 20, regularised by no more than rounding: signs need not settle, the objective does.
  for seed in range(20):
    rng = np.random.default_rng(seed)
    jac = samplers.normal(rng, 20, 5).astype(np.float32)
    matrix = np.asarray(regularised(jnp.asarray(jac @ jac.T / (jac**2).sum()), 0.0))
    q = (matrix @ rng.normal(size=20)).astype(np.float32)
    z = np.asarray(solve(jnp.asarray(matrix), jnp.asarray(q))[0], np.float64)
    matrix, q = matrix.astype(np.float64), q.astype(np.float64)
    reference = by_least_squares(matrix, q)
    value, least = (0.5 * x @ matrix @ x + q @ x for x in (z, reference))
    assert np.isfinite(z).all() and z.min() >= 0
    assert value <= least + 1e-4 * abs(least) + 1e-6


def test_regularised_by_no_less_than_rounding(x64):
  np.testing.assert_allclose(regularised(jnp.zeros((3, 3)), 0.5), 0.5 * np.eye(3))
  assert 0 < regularised(jnp.zeros((3, 3)), 0.0)[0, 0] < 1e-14
  assert 1e-7 < regularised(jnp.zeros((3, 3), jnp.float32), 0.0)[0, 0] < 1e-5
