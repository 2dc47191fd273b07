"""Nash-MTL and FairGrad as aggregators; the equation itself is tested beside the solvers."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim import samplers
from optim.calls import quick_jit, update

from mtjax import optim


@pytest.fixture
def jac():
  return samplers.conditioned(np.random.default_rng(0), 5, 8, spread=10)


def test_nash(x64, jac):
  d, w, _ = update(optim.nash_mtl(max_norm=None), jac)
  np.testing.assert_allclose(w * (jac @ jac.T @ w), 1, rtol=1e-9)
  np.testing.assert_allclose(jac @ d, 1 / w, rtol=1e-9)
  np.testing.assert_allclose(d @ d, 5, rtol=1e-9)
  tx = optim.nash_mtl(max_norm=None)
  for scale in (1e-6, 1e6):
    scaled, v, _ = update(tx, scale * jac)
    np.testing.assert_allclose(scaled, d, rtol=1e-8)
    np.testing.assert_allclose(v, w / scale, rtol=1e-8)


def test_nash_where_lengths_differ_by_1e4(x64):
  jac = samplers.conditioned(np.random.default_rng(1), 4, 7) * np.array([[1.0], [1e-4], [1e2], [1e-2]])
  _, w, _ = update(optim.nash_mtl(max_norm=None), jac)
  np.testing.assert_allclose(w * (jac @ jac.T @ w), 1, rtol=1e-9)


@pytest.mark.parametrize('max_norm', (1.0, 0.3))
def test_clip(x64, jac, max_norm):
  d, w, _ = update(optim.nash_mtl(max_norm=max_norm), jac)
  free, v, _ = update(optim.nash_mtl(max_norm=None), jac)
  np.testing.assert_allclose(np.linalg.norm(d), max_norm, rtol=1e-12)
  np.testing.assert_allclose(d / max_norm, free / np.linalg.norm(free), rtol=1e-9)
  np.testing.assert_allclose(w / v, max_norm / np.sqrt(5), rtol=1e-9)


@pytest.mark.parametrize('max_norm', (None, 0, float('inf'), 10.0))
def test_no_clip(x64, jac, max_norm):
  np.testing.assert_allclose(np.linalg.norm(update(optim.nash_mtl(max_norm=max_norm), jac)[0]), np.sqrt(5))


def test_clip_in_float32_at_all_scales(jac):
  tx = optim.nash_mtl()
  for scale in (1e-10, 1.0, 1e10):
    np.testing.assert_allclose(np.linalg.norm(update(tx, scale * jac)[0]), 1, rtol=1e-5)


class TestEveryK:
  """Weights are solved for at every k-th update and used in between; the clip follows the gradients of the step."""

  def test_reuse(self, x64, jac):
    tx, each = optim.nash_mtl(max_norm=None, every_k=3), optim.nash_mtl(max_norm=None)
    rng, state, last = np.random.default_rng(1), None, None
    for step in range(7):
      jac = jac + 0.1 * rng.normal(size=jac.shape)
      _, w, state = update(tx, jac, state)
      last = update(each, jac)[1] if step % 3 == 0 else last
      np.testing.assert_allclose(w, last, rtol=1e-6)
    assert state.inner.count == 7 and state.inner.w.shape == (5,)

  def test_clip_of_reused_weights(self, x64, jac):
    tx = optim.nash_mtl(max_norm=0.5, every_k=10)
    _, _, state = update(tx, jac)
    d, _, _ = update(tx, 100 * jac, state)
    np.testing.assert_allclose(np.linalg.norm(d), 0.5, rtol=1e-12)

  def test_a_task_that_joins_is_solved_for(self, x64, jac):
    tx = optim.nash_mtl(max_norm=None, every_k=10)
    active = jnp.array([True, True, False, True, True])
    _, w, state = update(tx, jac, active=active)
    assert w[2] == 0
    _, w, _ = update(tx, jac, state)
    np.testing.assert_allclose(w, update(optim.nash_mtl(max_norm=None), jac)[1], rtol=1e-6)

  def test_in_a_scan_with_the_number_of_tasks_given(self, jac):
    tx = optim.nash_mtl(every_k=2)
    step = lambda state, jac: tx.aggregate({'w': jac}, state)[2:0:-1]
    state, ws = jax.lax.scan(step, tx.init({'w': jnp.zeros(8)}, 5), jnp.asarray(jac, jnp.float32)[None].repeat(4, 0))
    assert ws.shape == (4, 5) and state.inner.count == 4


@pytest.mark.parametrize('alpha', (0.5, 2.0, 10.0))
def test_fairgrad(x64, jac, alpha):
  d, w, _ = update(optim.fairgrad(alpha=alpha), jac)
  np.testing.assert_allclose(jac @ d, w ** (-1 / alpha), rtol=1e-8)
  _, v, _ = update(optim.fairgrad(alpha=alpha), 10 * jac)
  np.testing.assert_allclose(v, 100 ** (-alpha / (alpha + 1)) * w, rtol=1e-8)


def test_alpha_0_is_the_mean(x64, jac):
  np.testing.assert_allclose(update(optim.fairgrad(alpha=0), jac)[0], jac.mean(0), rtol=1e-12)
  d, w, _ = update(optim.fairgrad(alpha=1e-3), samplers.orthonormal(np.random.default_rng(0), 8, 5).T)
  np.testing.assert_allclose(w, 1, rtol=1e-6)                 # the equation's own limit: the direction of the mean


def test_large_alpha_is_max_min(x64):
  jac = samplers.conditioned(np.random.default_rng(0), 5, 8)
  d, e = update(optim.fairgrad(alpha=1000.0, num_iters=200), jac)[0], update(optim.mgda(), jac)[0]
  # At the limit G w = 1 on the support, so d = d_mgda / ||d_mgda||^2.
  np.testing.assert_allclose(d / np.linalg.norm(d), e / np.linalg.norm(e), atol=1e-2)


def test_heads(jac):
  info = optim.Info(gramian=jnp.asarray(jac @ jac.T), active=jnp.array([True, True, True, False, True]))
  for make in (optim.nash_mtl, optim.fairgrad):
    tx = make()
    w, _ = quick_jit(tx.weights)(tx.init({}), info)
    np.testing.assert_allclose(make().head_weights(w, info), w)
    np.testing.assert_allclose(make(scale_heads=False).head_weights(w, info), [1, 1, 1, 0, 1])
  np.testing.assert_allclose(optim.mgda().head_weights(w, info), [1, 1, 1, 0, 1])
  np.testing.assert_allclose(optim.mgda(scale_heads=True).head_weights(w, info), w)


def test_heads_of_tasks_without_shared_gradient_keep_learning(jac):
  # Zero-initialised heads send nothing to the trunk at first; a head weight of 0 would leave them so for ever.
  tx = optim.nash_mtl()
  w, _ = quick_jit(tx.weights)(tx.init({}), optim.Info(gramian=jnp.zeros((3, 3))))
  np.testing.assert_allclose(w, 1)
