"""The two-task toy: its losses by a slow reference, its Pareto set by the gradients, and what is known of methods on it."""
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import toy_pareto
from mtjax import optim


def reference(x1, x2):
  """The losses as the card has them."""
  f1 = math.log(max(abs(0.5 * (-x1 - 7) - math.tanh(-x2)), 5e-6)) + 6
  f2 = math.log(max(abs(0.5 * (-x1 + 3) + math.tanh(-x2) + 2), 5e-6)) + 6
  c1, c2 = max(math.tanh(0.5 * x2), 0), max(math.tanh(-0.5 * x2), 0)
  s1 = ((-x1 + 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
  s2 = ((-x1 - 7) ** 2 + 0.1 * (-x2 - 8) ** 2) / 10 - 20
  return f1 * c1 + s1 * c2, f2 * c1 + s2 * c2


def distance(points):
  return np.linalg.norm(np.asarray(toy_pareto.pareto_set(701))[None] - np.asarray(points)[:, None], axis=-1).min(1)


@functools.cache
def ends(name, num_steps):
  tx = optax.chain(getattr(optim, name)(), optax.adam(1e-3))
  return jax.jit(jax.vmap(lambda start: toy_pareto.descend(tx, start, num_steps, every=num_steps)[-1]))(
    jnp.array(toy_pareto.STARTS))


@pytest.mark.parametrize('point', [*toy_pareto.STARTS, (0.0, 0.0), (3.3, -1.2), (-7.0, 5.0), (6.9, 0.4)])
def test_losses_are_those_of_the_paper(point):
  np.testing.assert_allclose(toy_pareto.losses(jnp.array(point)), reference(*point), rtol=2e-5)  # float32 logarithms


def test_at_the_pareto_set_a_mixture_of_the_gradients_vanishes():
  points = toy_pareto.pareto_set(29)
  np.testing.assert_allclose(points[14], [0.0, -8.3552], atol=1e-4)
  np.testing.assert_array_equal(points[[0, -1], 0], [-7, 7])
  for x in points:
    share = (1 + x[0] / 7) / 2
    jac = jax.jacrev(toy_pareto.losses)(x)
    # The gradients are up to 2.8 long; x2 is found to 1e-6, times a curvature below 1.
    np.testing.assert_allclose(share * jac[0] + (1 - share) * jac[1], 0, atol=1e-5)


def test_a_path_is_that_of_a_plain_loop():
  tx = optax.chain(optim.famo(gamma=0.0, bounds=-20.0), optax.adam(0.1))
  found = toy_pareto.descend(tx, jnp.array([-8.5, 7.5]), num_steps=6, every=2)
  x, expected = jnp.array([-8.5, 7.5]), []
  state = tx.init(x)
  for step in range(7):
    expected += [x] if step % 2 == 0 else []
    values = toy_pareto.losses(x)
    updates, state = tx.update(jax.jacrev(toy_pareto.losses)(x), state, x, losses=values, losses_after=values)
    x = x + updates
  np.testing.assert_allclose(found, np.stack(expected), rtol=1e-6)  # jitted or not


def test_steps_must_be_whole_stretches():
  with pytest.raises(ValueError, match='num_steps must be a multiple of every = 4, got 6.'):
    toy_pareto.descend(optax.chain(optim.mgda(), optax.adam(1e-3)), jnp.zeros(2), 6, every=4)


def test_the_sum_gets_stuck_in_the_valleys_from_two_of_three_starts():
  found = distance(ends('linear_scalarisation', 20_000))
  assert found[1] < 0.01 and (found[[0, 2]] > 10).all(), found


def test_nash_mtl_and_mgda_come_down_from_all_starts():
  # At 20,000 steps of 1e-3 Nash has arrived (a step's width of the set), MGDA is on its way down the last unit.
  assert (distance(ends('nash_mtl', 20_000)) < 0.05).all() and (distance(ends('mgda', 20_000)) < 1.5).all()
