"""IMTL-G, ConFIG, M-ConFIG and Aligned-MTL."""
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optim import calls, samplers

from mtjax import optim


def update(tx, jac, **extra):
  return calls.update(tx, jac, **extra)[:2]


@pytest.fixture
def jac():
  return samplers.conditioned(np.random.default_rng(0), 5, 8, spread=10)


def units(jac):
  return jac / np.linalg.norm(jac, axis=1, keepdims=True)


def config_by_pinv(jac, p=None):
  """The definition, on J itself."""
  lengths = np.linalg.norm(jac, axis=1, keepdims=True)
  u = np.divide(jac, lengths, out=np.zeros_like(jac), where=lengths > 0)
  direction = np.linalg.pinv(u, rcond=1e-7) @ (np.ones(len(jac)) if p is None else p)
  direction /= np.linalg.norm(direction)
  return (jac @ direction).sum() * direction


class TestIMTLG:

  def test_equal_projections_and_weights_that_sum_to_1(self, x64, jac):
    d, w = update(optim.imtl_g(), jac)
    np.testing.assert_allclose(w.sum(), 1, rtol=1e-12)
    np.testing.assert_allclose(units(jac) @ d, (units(jac) @ d)[0], rtol=1e-9)

  def test_the_papers_form(self, x64, jac):
    difference, unit_difference = jac[0] - jac[1:], units(jac)[0] - units(jac)[1:]
    others = jac[0] @ unit_difference.T @ np.linalg.inv(difference @ unit_difference.T)
    np.testing.assert_allclose(update(optim.imtl_g(), jac)[1], np.append(1 - others.sum(), others), atol=1e-9)

  def test_two_tasks(self, x64, jac):
    inverse = 1 / np.linalg.norm(jac[:2], axis=1)
    np.testing.assert_allclose(update(optim.imtl_g(), jac[:2])[1], inverse / inverse.sum(), rtol=1e-9)

  def test_weights_that_sum_to_nothing_are_no_update(self, x64):
    # Cosines whose C^-1 1 is (-1, 1, 1) up to a factor, and lengths that make the sum of C^-1 1 / n vanish.
    cosine = np.array([[1.0, 0.9, 0.9], [0.9, 1.0, 0.7], [0.9, 0.7, 1.0]])
    solution = np.linalg.solve(cosine, np.ones(3))
    lengths = np.array([-solution[0] / (solution[1] + solution[2]), 1, 1])
    d, w = update(optim.imtl_g(), lengths[:, None] * np.linalg.cholesky(cosine))
    assert not w.any() and not d.any()


class TestConFIG:

  def test_equal_cosines_and_length(self, x64, jac):
    d, _ = update(optim.config(), jac)
    cosines = units(jac) @ d / np.linalg.norm(d)
    np.testing.assert_allclose(cosines, cosines[0], rtol=1e-9)
    assert np.ptp(jac @ d) > 0.1                              # not equal dot products
    np.testing.assert_allclose(np.linalg.norm(d), (jac @ (d / np.linalg.norm(d))).sum(), rtol=1e-12)

  @pytest.mark.parametrize('size', ((3, 5), (5, 3)))
  def test_definition(self, x64, size):
    tx = optim.config()
    for seed in range(5):
      jac = np.random.default_rng(seed).normal(size=size)
      np.testing.assert_allclose(update(tx, jac)[0], config_by_pinv(jac), atol=1e-9)

  def test_zero_rows_stay_zero(self, x64, jac):
    jac[1] = 0
    np.testing.assert_allclose(update(optim.config(), jac)[0], config_by_pinv(jac), atol=1e-9)

  def test_preference(self, x64, jac):
    p = np.array([1.0, 2, 0.5, 1, 3])
    d, _ = update(optim.config(preference=p), jac)
    cosines = units(jac) @ d / np.linalg.norm(d)
    np.testing.assert_allclose(cosines / p, (cosines / p)[0], rtol=1e-9)
    np.testing.assert_allclose(d, config_by_pinv(jac, p), atol=1e-9)


