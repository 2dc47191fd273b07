"""Task-balanced gradient normalisation: the four checks of the method, a plain loop, untouched parameters."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import stateful

from mtjax import optim
from mtjax.training.optimizer import make_optimizer

RNG = np.random.default_rng(6)
GRADS, TASKS = RNG.normal(size=(8, 6)), [0, 1, 0, 0, 1, 0, 1, 1]
START = RNG.normal(size=6)
SAMPLING, OMEGA = (0.8, 0.2), (1.0, 0.5)


def run(tx, grads=GRADS, tasks=TASKS, dtype=jnp.float32):
  """Parameters after each step [steps, 6]."""
  params, out = stateful.as_tree(START, dtype), []
  state, step = tx.init(params), jax.jit(lambda g, state, params, task: tx.update(g, state, params, task=task))
  for g, task in zip(grads, tasks):
    updates, state = step(stateful.as_tree(g, dtype), state, params, jnp.int32(task))
    params = optax.apply_updates(params, updates)
    out.append(stateful.as_matrix(params))
  return np.array(out)


def test_the_scale_of_a_tasks_loss_does_not_matter():
  tx = optim.tbgn(0.1, sampling=SAMPLING, weight_decay=0.01)
  scales = np.array([1e-10, 1e10])[TASKS]
  np.testing.assert_allclose(run(tx, GRADS * scales[:, None]), run(tx), rtol=1e-4, atol=1e-5)   # float32


def test_one_task_is_adamw_on_the_normalised_gradient():
  with jax.enable_x64(True):
    unit = GRADS / np.linalg.norm(GRADS, axis=1, keepdims=True)
    mask = {'a': True, 'b': {'c': False}}
    settings = dict(b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.3, mask=mask)
    expected = run(optax.adamw(0.1, **settings), unit, dtype=jnp.float64)
    for sampling in (None, (1.0,)):
      moved = run(optim.tbgn(0.1, sampling=sampling, **settings), GRADS, [0] * 8, jnp.float64)
      np.testing.assert_allclose(moved, expected, atol=1e-12)                 # float64


def test_without_memory_it_is_the_sign_over_the_root_of_the_ratio():
  tx = optim.scale_by_tbgn(b1=0.0, b2=0.0, eps=0.0, sampling=SAMPLING)
  params, g = stateful.as_tree(START), np.array([1.0, -2, 3, -4, 0, 6])
  for task, size in ((0, 1.118034), (1, 2.236068)):                           # 1 / sqrt(.8), 1 / sqrt(.2)
    step, _ = tx.update(stateful.as_tree(g), tx.init(params), params, task=task)
    np.testing.assert_allclose(stateful.as_matrix(step), size * np.sign(g), rtol=1e-6)   # and no 0 / 0


def test_expected_moments_do_not_depend_on_the_sampling():
  g = RNG.normal(size=(2, 6))
  unit = g / np.linalg.norm(g, axis=1, keepdims=True)
  params = stateful.as_tree(START)
  for sampling in (SAMPLING, (0.3, 0.7)):
    tx = optim.scale_by_tbgn(b1=0.9, b2=0.99, sampling=sampling, omega=OMEGA)
    states = [tx.update(stateful.as_tree(g[k]), tx.init(params), params, task=k)[1] for k in range(2)]
    m, v = (sum(s * stateful.as_matrix(getattr(state, field)) for s, state in zip(sampling, states)) for field in ('mu', 'nu'))
    omega = np.array(OMEGA)[:, None]
    np.testing.assert_allclose(m, 0.1 * (omega * unit).sum(0), rtol=1e-5)     # float32
    np.testing.assert_allclose(v, 0.01 * ((omega * unit) ** 2).sum(0), rtol=1e-5)


def test_against_a_loop():
  theta, m, v, expected = START.copy(), np.zeros(6), np.zeros(6), []
  for count, (g, k) in enumerate(zip(GRADS, TASKS), start=1):
    g = OMEGA[k] * g / np.linalg.norm(g)
    m = 0.9 * m + 0.1 * g / SAMPLING[k]
    v = 0.999 * v + 0.001 * g**2 / SAMPLING[k]
    step = m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
    theta = theta - 0.1 / count * (step + 0.2 * theta)
    expected.append(theta)
  tx = optim.tbgn(lambda count: 0.1 / (count + 1), omega=OMEGA, sampling=SAMPLING, weight_decay=0.2)
  with jax.enable_x64(True):
    np.testing.assert_allclose(run(tx, dtype=jnp.float64), expected, atol=1e-12)          # float64


def test_no_gradient_is_no_nan_and_moves_like_a_gradient_of_zero():
  grads = GRADS.copy()
  grads[[0, 5]] = 0
  moved = run(optim.tbgn(0.1, sampling=SAMPLING), grads)
  np.testing.assert_array_equal(moved[0], START.astype(np.float32))
  assert np.isfinite(moved).all() and (moved[5] != moved[4]).all()            # by the momentum


def test_untouched_parameters_wait_on_demand():
  grads = GRADS.copy()
  grads[np.array(TASKS) == 0, 2:] = 0                                         # leaf b/c is task 1's own
  lazy = run(optim.tbgn(0.1, sampling=SAMPLING, mask_untouched=True), grads)
  plain = run(optim.tbgn(0.1, sampling=SAMPLING), grads)
  for k, task in enumerate(TASKS):
    before = START.astype(np.float32) if k == 0 else lazy[k - 1]
    assert (lazy[k, :2] != before[:2]).all()
    assert (lazy[k, 2:] != before[2:]).all() == (task == 1)
  assert (plain[3, 2:] != plain[2, 2:]).all()                                 # as written: m goes on by itself
  # Each leaf is as if the other's steps had not been.
  own = [k for k, task in enumerate(TASKS) if task == 1]
  norms = np.linalg.norm(grads, axis=1)
  m, v, theta = np.zeros(4), np.zeros(4), START[2:]
  for count, k in enumerate(own, start=1):
    g = grads[k, 2:] / norms[k]
    m, v = 0.9 * m + 0.1 * g / 0.2, 0.999 * v + 0.001 * g**2 / 0.2
    theta = theta - 0.1 * m / (1 - 0.9**count) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8)
  np.testing.assert_allclose(lazy[-1, 2:], theta, rtol=1e-4, atol=1e-5)       # float32


def test_a_drawn_task_trains_in_one_jit_with_its_optimizer():
  draw, tx = optim.unmixed(SAMPLING, seed=3), optim.tbgn(0.05, sampling=SAMPLING)
  targets = jnp.array([[1.0, 2.0], [1.0, 2.0]])
  losses_of = lambda theta: jnp.array([1.0, 1e4]) * jnp.sum((theta[None] - targets) ** 2, axis=1)

  @jax.jit
  def step(carry, _):
    theta, drawn, state = carry
    w, drawn = draw.weights(drawn, optim.Info(losses=losses_of(theta)))
    g = jax.grad(lambda theta: w @ losses_of(theta))(theta)
    updates, state = tx.update(g, state, theta, task=drawn.inner.task)
    return (theta + updates, drawn, state), drawn.inner.task

  theta = jnp.array([3.0, -1.0])
  (theta, _, _), tasks = jax.lax.scan(step, (theta, draw.init(theta, 2), tx.init(theta)), None, 200)
  assert set(np.asarray(tasks).tolist()) == {0, 1}
  np.testing.assert_allclose(theta, [1, 2], atol=0.2)                         # a few steps of .05 around it


def test_its_numbers_can_be_injected():
  tx = optax.inject_hyperparams(optim.tbgn)(learning_rate=0.1, b1=0.8, sampling=SAMPLING)
  np.testing.assert_allclose(run(tx), run(optim.tbgn(0.1, b1=0.8, sampling=SAMPLING)), atol=1e-5)   # 1 - b2 of a float32 b2


def test_it_can_be_named_in_a_config():
  params = {'out': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}}
  spec = dict(name='mtjax.optim:tbgn', lr=0.1, weight_decay=0.5, sampling=SAMPLING)
  tx, _ = make_optimizer(spec, params, 10)
  step, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params, task=jnp.int32(1))
  np.testing.assert_allclose(step['out']['kernel'], -0.05, rtol=1e-6)
  np.testing.assert_array_equal(step['out']['bias'], 0)


@pytest.mark.parametrize('act, words', [
  (lambda: optim.tbgn(0.1, b1=1.0), r'tbgn: b1 must be a finite number in \[0, 1\), got 1.0'),
  (lambda: optim.tbgn(0.1, b2=-0.1), 'tbgn: b2 must be'),
  (lambda: optim.tbgn(0.1, eps=-1), 'tbgn: eps must be'),
  (lambda: optim.tbgn(0.1, weight_decay=-1), 'tbgn: weight_decay must be'),
  (lambda: optim.tbgn(0.1, sampling=(0.5, 0.4)), r'tbgn: sampling must hold a ratio > 0 a task, summing to 1, got \[0.5, 0.4\]'),
  (lambda: optim.tbgn(0.1, sampling=(0.5, 0.5), omega=(1, 1, 1)), 'tbgn: sampling has 2 entries .* but there are 3 tasks'),
  (lambda: optim.tbgn(0.1, omega=(1, -1)), 'tbgn: omega must hold finite numbers >= 0'),
  (lambda: optim.tbgn(0.1, sampling=SAMPLING).update(START, optim.tbgn(0.1).init(START), START), 'of 2 tasks: pass task='),
  (lambda: optim.tbgn(0.1, omega=OMEGA).update(START, optim.tbgn(0.1).init(START), START, task=2), r'task must be in 0 … 1, got 2'),
])
def test_wrong_settings_are_named(act, words):
  with pytest.raises(ValueError, match=words):
    act()
