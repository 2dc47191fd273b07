"""Two matrices worked out by hand for every rule, to the printed digits, and identities between rules at full rank."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim import calls, samplers
from optim.table import mean

from mtjax import optim
from mtjax.optim.aggregators.gradvac import gradvac_coefficients
from mtjax.optim.aggregators.pcgrad import pcgrad_coefficients

A = np.array([[-4.0, 1, 1], [6, 1, 1]])                       # G = [[18, -22], [-22, 38]]
B = np.array([[1.0, 0, 0], [-1, 1, 0], [0, -1, 1]])           # G = [[1, -1, 0], [-1, 2, -1], [0, -1, 2]]
P = functools.partial

WORKED = {
  'mean': (mean, A, [0.5, 0.5], [1, 1, 1]),
  'mean B': (mean, B, [1 / 3] * 3, [0, 0, 1 / 3]),
  'mgda': (optim.mgda, A, [0.6, 0.4], [0, 1, 1]),
  'mgda B': (optim.mgda, B, [0.42857, 0.35714, 0.21429], [0.07143, 0.14286, 0.21429]),
  'pcgrad': (optim.pcgrad, A, [2.2222, 1.5789], [0.5848, 3.8012, 3.8012]),
  'pcgrad mean': (P(optim.pcgrad, reduction='mean'), A, [1.11111, 0.78947], [0.29240, 1.90058, 1.90058]),
  'upgrad': (P(optim.upgrad, regularisation=0.0), A, [1.11111, 0.78947], [0.29240, 1.90058, 1.90058]),
  'upgrad by default': (optim.upgrad, A, [1.11111, 0.78947], [0.29240, 1.90058, 1.90058]),
  'upgrad B': (P(optim.upgrad, regularisation=0.0), B, [1, 0.88889, 0.61111], [0.11111, 0.27778, 0.61111]),
  'upgrad of the authors': (P(optim.upgrad, regularisation=1e-4), A, [1.11092, 0.78943], [0.29290, 1.90035, 1.90035]),
  'dualproj': (P(optim.dualproj, regularisation=0.0), A, [0.61111, 0.5], [0.55556, 1.11111, 1.11111]),
  'dualproj B': (P(optim.dualproj, regularisation=0.0), B, [1 / 3] * 3, [0, 0, 1 / 3]),
  'cagrad .5': (P(optim.cagrad, c=0.5, rescale=0), A, [0.70412, 0.5], [0.1835, 1.20412, 1.20412]),
  'cagrad .2': (P(optim.cagrad, c=0.2, rescale=0), A, [0.58165, 0.5], [0.6734, 1.08165, 1.08165]),
  'imtl_g': (optim.imtl_g, A, [0.59233, 0.40767], [0.07670, 1, 1]),
  'imtl_g B': (optim.imtl_g, B, [0.41832, 0.36056, 0.22112], [0.05776, 0.13944, 0.22112]),
  'config': (optim.config, A, [1.22648, 0.84412], [0.15881, 2.07061, 2.07061]),
  'config B': (optim.config, B, [1.29055, 1.11237, 0.68218], [0.17819, 0.43018, 0.68218]),
  'nash_mtl': (P(optim.nash_mtl, max_norm=None), A, [0.59146, 0.40707], [0.07658, 0.99853, 0.99853]),
  'nash_mtl B': (P(optim.nash_mtl, max_norm=None), B, [2.66927, 2.29463, 1.48420], [0.37463, 0.81043, 1.48420]),
  'fairgrad 1': (optim.fairgrad, A, [0.59146, 0.40707], [0.07658, 0.99853, 0.99853]),
  'fairgrad 1 B': (optim.fairgrad, B, [2.66927, 2.29463, 1.48420], [0.37463, 0.81043, 1.48420]),
  'fairgrad 2': (P(optim.fairgrad, alpha=2.0), A, [0.47136, 0.31945], [0.03127, 0.79082, 0.79082]),
  'fairgrad .5': (P(optim.fairgrad, alpha=0.5), A, [0.74283, 0.52539], [0.18104, 1.26822, 1.26822]),
  'aligned_mtl': (optim.aligned_mtl, A, [0.55907, 0.40826], [0.21328, 0.96733, 0.96733]),
  'aligned_mtl B': (optim.aligned_mtl, B, [0.37840, 0.33368, 0.23145], [0.04471, 0.10223, 0.23145]),
  'aligned_mtl rmse': (P(optim.aligned_mtl, mode='rmse'), A, [1.51087, 1.10331], [0.57638, 2.61417, 2.61417]),
}


@pytest.mark.parametrize('name', WORKED)
@pytest.mark.parametrize('dtype', ('float64', 'float32'))
def test_worked(name, dtype):
  make, jac, weights, direction = WORKED[name]
  with jax.enable_x64(dtype == 'float64'):
    tx = made(make)
    d, w, _ = calls.update(tx, jac.astype(dtype))
  assert w.dtype == d.dtype == dtype
  digits = 6e-6 if 'pcgrad' != name else 6e-5                 # half of the last printed digit, rounded up
  digits = digits if dtype == 'float64' else digits + 1e-5
  np.testing.assert_allclose(w, weights, rtol=0, atol=digits)
  np.testing.assert_allclose(d, direction, rtol=0, atol=digits)


@pytest.mark.parametrize('orders, weights, direction', [
  ([[1, 2], [0, 2], [0, 1]], [2, 2, 1.75], [0, 0.25, 1.75]),
  ([[2, 1], [2, 0], [1, 0]], [2.5, 2, 1.5], [0.5, 0.5, 1.5]),
])
def test_pcgrad_of_b_in_two_orders(x64, orders, weights, direction):
  w = np.asarray(pcgrad_coefficients(jnp.asarray(B @ B.T), jnp.array(orders))).sum(0)
  np.testing.assert_allclose(w, weights, atol=1e-12)
  np.testing.assert_allclose(B.T @ w, direction, atol=1e-12)
  # GradVac with targets 0 does the same.
  coefficients, _ = gradvac_coefficients(jnp.asarray(B @ B.T), jnp.zeros((3, 3)), jnp.array(orders), 0.01)
  np.testing.assert_allclose(np.asarray(coefficients).sum(0), weights, atol=1e-12)


def test_gramians_of_a_and_b(x64):
  np.testing.assert_allclose(optim.gramian({'w': jnp.asarray(A)}), [[18, -22], [-22, 38]])
  np.testing.assert_allclose(optim.gramian({'w': jnp.asarray(B)}), [[1, -1, 0], [-1, 2, -1], [0, -1, 2]])


@functools.cache
def made(make):
  return make()


def update(make, jac):
  """(d, w) from a fresh state."""
  return calls.update(made(make), jac)[:2]


def unit(x):
  return x / np.linalg.norm(x)


@pytest.mark.parametrize('seed', range(3))
class TestIdentities:
  """(a) to (f) on random J of full row rank."""

  def jac(self, seed, num_tasks=2):
    return samplers.conditioned(np.random.default_rng(seed), num_tasks, 7, spread=10)

  def test_a_upgrad_of_two_tasks_is_pcgrad(self, x64, seed):
    jac = samplers.normal(np.random.default_rng(seed), 2, 7)
    np.testing.assert_allclose(update(P(optim.upgrad, preference=(1, 1), regularisation=0.0), jac)[1],
                               update(optim.pcgrad, jac)[1], rtol=1e-9)

  def test_b_two_tasks_nash_imtl_and_config_are_parallel(self, x64, seed):
    jac = self.jac(seed)
    lengths = np.linalg.norm(jac, axis=1)
    for make in (P(optim.nash_mtl, max_norm=None), optim.imtl_g, optim.config):
      np.testing.assert_allclose(unit(update(make, jac)[1]), unit(1 / lengths), rtol=1e-9)

  def test_c_imtl_and_config_are_parallel_up_to_sign(self, x64, seed):
    jac = self.jac(seed, 5)
    d, e = update(optim.imtl_g, jac)[0], update(optim.config, jac)[0]
    np.testing.assert_allclose(abs(unit(d) @ unit(e)), 1, rtol=1e-12)
    np.testing.assert_allclose(np.ptp(jac @ unit(e) / np.linalg.norm(jac, axis=1)), 0, atol=1e-10)

  def test_d_nash_is_fairgrad_with_alpha_1(self, x64, seed):
    jac = self.jac(seed, 5)
    np.testing.assert_allclose(update(P(optim.nash_mtl, max_norm=None), jac)[1],
                               update(P(optim.fairgrad, alpha=1.0), jac)[1], rtol=1e-12)

  def test_e_without_conflict_nothing_is_projected(self, x64, seed):
    jac = np.abs(self.jac(seed, 5))                           # all inner products are >= 0
    np.testing.assert_allclose(update(optim.pcgrad, jac)[0], jac.sum(0), rtol=1e-12)
    p = (0.5, 0.2, 0.1, 0.1, 0.4)
    for make in (optim.upgrad, optim.dualproj):
      np.testing.assert_allclose(update(P(make, preference=p), jac)[1], p, rtol=1e-12)

  def test_f_orthogonal_rows_of_equal_length(self, x64, seed):
    jac = 3 * samplers.orthonormal(np.random.default_rng(seed), 7, 5).T
    for make in (optim.mgda, optim.imtl_g, optim.aligned_mtl):
      np.testing.assert_allclose(update(make, jac)[0], jac.mean(0), atol=1e-6)
    np.testing.assert_allclose(update(optim.imtl_g, jac)[1], 1 / 5, rtol=1e-12)