class TestMConFIG:

  def reference(self, jacs, actives, lr, b1=0.9, b2=0.999, eps=1e-8):
    """Algorithm 1, one loop."""
    num_tasks, size = jacs[0].shape
    momenta, steps = np.zeros((num_tasks, size)), np.zeros(num_tasks, int)
    theta, v, last = np.zeros(size), np.zeros(size), np.zeros(size)
    for t, (jac, active) in enumerate(zip(jacs, actives), 1):
      for i in np.flatnonzero(active):
        momenta[i] = b1 * momenta[i] + (1 - b1) * jac[i]
        steps[i] += 1
      seen = steps > 0
      d = config_by_pinv(momenta[seen] / (1 - b1 ** steps[seen])[:, None])
      pseudo = (d * (1 - b1**t) - b1 * last) / (1 - b1)
      last = d * (1 - b1**t)
      v = b2 * v + (1 - b2) * pseudo**2
      theta = theta - lr * d / (np.sqrt(v / (1 - b2**t)) + eps)
    return theta

  @pytest.mark.parametrize('mixed', (True, False))
  def test_with_adam_it_is_the_algorithm(self, x64, mixed):
    rng = np.random.default_rng(0)
    jacs = list(rng.normal(size=(8, 3, 6)))
    actives = [np.ones(3, bool) if mixed else np.arange(3) == t % 3 for t in range(8)]
    tx = optax.chain(optim.m_config(beta=0.9), optax.adam(1e-2, b1=0.9))
    step = calls.quick_jit(lambda jac, state, params, active: tx.update(jac, state, params, active=active))
    params = {'w': jnp.zeros(6)}
    state = tx.init(params)
    for jac, active in zip(jacs, actives):
      jac = np.where(active[:, None], jac, np.nan)            # what is absent is not read
      updates, state = step({'w': jnp.asarray(jac)}, state, params, jnp.asarray(active))
      params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params['w'], self.reference(jacs, actives, 1e-2), rtol=1e-6)

  def test_first_update_is_config(self, x64, jac):
    np.testing.assert_allclose(update(optim.m_config(), jac)[0], update(optim.config(), jac)[0], rtol=1e-9)

  def test_a_task_that_never_came_is_as_if_deleted(self, x64, jac):
    tx, active = optim.m_config(), jnp.array([True, True, False, True, True])
    keep = np.array([0, 1, 3, 4])
    state = alone = None
    for scale in (1.0, 0.3, 2.0):
      d, _, state = calls.update(tx, scale * jac, state, active=active)
      e, _, alone = calls.update(tx, scale * jac[keep], alone)
      np.testing.assert_allclose(d, e, rtol=1e-9)


class TestAlignedMTL:

  @pytest.mark.parametrize('mode, sigma', (('min', np.min), ('rmse', np.mean), ('median', lambda x: np.sort(x)[2])))
  def test_singular_values(self, x64, jac, mode, sigma):
    # The columns of B are the weights of unit preferences.
    b = np.stack([update(optim.aligned_mtl(mode=mode, preference=p), jac)[1] for p in np.eye(5)], axis=1)
    eigenvalues = np.linalg.eigvalsh(jac @ jac.T)
    np.testing.assert_allclose(np.linalg.svd(jac.T @ b)[1], np.sqrt(sigma(eigenvalues)), rtol=1e-9)

  @pytest.mark.parametrize('mode, sigma', (('min', np.min), ('median', lambda x: np.sort(x)[0])))
  def test_rank_deficient(self, x64, mode, sigma):
    # Rank 2: the median of two is the lower, so both modes agree; from the singular value decomposition of J.
    jac = samplers.orthonormal(np.random.default_rng(0), 4, 2) * [3, 0.5] @ samplers.orthonormal(
      np.random.default_rng(1), 6, 2).T
    u, s, vt = np.linalg.svd(jac, full_matrices=False)
    d = vt[:2].T @ u[:, :2].T @ np.full(4, 0.25) * sigma(s[:2])
    np.testing.assert_allclose(update(optim.aligned_mtl(mode=mode), jac)[0], d, atol=1e-9)

  def test_rank_deficient_in_float32(self):
    tx = optim.aligned_mtl()
    for seed in range(10):
      rng = np.random.default_rng(seed)
      jac = samplers.orthonormal(rng, 8, 3) * [1, 0.9, 0.8] @ samplers.orthonormal(rng, 30, 3).T
      d, _ = update(tx, jac.astype(np.float32))
      u, s, vt = np.linalg.svd(jac, full_matrices=False)
      np.testing.assert_allclose(d, vt[:3].T @ u[:, :3].T @ np.full(8, 1 / 8) * s[2], atol=1e-5)

  def test_orthogonal_rows_of_equal_length(self, x64):
    jac = 3 * samplers.orthonormal(np.random.default_rng(0), 7, 5).T
    for mode in ('min', 'median', 'rmse'):
      np.testing.assert_allclose(update(optim.aligned_mtl(mode=mode), jac)[0], jac.mean(0), rtol=1e-9)

  def test_the_preference_of_libmtl(self, x64, jac):
    d, e = update(optim.aligned_mtl(preference=[1] * 5), jac)[0], update(optim.aligned_mtl(), jac)[0]
    np.testing.assert_allclose(d, 5 * e, rtol=1e-12)
