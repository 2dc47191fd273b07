"""MGDA and MGDA-UB: the card's sentences; the solver itself is tested beside the solvers."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim import samplers
from optim.calls import aggregate, quick_jit, update

from mtjax import optim
from mtjax.optim.solvers import min_norm

solve = quick_jit(min_norm)


def weights(tx, jac, losses=None):
  return update(tx, jac, **({} if losses is None else dict(losses=losses)))[1]


@pytest.mark.parametrize('seed', range(3))
def test_every_task_gains_at_least_the_squared_length(x64, seed):
  jac = samplers.not_weakly_stationary(np.random.default_rng(seed), 4, 7)
  d = jac.T @ weights(optim.mgda(), jac)
  assert ((jac @ d) >= d @ d * (1 - 1e-9)).all()


def test_a_zero_row_is_pareto_stationary(x64):
  jac = samplers.normal(np.random.default_rng(0), 4, 7)
  jac[2] = 0
  np.testing.assert_allclose(jac.T @ weights(optim.mgda(), jac), 0, atol=1e-15)


@pytest.mark.parametrize('normalize', ('l2', 'loss', 'loss+'))
def test_normalised_weights_combine_the_gradients_themselves(x64, normalize):
  jac, losses = samplers.normal(np.random.default_rng(0), 4, 7), np.array([0.1, 2.0, 5.0, 1.0])
  lengths = np.linalg.norm(jac, axis=1)
  divisor = {'l2': lengths, 'loss': losses, 'loss+': losses * lengths}[normalize]
  scaled = jac / divisor[:, None]
  expected = np.asarray(solve(jnp.asarray(scaled @ scaled.T)))
  w = weights(optim.mgda(normalize=normalize), jac, losses)
  np.testing.assert_allclose(w, expected, atol=1e-6)


def test_losses_of_zero_are_no_division_by_zero(x64):
  jac = samplers.normal(np.random.default_rng(0), 4, 7)
  tx = optim.mgda(normalize='loss')
  for losses in (np.zeros(4), np.array([0.0, 1, 1, 1])):
    assert np.isfinite(weights(tx, jac, losses)).all()


def test_losses_are_asked_for():
  with pytest.raises(ValueError, match="normalize='loss' divides by the losses: pass losses"):
    weights(optim.mgda(normalize='loss'), np.eye(3))


def test_frank_wolfe_gets_fewer_steps(x64):
  jac = samplers.normal(np.random.default_rng(1), 4, 7)
  one, many = (weights(optim.mgda(solver='fw', num_iters=n), jac) for n in (1, 100))
  assert np.linalg.norm(jac.T @ one) > np.linalg.norm(jac.T @ many)


class TestFeatures:
  """z = Q theta with orthonormal rows of Q, two heads on z: the bound is exact, one backward pass of the trunk suffices."""

  def problem(self):
    rng = np.random.default_rng(0)
    q = samplers.orthonormal(rng, 9, 4).T.reshape(2, 2, 9)    # z: [batch 2, features 2]
    targets = rng.normal(size=(3, 2, 2))
    passes = []

    @jax.custom_vjp
    def trunk(theta):
      return jnp.einsum('npd,d->np', q, theta)

    def backward(_, cotangent):
      passes.append(1)
      return (jnp.einsum('npd,np->d', q, cotangent),)

    trunk.defvjp(lambda theta: (trunk(theta), None), backward)
    losses = lambda z: 0.5 * jnp.sum((z[None] - targets) ** 2, axis=(1, 2))
    return trunk, losses, jnp.asarray(rng.normal(size=9)), passes

  def test_equal_to_mgda_at_the_cost_of_one_backward_pass(self, x64):
    trunk, losses, theta, passes = self.problem()
    jac = jax.jacrev(lambda theta: losses(trunk(theta)))(theta)
    tx = optim.mgda()
    d, _, _ = update(tx, jac)
    passes.clear()
    z, to_theta = jax.vjp(trunk, theta)
    tx = optim.mgda_ub()
    assert tx.at == 'features' and optim.mgda().at == 'parameters'
    cotangent, _, _ = aggregate(tx, jax.jacrev(losses)(z))
    np.testing.assert_allclose(to_theta(cotangent)[0], d, atol=1e-9)
    assert len(passes) == 1

  def test_summed_over_the_batch_is_another_statistic(self, x64):
    trunk, losses, theta, _ = self.problem()
    u = jax.jacrev(losses)(trunk(theta))                      # [T, N, p]
    tx = optim.mgda_ub(statistic='summed')
    d, w, _ = aggregate(tx, u)
    summed = np.asarray(u.sum(1))
    np.testing.assert_allclose(w, solve(jnp.asarray(summed @ summed.T)), atol=1e-9)
    np.testing.assert_allclose(d, np.einsum('t,tnp->np', w, u), atol=1e-12)
    flat, _, _ = aggregate(optim.mgda_ub(), u)
    assert np.abs(flat - d).max() > 1e-3
    active = jnp.array([True, False, True])
    _, w, _ = aggregate(tx, u, active=active)
    np.testing.assert_allclose(w[active], solve(jnp.asarray(summed[[0, 2]] @ summed[[0, 2]].T)), atol=1e-9)
