"""PCGrad and GradVac: plain loops over vectors beside the coefficient matrices, orders, targets, groups."""
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim import samplers
from optim.calls import aggregate, quick_jit, update

from mtjax import optim
from mtjax.optim.aggregators.gradvac import gradvac_coefficients
from mtjax.optim.aggregators.pcgrad import pcgrad_coefficients, random_orders

coefficients = quick_jit(pcgrad_coefficients)
vaccinated = quick_jit(gradvac_coefficients)


def pcgrad_loop(jac, orders):
  """The rows g'_i, on the vectors themselves."""
  rows = jac.copy()
  for i, order in enumerate(orders):
    for j in order:
      if j != i and rows[i] @ jac[j] < 0:
        rows[i] -= rows[i] @ jac[j] / (jac[j] @ jac[j]) * jac[j]
  return rows


def gradvac_loop(jac, targets, orders, beta):
  """The rows g'_i and the new targets."""
  rows, targets = jac.copy(), targets.copy()
  for i, order in enumerate(orders):
    for j in order:
      if j == i:
        continue
      norm, other = np.linalg.norm(rows[i]), np.linalg.norm(jac[j])
      phi, goal = rows[i] @ jac[j] / (norm * other), targets[i, j]
      if phi < goal:
        a = norm * (goal * np.sqrt(1 - phi**2) - phi * np.sqrt(1 - goal**2)) / (other * np.sqrt(1 - goal**2))
        rows[i] += a * jac[j]
      targets[i, j] = (1 - beta) * goal + beta * phi
  return rows, targets


def orders_of(rng, num_tasks):
  return np.stack([rng.permutation(num_tasks) for _ in range(num_tasks)])


@pytest.mark.parametrize('seed', range(5))
def test_pcgrad_loop(x64, seed):
  rng = np.random.default_rng(seed)
  jac, orders = samplers.normal(rng, 5, 4), orders_of(rng, 5)
  rows = np.asarray(coefficients(jnp.asarray(jac @ jac.T), jnp.asarray(orders))) @ jac
  np.testing.assert_allclose(rows, pcgrad_loop(jac, orders), atol=1e-10)


@pytest.mark.parametrize('seed', range(5))
def test_gradvac_loop_over_several_steps(x64, seed):
  rng = np.random.default_rng(seed)
  targets = expected = np.zeros((5, 5))
  for _ in range(4):
    jac, orders = samplers.normal(rng, 5, 8), orders_of(rng, 5)
    rows, expected = gradvac_loop(jac, expected, orders, 0.3)
    k, targets = vaccinated(jnp.asarray(jac @ jac.T), jnp.asarray(targets), jnp.asarray(orders), 0.3)
    np.testing.assert_allclose(np.asarray(k) @ jac, rows, atol=1e-9)
    np.testing.assert_allclose(targets, expected, atol=1e-9)


def test_orders_are_permutations_fresh_for_every_row_and_step():
  orders = np.asarray(jax.vmap(lambda key: random_orders(key, 5))(jax.random.split(jax.random.key(0), 100)))
  assert (np.sort(orders, axis=2) == np.arange(5)).all()
  assert len({tuple(row) for step in orders for row in step}) > 100  # of 5! = 120, 500 draws see nearly all
  same = (orders[:, 0] == orders[:, 1]).all(axis=1).mean()
  assert same < 0.1                                           # 1/120 expected: rows do not share an order
  assert (orders[:-1] == orders[1:]).all(axis=(1, 2)).sum() == 0
  first = orders[:, :, 0].reshape(-1)
  np.testing.assert_allclose(np.bincount(first) / len(first), 0.2, atol=0.07)


@pytest.mark.parametrize('make', (optim.pcgrad, optim.gradvac))
def test_draws_follow_key_seed_and_count(x64, make):
  jac = samplers.normal(np.random.default_rng(0), 6, 3)
  d, _, state = update(make(seed=1), jac)
  np.testing.assert_array_equal(update(make(seed=1), jac)[0], d)
  later = [update(make(seed=1), jac, state)[0], update(make(seed=2), jac)[0], update(make(), jac, key=jax.random.key(7))[0]]
  assert all(np.abs(e - d).max() > 1e-6 for e in later)
  np.testing.assert_array_equal(later[2], update(make(seed=5), jac, key=jax.random.key(7))[0])


def test_pcgrad_state_is_a_count():
  _, _, state = update(optim.pcgrad(), np.eye(3))
  assert len(state.inner) == 1 and state.inner.count.dtype == jnp.int32 and state.inner.count == 1


def test_pcgrad_does_not_see_the_order_of_tasks_in_distribution(x64):
  jac = samplers.normal(np.random.default_rng(3), 3, 3)
  order = [2, 0, 1]

  def all_results(jac):
    choices = [[o for o in itertools.permutations(range(3)) if o[0] == i] for i in range(3)]  # itself first: no matter
    return sorted(tuple(np.asarray(coefficients(jnp.asarray(jac @ jac.T), jnp.array(orders))).sum(0) @ jac)
                  for orders in itertools.product(*choices))

  np.testing.assert_allclose(all_results(jac), all_results(jac[order]), atol=1e-9)


def test_pcgrad_can_harm_one_of_three_tasks(x64):
  worst, tx = [], optim.pcgrad()
  for seed in range(50):
    jac = samplers.normal(np.random.default_rng(seed), 3, 3)
    worst.append((jac @ update(tx, jac)[0]).min() / np.linalg.norm(jac) ** 2)
  assert min(worst) < -1e-3


