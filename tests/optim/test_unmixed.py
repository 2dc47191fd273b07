"""Unmixed sampling: frequencies, one draw for all hosts, absent tasks, what the draw weighs."""
import jax
import jax.numpy as jnp
import numpy as np

from mtjax import optim
from mtjax.optim.weightings.unmixed import draw_task

SAMPLING = (0.6, 0.3, 0.1)
LOSSES = optim.Info(losses=jnp.ones(3))


def tasks_of(tx, info=LOSSES, steps=20, state=None):
  state, drawn = tx.init(None, 3) if state is None else state, []
  for _ in range(steps):
    w, state = tx.weights(state, info)
    assert w.sum() == 1 and w[state.inner.task] == 1
    drawn.append(int(state.inner.task))
  return drawn


def test_frequencies():
  count = 20_000
  drawn = jax.jit(jax.vmap(lambda key: draw_task(key, jnp.array(SAMPLING))))(jax.random.split(jax.random.key(0), count))
  shares = np.bincount(drawn, minlength=3) / count
  errors = np.sqrt(np.array(SAMPLING) * (1 - np.array(SAMPLING)) / count)
  assert (np.abs(shares - SAMPLING) < 4 * errors).all()                 # four standard errors, at a fixed seed


def test_draws_are_a_function_of_seed_and_step():
  tx = optim.unmixed(SAMPLING)
  first = tasks_of(tx)
  assert first == tasks_of(optim.unmixed(SAMPLING)) and len(set(first)) > 1
  assert first != tasks_of(optim.unmixed(SAMPLING, seed=1))
  _, state = tx.weights(tx.init(None, 3), LOSSES)
  assert tasks_of(tx, steps=19, state=state) == first[1:]               # a resumed run goes on
  keyed = [tasks_of(optim.unmixed(SAMPLING, seed=seed), LOSSES.replace(key=jax.random.key(5)), 3) for seed in (0, 1)]
  assert keyed[0] == keyed[1]


def test_absent_tasks_are_not_drawn():
  active = jnp.array([False, True, True])
  drawn = tasks_of(optim.unmixed(SAMPLING), LOSSES.replace(active=active), 40)
  assert set(drawn) == {1, 2}
  other = optim.unmixed((0.75, 0.25))
  state = other.init(None, 2)
  for task in drawn:                                                    # the draw of the others alone
    _, state = other.weights(state, optim.Info(losses=jnp.ones(2)))
    assert int(state.inner.task) + 1 == task
  w, _ = optim.unmixed(SAMPLING).weights(state, LOSSES.replace(active=jnp.zeros(3, bool)))
  np.testing.assert_array_equal(w, 0)


def test_the_ends_of_the_interval(monkeypatch):
  for number, task in ((0.0, 1), (1.0, 2)):       # 1.0 is what a draw just below may round to, times the sum
    with monkeypatch.context() as patch:
      patch.setattr(jax.random, 'uniform', lambda key, dtype, number=number: jnp.asarray(number, dtype))
      assert int(draw_task(jax.random.key(0), jnp.array([0.0, 0.7, 0.3, 0.0]))) == task
  ratios = jnp.array([0.0, 0.7, 0.3, 0.0])
  drawn = jax.vmap(lambda key: draw_task(key, ratios))(jax.random.split(jax.random.key(1), 2000))
  assert set(np.asarray(drawn).tolist()) == {1, 2}


def test_update_is_the_gradient_of_the_drawn_task_and_so_are_the_heads():
  tx = optim.unmixed(SAMPLING)
  assert tx.needs == 'losses'
  jac = jnp.arange(6.0).reshape(3, 2)
  d, w, state = tx.aggregate(jac, tx.init(jac[0]), losses=jnp.ones(3))
  np.testing.assert_array_equal(d, jac[int(state.inner.task)])
  np.testing.assert_array_equal(tx.head_weights(w, LOSSES), w)
