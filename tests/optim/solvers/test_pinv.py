"""The pseudo-inverse of a symmetric matrix against numpy's."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim import samplers
from optim.calls import quick_jit

from mtjax.optim.solvers import cosines, hermitian_cut, pinv_apply, unit_trace

apply = quick_jit(pinv_apply)


@pytest.mark.parametrize('size', ((4, 4), (4, 2)))
@pytest.mark.parametrize('dtype', (np.float64, np.float32))
def test_numpy(size, dtype):
  with jax.enable_x64(dtype == np.float64):
    for seed in range(5):
      rng = np.random.default_rng(seed)
      jac = samplers.orthonormal(rng, 4, size[1]) * rng.uniform(0.5, 2, size=size[1])
      b = rng.normal(size=4)
      expected = np.linalg.pinv(jac @ jac.T, rcond=1e-6, hermitian=True) @ b
      np.testing.assert_allclose(
        apply(jnp.asarray(jac @ jac.T, dtype), jnp.asarray(b, dtype)), expected, atol=1e-10 if dtype == np.float64 else 1e-4)


def test_the_cut_is_relative_and_by_dtype(x64):
  # 8 eps T of the largest: 1.4e-14 in float64 and 7.6e-6 in float32 for T = 8.
  values = np.array([0, 1e-15, 1e-13, 5e-6, 1e-5, 0.1, 0.5, 1])
  for scale in (1e-20, 1.0, 1e20):
    assert hermitian_cut(jnp.asarray(scale * values)).tolist() == [False] * 2 + [True] * 6
    assert hermitian_cut(jnp.asarray(scale * values, jnp.float32)).tolist() == [False] * 4 + [True] * 4
  assert hermitian_cut(jnp.asarray(values, jnp.float32), 4).tolist() == [False] * 3 + [True] * 5
  assert not hermitian_cut(jnp.zeros(3)).any()


def test_scales(x64):
  jac = np.array([[3.0, 4.0], [0, 0], [0, 2]])
  cosine, norms, inverse = cosines(jnp.asarray(jac @ jac.T))
  np.testing.assert_allclose(cosine, [[1, 0, 0.8], [0, 0, 0], [0.8, 0, 1]])
  np.testing.assert_allclose(norms, [5, 0, 2])
  np.testing.assert_allclose(inverse, [0.2, 0, 0.5])
  gram, trace = unit_trace(jnp.asarray(jac @ jac.T))
  np.testing.assert_allclose((jnp.trace(gram), trace), (1, 29))
  np.testing.assert_allclose(unit_trace(jnp.zeros((2, 2)))[0], np.zeros((2, 2)))
