"""The shortest vector of a convex hull: optimality conditions, enumeration of supports, and a plain Frank-Wolfe loop."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim import samplers
from optim.calls import quick_jit

from mtjax.optim.solvers import frank_wolfe, min_norm

exact = quick_jit(min_norm)
fw = quick_jit(frank_wolfe, static_argnames='num_iters')


def by_enumeration(gram):
  """The best minimiser over the affine hull of any subset that lies in the simplex."""
  best = None
  for chosen in itertools.chain.from_iterable(
      itertools.combinations(range(len(gram)), k) for k in range(1, len(gram) + 1)):
    part = gram[np.ix_(chosen, chosen)]
    # Stationary with sum 1: [G 1; 1 0] (w, mu) = (0, 1).
    system = np.block([[part, np.ones((len(chosen), 1))], [np.ones((1, len(chosen))), np.zeros((1, 1))]])
    solution = np.linalg.lstsq(system, np.append(np.zeros(len(chosen)), 1), rcond=None)[0][:-1]
    if solution.min() > -1e-12 and abs(solution.sum() - 1) < 1e-9:
      w = np.zeros(len(gram))
      w[list(chosen)] = solution
      if best is None or w @ gram @ w < best @ gram @ best:
        best = w
  return best


def frank_wolfe_loop(gram, num_iters):
  """The card's step rule, one case at a time."""
  w = np.full(len(gram), 1 / len(gram))
  for _ in range(num_iters):
    t = np.argmin(gram @ w)
    a, b, c = (gram @ w)[t], w @ gram @ w, gram[t, t]
    if c <= a:
      gamma = 1.0
    elif b <= a:
      gamma = 0.0
    else:
      gamma = (b - a) / (b + c - 2 * a)
    w = (1 - gamma) * w
    w[t] += gamma
    if gamma < 1e-3:
      break
  return w


def test_two_tasks_closed_form(x64):
  for seed in range(20):
    jac = np.random.default_rng(seed).normal(size=(2, 3)) * [[1], [5]]
    g = jac @ jac.T
    gamma = np.clip((g[1, 1] - g[0, 1]) / (g[0, 0] + g[1, 1] - 2 * g[0, 1]), 0, 1)
    np.testing.assert_allclose(exact(jnp.asarray(g)), [gamma, 1 - gamma], atol=1e-6)


@pytest.mark.parametrize('seed', range(10))
def test_enumeration(x64, seed):
  jac = samplers.normal(np.random.default_rng(seed), 5, 8)
  w = np.asarray(exact(jnp.asarray(jac @ jac.T)))
  # The regularisation of 1e-7 of the cosines shows in weights, magnified by the condition of the support.
  np.testing.assert_allclose(jac.T @ w, jac.T @ by_enumeration(jac @ jac.T), atol=1e-5 * np.linalg.norm(jac))


@pytest.mark.parametrize('kind', samplers.KINDS)
@pytest.mark.parametrize('dtype', (np.float64, np.float32))
def test_optimality(kind, dtype):
  with jax.enable_x64(dtype == np.float64):
    for seed in range(10):
      rng = np.random.default_rng(seed)
      # Lengths that differ by 1e4: without equilibration float32 is off by percents.
      jac = samplers.KINDS[kind](rng, 20, 100) * 10 ** rng.uniform(0, 4, size=(20, 1))
      jac = jac.astype(dtype).astype(np.float64)
      gram = jac @ jac.T
      w = np.asarray(exact(jnp.asarray(gram, dtype)), np.float64)
      assert w.min() >= 0
      np.testing.assert_allclose(w.sum(), 1, rtol=1e-6)
      d = jac.T @ w
      lengths = np.linalg.norm(jac, axis=1)
      if lengths.min() < 1e-12 * lengths.max():               # a zero row, up to rounding
        assert np.linalg.norm(d) <= 2 * lengths.min()
        continue
      # (G w)_t >= w^T G w, equal on the support; relative to ||g_t|| times the scale of d, the shortest row.
      gap = (gram @ w - d @ d) / (lengths * lengths.min())
      tolerance = 2e-5 if dtype == np.float64 else 1e-3
      assert gap.min() > -tolerance
      assert np.abs(gap * (w * lengths) / lengths.min()).max() < 10 * tolerance


def test_float32_is_close_to_float64():
  for seed in range(10):
    rng = np.random.default_rng(seed)
    jac = (samplers.not_weakly_stationary(rng, 20, 100) * 10 ** rng.uniform(0, 4, size=(20, 1))).astype(np.float32)
    gram = jac.astype(np.float64) @ jac.T.astype(np.float64)
    single = np.asarray(exact(jnp.asarray(gram, jnp.float32)))
    with jax.enable_x64(True):
      double = np.asarray(exact(jnp.asarray(gram)))
    np.testing.assert_allclose(single, double, atol=2e-4)      # the card's bound away from anti-parallel rows


def test_zero_rows_take_all_the_weight(x64):
  jac = np.array([[1.0, 2], [0, 0], [3, 1], [0, 0]])
  np.testing.assert_allclose(exact(jnp.asarray(jac @ jac.T)), [0, 0.5, 0, 0.5])
  np.testing.assert_allclose(exact(jnp.zeros((4, 4))), [0.25] * 4)


def test_duplicates_share_but_d_is_unique(x64):
  jac = samplers.normal(np.random.default_rng(0), 3, 5)
  doubled = jac[[0, 1, 1, 2]]
  d = jac.T @ np.asarray(exact(jnp.asarray(jac @ jac.T)))
  np.testing.assert_allclose(doubled.T @ np.asarray(exact(jnp.asarray(doubled @ doubled.T))), d, atol=1e-6)


def test_absent_tasks_are_as_if_deleted(x64):
  jac = samplers.normal(np.random.default_rng(0), 6, 8)
  active = np.array([True, True, False, True, False, True])
  gram = np.where(active[:, None] & active, jac @ jac.T, np.nan)
  for solve in (exact, fw):
    w = np.asarray(solve(jnp.asarray(gram), jnp.asarray(active)))
    alone = np.asarray(solve(jnp.asarray(jac[active] @ jac[active].T)))
    assert not w[~active].any()
    np.testing.assert_allclose(w[active], alone, atol=1e-12)


@pytest.mark.parametrize('seed', range(10))
def test_frank_wolfe_is_the_plain_loop(x64, seed):
  jac = samplers.normal(np.random.default_rng(seed), 5, 8)
  gram = jac @ jac.T
  for num_iters in (1, 7, 100):
    np.testing.assert_allclose(fw(jnp.asarray(gram), num_iters=num_iters), frank_wolfe_loop(gram, num_iters), atol=1e-9)


def test_frank_wolfe_stops_short_of_the_solution(x64):
  misses = []
  for seed in range(30):
    jac = samplers.normal(np.random.default_rng(seed), 5, 8)
    d, e = (jac.T @ np.asarray(solve(jnp.asarray(jac @ jac.T))) for solve in (exact, fw))
    misses.append(np.linalg.norm(e - d) / np.linalg.norm(d))
    assert np.linalg.norm(e) >= np.linalg.norm(d) * (1 - 1e-6)
  assert 1e-4 < np.median(misses)