@pytest.mark.parametrize('make', (optim.pcgrad, optim.gradvac))
def test_zero_rows_are_passed_over(x64, make):
  jac = np.array([[1.0, 2], [0, 0], [3, 1]])
  np.testing.assert_allclose(update(make(), jac)[0], jac.sum(0), rtol=1e-12)


def test_absent_tasks_are_neither_met_nor_added(x64):
  rng = np.random.default_rng(0)
  jac, active = samplers.normal(rng, 5, 3), np.array([True, False, True, True, False])
  gram = np.where(active[:, None] & active, jac @ jac.T, 0)
  orders = orders_of(rng, 5)
  keep = np.flatnonzero(active)
  place = {t: i for i, t in enumerate(keep)}
  short = np.array([[place[j] for j in orders[i] if active[j]] for i in keep])
  k = np.asarray(coefficients(jnp.asarray(gram), jnp.asarray(orders)))[np.ix_(keep, keep)]
  np.testing.assert_allclose(k @ jac[keep], pcgrad_loop(jac[keep], short), atol=1e-10)
  targets = rng.uniform(-0.5, 0.5, size=(5, 5))
  k, new = vaccinated(jnp.asarray(gram), jnp.asarray(targets), jnp.asarray(orders), 0.3)
  rows, expected = gradvac_loop(jac[keep], targets[np.ix_(keep, keep)], short, 0.3)
  np.testing.assert_allclose(np.asarray(k)[np.ix_(keep, keep)] @ jac[keep], rows, atol=1e-9)
  np.testing.assert_allclose(np.asarray(new)[np.ix_(keep, keep)], expected, atol=1e-9)
  np.testing.assert_array_equal(np.asarray(new)[1], targets[1])  # what is absent keeps its targets


class TestGradVac:

  def test_first_step_is_pcgrad(self, x64):
    rng = np.random.default_rng(0)
    jac, orders = samplers.normal(rng, 5, 8), orders_of(rng, 5)
    k, _ = vaccinated(jnp.asarray(jac @ jac.T), jnp.zeros((5, 5)), jnp.asarray(orders), 0.01)
    np.testing.assert_allclose(k, coefficients(jnp.asarray(jac @ jac.T), jnp.asarray(orders)), atol=1e-10)

  def test_a_correction_reaches_its_target(self, x64):
    jac = samplers.normal(np.random.default_rng(1), 2, 5)
    phi = jac[0] @ jac[1] / np.prod(np.linalg.norm(jac, axis=1))
    for target in (phi + 0.1, 0.9, 0.999):
      k, new = vaccinated(jnp.asarray(jac @ jac.T), jnp.full((2, 2), target), jnp.array([[1], [0]]), 0.5)
      rows = np.asarray(k) @ jac
      for i in range(2):
        np.testing.assert_allclose(
          rows[i] @ jac[1 - i] / np.linalg.norm(rows[i]) / np.linalg.norm(jac[1 - i]), target, rtol=1e-9)
      np.testing.assert_allclose(new[0, 1], 0.5 * target + 0.5 * phi, rtol=1e-12)

  @pytest.mark.parametrize('row', (1.0, -1.0))
  def test_parallel_rows_divide_by_nothing(self, row):
    tx = optim.gradvac(beta=1.0)
    jac = np.array([[1.0, 2], [row, 2 * row], [1, -3]])
    d, _, state = update(tx, jac)
    for _ in range(3):
      d, _, state = update(tx, jac, state)
      assert np.isfinite(d).all() and np.isfinite(state.inner.targets).all()

  def test_groups_are_vaccinated_apart(self, x64):
    rng = np.random.default_rng(0)
    jac = {'a': {'kernel': rng.normal(size=(2, 3, 2)), 'bias': rng.normal(size=(2, 2))}, 'b': {'kernel': rng.normal(size=(2, 4))}}
    jac = jax.tree.map(jnp.asarray, jac)
    flat = lambda *leaves: np.concatenate([np.asarray(x).reshape(2, -1) for x in leaves], axis=1)
    order = [[1], [0]]                                        # two tasks: one order

    def expected(*leaves):
      return gradvac_loop(flat(*leaves), np.zeros((2, 2)), order, 0.01)[0].sum(0)

    tx = optim.gradvac(groups='layer')
    d, w, state = aggregate(tx, jac)
    together = expected(jac['a']['bias'], jac['a']['kernel'])
    np.testing.assert_allclose(d['a']['bias'], together[:2], atol=1e-10)
    np.testing.assert_allclose(d['a']['kernel'].reshape(-1), together[2:], atol=1e-10)
    np.testing.assert_allclose(d['b']['kernel'], expected(jac['b']['kernel']), atol=1e-10)
    assert w is None and tx.needs == 'jacobian' and state.inner.targets.shape == (2, 2, 2)

    tx = optim.gradvac(groups='matrix')
    d, _, state = aggregate(tx, jac)
    for layer, name in (('a', 'kernel'), ('a', 'bias'), ('b', 'kernel')):
      np.testing.assert_allclose(np.asarray(d[layer][name]).reshape(-1), expected(jac[layer][name]), atol=1e-10)
    assert state.inner.targets.shape == (2, 2, 3)

  def test_every_group_draws_orders_of_its_own(self, x64):
    leaf = samplers.normal(np.random.default_rng(0), 6, 3)
    jac = {'a': jnp.asarray(leaf), 'b': jnp.asarray(leaf)}
    tx = optim.gradvac(groups='matrix')
    d, _, _ = aggregate(tx, jac)
    assert np.abs(d['a'] - d['b']).max() > 1e-6
