"""What holds for all aggregators, or for those of which the table says so, on drawn matrices in float64.

Tolerances are relative to the lengths that the rounding is of: ||J|| ||w|| for d = J^T w, since weights may cancel.
"""
import hypothesis
import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from optim import samplers
from optim.table import METHODS, run

methods = lambda *names: pytest.mark.parametrize(
  'method', [m for m in METHODS if not names or any(m.has(n) for n in names)], ids=str)
drawn = lambda **cases: lambda test: hypothesis.settings(
  max_examples=20, deadline=None, derandomize=True, database=None)(hypothesis.given(**cases)(test))


@st.composite
def matrices(draw, kinds=tuple(samplers.KINDS), scales=(1.0,), full_rank=False):
  """(J, a generator for more)."""
  num_tasks, num_columns = draw(st.sampled_from(samplers.SIZES))
  kind = draw(st.sampled_from(kinds))
  hypothesis.assume(num_tasks > 1 or 'y stationary' not in kind or kind.startswith('not'))
  rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  if full_rank:
    hypothesis.assume(num_columns >= num_tasks)
    jac = samplers.conditioned(rng, num_tasks, num_columns, spread=draw(st.sampled_from((1.0, 100.0))))
  else:
    jac = samplers.KINDS[kind](rng, num_tasks, num_columns, draw(st.sampled_from((1, None))))
  return draw(st.sampled_from(scales)) * jac, rng


def norm(x):
  return np.linalg.norm(x)


def size(jac, d, w):
  """What the rounding of d is relative to."""
  return norm(jac) * norm(w) if w is not None else norm(jac) + norm(d)


def assert_never_conflicts(method, jac):
  """P1 up to 1e-8 ||J|| ||d||, the rounding of J d, and what the method's own regularisation makes of it."""
  d, w = run(method, jac)
  rounding = 1e-13 * norm(jac) * size(jac, d, w)
  assert (jac @ d).min() >= -1e-8 * norm(jac) * norm(d) - rounding - method.slack * norm(jac) ** 2


@methods('P1')
@drawn(case=matrices(scales=(1e-10, 1.0, 1e10)))
def test_p1_no_task_is_harmed(method, case):
  hypothesis.assume(len(case[0]) >= method.min_tasks)
  assert_never_conflicts(method, case[0])


@methods('P1', 'P1 full rank')
@drawn(case=matrices(full_rank=True))
def test_p1_at_full_rank(method, case):
  assert_never_conflicts(method, case[0])


@methods('P1', 'P1 two tasks')
@drawn(seed=st.integers(0, 2**32 - 1))
def test_p1_of_two_tasks(method, seed):
  assert_never_conflicts(method, samplers.normal(np.random.default_rng(seed), 2, 5))


@methods('P2')
@drawn(case=matrices())
def test_p2_permuting_tasks_changes_nothing(method, case):
  jac, rng = case
  hypothesis.assume(len(jac) >= method.min_tasks)
  order = rng.permutation(len(jac))
  losses = rng.uniform(1, 3, size=len(jac))
  (d, w), (e, _) = run(method, jac, losses=losses), run(method, jac[order], losses=losses[order])
  # Nearly singular Gramians amplify the rounding of G, which depends on the order, by up to 1 / regularisation.
  np.testing.assert_allclose(d, e, rtol=0, atol=1e-8 * size(jac, d, w))


@methods('P2')
@drawn(case=matrices(full_rank=True))
def test_p2_at_full_rank_to_the_last_digits(method, case):
  jac, rng = case
  hypothesis.assume(len(jac) >= method.min_tasks)
  order, losses = rng.permutation(len(jac)), rng.uniform(1, 3, size=len(jac))
  (d, w), (e, _) = run(method, jac, losses=losses), run(method, jac[order], losses=losses[order])
  np.testing.assert_allclose(d, e, rtol=0, atol=1e-10 * size(jac, d, w))


@methods('P3')
@drawn(case=matrices(full_rank=True))
def test_p3_linear_under_scaling(method, case):
  jac, rng = case
  a, b = rng.uniform(0.5, 2, size=(2, len(jac), 1))
  alpha, beta = rng.uniform(0.5, 2, size=2)
  together = run(method, (alpha * a + beta * b) * jac)[0]
  apart = alpha * run(method, a * jac)[0] + beta * run(method, b * jac)[0]
  # A regularisation relative to tr(G) is not linear: rows 100 times shorter than the longest feel it 1e4 times more.
  np.testing.assert_allclose(together, apart, rtol=0, atol=max(1e-10, 1e4 * method.slack) * norm(jac))


@methods('P4')
@pytest.mark.parametrize('seed', range(5))
def test_p4_no_rest_where_not_strongly_stationary(method, seed):
  rng = np.random.default_rng(seed)
  for num_tasks, num_columns in ((2, 3), (5, 8), (20, 100)):
    jac = samplers.weakly_stationary(rng, num_tasks, num_columns)
    assert norm(run(method, jac)[0]) > 1e-3 * norm(jac) / num_tasks


@pytest.mark.parametrize('method', [m for m in METHODS if m.name in ('mgda', 'upgrad exact', 'dualproj')], ids=str)
@pytest.mark.parametrize('seed', range(5))
def test_rest_where_strongly_stationary(method, seed):
  rng = np.random.default_rng(seed)
  for num_tasks, num_columns in ((2, 3), (5, 8), (20, 100)):
    jac = samplers.strongly_stationary(rng, num_tasks, num_columns)
    # d^2 <= regularisation tr(G) ||v||^2 with v the exact solution, which is of order 1 here.
    assert norm(run(method, jac)[0]) <= (1e-6 if method.name != 'dualproj' else 1e-3) * norm(jac)


@methods()
@drawn(case=matrices(full_rank=True), scale=st.sampled_from((1e-8, 1e-3, 1e3, 1e8)))
def test_p5_scale_of_the_whole_matrix(method, case, scale):
  jac, _ = case
  hypothesis.assume(len(jac) >= method.min_tasks)
  (d, w), (e, _) = run(method, jac), run(method, scale * jac)
  np.testing.assert_allclose(e / scale**method.degree, d, rtol=0, atol=1e-9 * size(jac, d, w))


@methods('P6')
@drawn(case=matrices(full_rank=True))
def test_p6_the_direction_does_not_see_the_scale_of_a_task(method, case):
  jac, rng = case
  d, e = run(method, jac)[0], run(method, 10 ** rng.uniform(-3, 3, size=(len(jac), 1)) * jac)[0]
  # IMTL-G's weights may sum to a negative number before they are normalised, and then d changes sides.
  sign = np.sign(d @ e) if method.name == 'imtl_g' else 1
  np.testing.assert_allclose(sign * e / norm(e), d / norm(d), rtol=0, atol=1e-9)


def test_imtl_g_points_the_wrong_way_where_its_weights_sum_to_a_negative_number():
  imtl_g, config = (next(m for m in METHODS if m.name == name) for name in ('imtl_g', 'config'))
  # C^-1 1 has a negative first entry, and a short first row makes it the largest of C^-1 1 / n.
  cosine = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, 0.7], [0.9, 0.7, 1.0]])
  solution = np.linalg.solve(cosine, np.ones(3))
  assert solution[0] < 0
  unit = np.linalg.cholesky(cosine)
  lengths = np.array([0.1, 1.0, 1.0])
  assert (solution / lengths).sum() < 0
  jac = lengths[:, None] * unit
  d, e = run(imtl_g, jac)[0], run(config, jac)[0]
  assert (jac @ d).max() < 0 < (jac @ e).min()
  np.testing.assert_allclose(d / norm(d), -e / norm(e), atol=1e-10)


@methods()
@drawn(case=matrices(scales=samplers.SCALES))
def test_p7_row_space(method, case):
  jac, _ = case
  hypothesis.assume(len(jac) >= method.min_tasks)
  d, w = run(method, jac)
  assert np.isfinite(d).all()
  if w is not None:
    assert np.isfinite(w).all()
    np.testing.assert_allclose(d, jac.T @ w, rtol=0, atol=1e-13 * size(jac, d, w))
  elif method.row_space:
    combination, *_ = np.linalg.lstsq(jac.T, d, rcond=None)
    np.testing.assert_allclose(d, jac.T @ combination, rtol=0, atol=1e-9 * (norm(jac) + norm(d)))


def degenerate():
  """Matrices on which divisions by zero, ties and thresholds show."""
  rng = np.random.default_rng(0)
  jac = rng.normal(size=(6, 9))
  yield 'zero', np.zeros((6, 9))
  yield 'a zero row', np.where(np.arange(6)[:, None] == 2, 0, jac)
  yield 'one row that is not zero', np.where(np.arange(6)[:, None] == 2, jac, 0)
  yield 'duplicate rows', jac[[0, 1, 1, 1, 4, 0]]
  yield 'opposite rows', np.concatenate([jac[:3], -jac[:3]])
  yield 'all rows equal', jac[[0] * 6]
  yield 'orthogonal', np.eye(6, 9)
  yield 'more tasks than columns', rng.normal(size=(9, 2))
  yield 'one column', rng.normal(size=(6, 1))
  yield 'lengths from 1e-4 to 1', jac * np.logspace(-4, 0, 6)[:, None]
  yield 'one task', jac[:1]
  yield 'one task, zero', np.zeros((1, 4))
  yield 'all tasks absent', np.zeros((0, 4))


@methods()
@pytest.mark.parametrize('dtype', (np.float64, np.float32))
def test_p7_finite_whatever_comes(method, dtype):
  for name, jac in degenerate():
    for scale in (1e-10, 1.0, 1e10) if jac.any() else (1.0,):
      if len(jac) >= method.min_tasks or len(jac) == 0:
        d, w = run(method, scale * jac, dtype)
        assert np.isfinite(d).all() and (w is None or np.isfinite(w).all()), f'{name}, scale {scale}'
        if not jac.any():
          assert not d.any(), name


@methods()
@drawn(case=matrices(full_rank=True), scale=st.sampled_from((1e-10, 1.0, 1e10)))
def test_float32_is_float64_to_1e_4(method, case, scale):
  jac, _ = case
  hypothesis.assume(len(jac) >= method.min_tasks and len(jac) > 1)
  jac = jac.astype(np.float32).astype(np.float64)
  if method.degree == 1:
    jac = scale * jac
  (d, w), (e, _) = run(method, jac), run(method, jac, np.float32)
  # Rows up to 100 times shorter than others: a relative rounding of G of 1e-7 is 1e-3 of their own entries.
  spread = np.linalg.norm(jac, axis=1).max() / np.linalg.norm(jac, axis=1).min()
  np.testing.assert_allclose(e, d, rtol=0, atol=1e-4 * max(1, spread / 10) * size(jac, d, w))


def orderless(method, jac):
  """J as it is; for a method that draws orders, which depend on T, one in which no order matters."""
  if method.draws_orders:
    jac = np.abs(jac)
    jac[:1] *= np.where(np.arange(jac.shape[1]) < 2, -3, 0.1) if len(jac) > 1 else 1
    jac[2:] = 0
  return jac


@methods()
def test_an_absent_task_is_a_deleted_row_and_jit_is_eager(method):
  num_tasks = max(3, method.min_tasks)
  jac = orderless(method, samplers.normal(np.random.default_rng(1), num_tasks, 6))
  (d, w), (e, v) = run(method, jac), run(method, jac, padded=False)
  with jax.disable_jit():
    eager, _ = run(method, jac, padded=False)
  np.testing.assert_allclose(d, e, rtol=0, atol=1e-12 * size(jac, d, w))
  np.testing.assert_allclose(eager, e, rtol=0, atol=1e-12 * size(jac, d, w))
  if w is not None:
    np.testing.assert_allclose(w, v, rtol=0, atol=1e-10 * norm(w))


@methods()
def test_one_task(method):
  if method.min_tasks > 1:
    with pytest.raises(ValueError, match='at least .* tasks, got 1'), jax.disable_jit():
      run(method, np.ones((1, 6)), padded=False)
    return
  jac = np.arange(1.0, 7)[None, :]
  d, w = run(method, jac)
  with jax.disable_jit():
    e, v = run(method, jac, padded=False)
  np.testing.assert_allclose(d, e, rtol=1e-12)
  assert v is None or v.shape == (1,)
  # One task is followed: d is a positive multiple of its gradient.
  np.testing.assert_allclose(d / norm(d), jac[0] / norm(jac), rtol=1e-12)
