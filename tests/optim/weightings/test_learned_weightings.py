"""Weightings with a trained parameter, against loops in numpy."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from trajectories import Adam, follow, positive, softmax

import mtjax.optim
from mtjax.optim import Info
from mtjax.optim.weightings.famo import famo_gradient, famo_weights
from mtjax.optim.weightings.gradnorm import gradnorm_gradient, gradnorm_loss, gradnorm_targets, share_out

BOTH = jnp.ones(2, bool)
gradnorm_gradient, gradnorm_targets, famo_weights, famo_gradient = map(
  jax.jit, (gradnorm_gradient, gradnorm_targets, famo_weights, famo_gradient))
EXACT = dict(rtol=1e-10, atol=1e-12)    # float64 against float64


@pytest.mark.parametrize('kinds, factor', [(None, [0.5] * 3), (('regression', 'classification', None), [0.5, 1, 0.5])])
def test_uncertainty_in_numpy(kinds, factor):
  losses, factor = positive((6, 3)), np.array(factor)
  w, states = follow(mtjax.optim.uncertainty(-0.5, 0.1, kinds), losses)
  s, adam = np.full(3, -0.5), Adam(0.1)
  for k, row in enumerate(losses):
    np.testing.assert_allclose(w[k], factor * np.exp(-s), **EXACT)
    s = s + adam(0.5 - factor * np.exp(-s) * row)
    np.testing.assert_allclose(states.log_variance[k], s, **EXACT)


def test_uncertainty_by_hand():
  tx, row = mtjax.optim.uw(), jnp.array([3.0, 0.2])
  state = tx.init({}, num_tasks=2)
  loss = lambda s: tx.scalarise(row, state.replace(inner=state.inner._replace(log_variance=s)))
  value, slope = jax.jit(jax.value_and_grad(loss))(jnp.zeros(2))
  np.testing.assert_allclose(value, 1.6, rtol=1e-6)
  np.testing.assert_allclose(slope, 0.5 * (1 - row), rtol=1e-6)    # at s = 0
  best = state.replace(inner=state.inner._replace(log_variance=jnp.log(row)))    # the optimum for these losses
  w, after = jax.jit(tx.weights)(best, Info(losses=row))
  np.testing.assert_allclose(w, 1 / (2 * row), rtol=1e-6)
  np.testing.assert_allclose(after.inner.log_variance, jnp.log(row), atol=1e-3)    # Adam moves by its rate at most


@pytest.mark.parametrize('tx, optimum', [
  (mtjax.optim.uncertainty(learning_rate=0.05), lambda row: 0.5 / row),
  (mtjax.optim.uncertainty(kinds=['classification'] * 3, optimizer=optax.sgd(0.5)), lambda row: 0.5 / row),
  (mtjax.optim.imtl_l(learning_rate=0.05), lambda row: 1 / row),
])
def test_fixed_losses_are_weighed_by_their_inverse(tx, optimum):
  row = np.array([0.5, 1.0, 3.0])
  w, _ = follow(tx, np.tile(row, (600, 1)))
  np.testing.assert_allclose(w[-1], optimum(row), rtol=1e-3)    # what is left of the approach


def test_the_parameter_can_be_trained_with_the_model():
  tx, row = mtjax.optim.uw(), jnp.array([2.0, 0.25])
  state = tx.init({}, num_tasks=2)
  sgd = optax.sgd(0.5)
  def loss(s):
    return tx.scalarise(row, state.replace(inner=state.inner._replace(log_variance=s)))
  def step(_, s):
    return optax.apply_updates(s, sgd.update(jax.grad(loss)(s), sgd.init(s))[0])
  np.testing.assert_allclose(jax.lax.fori_loop(0, 200, step, jnp.zeros(2)), jnp.log(row), atol=1e-4)


def test_the_learned_variance_stays_in_range_where_there_is_no_optimum():
  for tx in (mtjax.optim.uw(optimizer=optax.sgd(10.0)), mtjax.optim.imtl_l(optimizer=optax.sgd(10.0))):
    w, states = follow(tx, np.tile([0.0, -1.0], (8, 1)))
    assert np.isfinite(w).all() and (np.abs(states[0]) <= 30).all() and (np.abs(states[0][-1]) == 30).all()


def test_imtl_l_in_numpy_and_as_twice_uncertainty():
  losses = positive((6, 3))
  w, states = follow(mtjax.optim.imtl_l(0.2, optax.linear_schedule(0.1, 0.0, 5)), losses)
  s, adam = np.full(3, 0.2), Adam(0.1)
  for k, row in enumerate(losses):
    np.testing.assert_allclose(w[k], np.exp(s), rtol=1e-6)    # optax computes schedules in float32
    adam.lr = 0.1 * (1 - k / 5)
    s = s + adam(np.exp(s) * row - 1)    # ds = exp(s) l - 1
    np.testing.assert_allclose(states.log_scale[k], s, rtol=1e-6)
  uw, imtl, row, s = mtjax.optim.uw(), mtjax.optim.imtl_l(), jnp.array([2.0, 0.25]), jnp.array([0.3, -1.0])
  at = lambda tx, **new: (lambda state: state.replace(inner=state.inner._replace(**new)))(tx.init({}, num_tasks=2))
  twice = 2 * uw.scalarise(row, at(uw, log_variance=s))
  np.testing.assert_allclose(imtl.scalarise(row, at(imtl, log_scale=-s)), twice, rtol=1e-6)
  np.testing.assert_allclose(jax.grad(lambda s: imtl.scalarise(row, at(imtl, log_scale=s)))(s), jnp.exp(s) * row - 1, rtol=1e-5)


def test_gradnorm_by_hand():
  w, norms, rates = jnp.ones(2), jnp.array([1.0, 3.0]), jnp.ones(2)
  np.testing.assert_allclose(gradnorm_targets(w, norms, rates, 1.5, BOTH), [2, 2])
  np.testing.assert_allclose(gradnorm_gradient(w, norms, rates, 1.5, BOTH), [-1, 3])
  np.testing.assert_allclose(jax.grad(gradnorm_loss)(w, norms, rates, 1.5, BOTH), [-1, 3])
  np.testing.assert_allclose(gradnorm_loss(w, norms, rates, 1.5, BOTH), 2)
  for size in (1.0, 0.1, 1e-10, 1e10):    # equal norms and equal rates: nothing to do, not even by rounding
    for num_tasks in (3, 7):
      same = jnp.full(num_tasks, size)
      gradient = gradnorm_gradient(jnp.full(num_tasks, 0.7), same, 0.3 * jnp.ones(num_tasks), 1.5, jnp.ones(num_tasks, bool))
      assert (gradient == 0).all()
  np.testing.assert_allclose(gradnorm_targets(w, norms, jnp.array([1.0, 3.0]), 1.0, BOTH), [1, 3])    # r = (1/2, 3/2)
  np.testing.assert_allclose(gradnorm_targets(w, norms, jnp.array([1.0, 3.0]), 0.0, BOTH), [2, 2])
  np.testing.assert_allclose(gradnorm_targets(w, norms, jnp.zeros(2), 1.5, BOTH), [2, 2])


def gramians(norms):
  """Gramians [S, T, T] whose diagonals are the squares; what is off them does not matter."""
  return np.einsum('st,tu->stu', norms ** 2, np.eye(norms.shape[1])) - 7 * (1 - np.eye(norms.shape[1]))


def test_gradnorm_in_numpy():
  losses, norms = positive((8, 3)), positive((8, 3), seed=1)
  w, states = follow(mtjax.optim.gradnorm(alpha=1.5, learning_rate=0.1), losses, gramian=gramians(norms))
  v, adam = np.ones(3), Adam(0.1, eps=1e-16)
  for k, (row, n) in enumerate(zip(losses, norms)):
    np.testing.assert_allclose(w[k], v, **EXACT)
    r = row / losses[0]
    target = np.mean(v * n) * (r / r.mean()) ** 1.5
    v = v + adam(n * np.sign(v * n - target))
    v = 3 * v / v.sum()
    np.testing.assert_allclose(states.parameter[k], v, **EXACT)
  np.testing.assert_allclose(states.initial[-1], losses[0])


def test_gradnorm_of_libmtl_in_numpy():
  losses, norms, epoch = positive((9, 3)), positive((9, 3), seed=1), 3
  told = np.arange(9) % epoch == epoch - 1
  w, states = follow(mtjax.optim.gradnorm(0.5, 0.1, 'libmtl', steps_per_epoch=epoch), losses, gramian=gramians(norms))
  same, _ = follow(mtjax.optim.gradnorm(0.5, 0.1, 'libmtl'), losses, gramian=gramians(norms), epoch_end=told)
  np.testing.assert_array_equal(w, same)
  u, adam, first = np.zeros(3), Adam(0.1, eps=1e-16), losses[:epoch].mean(axis=0)
  for k, (row, n) in enumerate(zip(losses, norms)):
    v = 3 * softmax(u)
    np.testing.assert_allclose(w[k], v, **EXACT)
    if k >= epoch:
      r = row / first
      q = n * np.sign(v * n - np.mean(v * n) * (r / r.mean()) ** 0.5)
      jacobian = 3 * (np.diag(softmax(u)) - np.outer(softmax(u), softmax(u)))
      u = u + adam(jacobian @ q)
    np.testing.assert_allclose(states.parameter[k], u, **EXACT)
  np.testing.assert_array_equal(w[:epoch], 1)


def test_gradnorm_evens_out_norms():
  w, _ = follow(mtjax.optim.gradnorm(learning_rate=0.01), np.ones((400, 2)), gramian=gramians(np.tile([1.0, 3.0], (400, 1))))
  np.testing.assert_allclose(w[-1], [1.5, 0.5], atol=0.05)    # w n equal; a sign descends in steps of the learning rate
  assert (w >= 0).all()
  np.testing.assert_allclose(w.sum(axis=1), 2, rtol=1e-6)


def test_gradnorm_reads_one_layer():
  jac = {'trunk': 100 * jnp.eye(2), 'last': {'kernel': jnp.array([[1.0, 0.0], [0.0, 3.0]])}}
  tx = mtjax.optim.gradnorm(layer=r'^last/', optimizer=optax.sgd(0.1))
  assert tx.layer == r'^last/' and tx.needs == 'gramian'
  d, state = jax.jit(tx.update)(jac, tx.init({}), losses=jnp.ones(2))
  np.testing.assert_allclose(d['trunk'], [100, 100])    # w = 1
  np.testing.assert_allclose(state.inner.parameter, np.array([1.1, 0.7]) * 2 / 1.8, rtol=1e-6)
  with pytest.raises(ValueError, match="Pattern 'head' matches no parameter"):
    mtjax.optim.gradnorm(layer='head').update(jac, tx.init({}), losses=jnp.ones(2))
  with pytest.raises(ValueError, match='gradnorm needs the norms of the gradients'):
    tx.weights(tx.init({}), Info(losses=jnp.ones(2)))


def test_gradnorm_shares_out():
  parameter, active = jnp.array([0.0, 1.0, 3.0]), jnp.array([False, True, True])
  share = jax.jit(lambda active: share_out(parameter, active, 'paper'))
  np.testing.assert_allclose(share(active), [0, 0.5, 1.5])
  np.testing.assert_allclose(share(~active), [1, 0, 0])    # down to 0, and alone in its batch
  assert (share(jnp.zeros(3, bool)) == 0).all()


def test_gradnorm_keeps_what_a_resting_task_had():
  norms, losses = positive((6, 3), seed=1), positive((6, 3))
  active = np.array([[True] * 3] * 3 + [[True, False, True]] * 3)
  w, states = follow(mtjax.optim.gradnorm(learning_rate=0.1), losses, gramian=gramians(norms), active=active)
  np.testing.assert_allclose(states.parameter.sum(axis=1), 3, **EXACT)
  np.testing.assert_allclose(w.sum(axis=1), [3, 3, 3, 2, 2, 2], **EXACT)


def test_famo_by_hand():
  logits, row = jnp.zeros(2), jnp.array([1.0, 4.0])
  w = famo_weights(logits, row, 0.0, BOTH)
  np.testing.assert_allclose(w, [0.8, 0.2], rtol=1e-6)
  np.testing.assert_allclose(famo_weights(logits, row + 7, 7.0, BOTH), [0.8, 0.2], rtol=1e-6)
  after = row * jnp.exp(-jnp.array([0.1054, 0.2877]))
  # The task that fell less has the negative gradient: its logit rises.
  np.testing.assert_allclose(famo_gradient(logits, row, after, 0.0, BOTH), [-0.04558, 0.04558], atol=5e-6)


def famo_in_numpy(losses, pairs, gamma, lr):
  """Weights and logits of FAMO, where pairs[k] = (D, D+) is what is learnt from before step k's weights, or None."""
  xi, adam, ws, xis = np.zeros(losses.shape[1]), Adam(lr), [], []
  for row, pair in zip(losses, pairs):
    if pair is not None:
      delta, z = np.log(pair[0] + 1e-8) - np.log(pair[1] + 1e-8), softmax(xi)
      jacobian = np.diag(z) - np.outer(z, z)
      xi = xi + adam(jacobian.T @ delta + gamma * xi)
    z = softmax(xi)
    ws.append(z / (row + 1e-8) / np.sum(z / (row + 1e-8)))
    xis.append(xi)
  return np.array(ws), np.array(xis)


def test_famo_in_numpy():
  losses, after = positive((7, 3)), positive((7, 3), seed=1)
  w, states = follow(mtjax.optim.famo(gamma=0.01), losses, after=after)
  expected, logits = famo_in_numpy(losses, [None, *zip(losses, after)][:-1], 0.01, 0.025)
  np.testing.assert_allclose(w, expected, **EXACT)
  np.testing.assert_allclose(w.sum(axis=1), 1, rtol=1e-12)
  np.testing.assert_allclose(states.logits[:-1], logits[1:], **EXACT)
  assert not states.waiting.any()

  w, _ = follow(mtjax.optim.famo(gamma=0.01, learning_rate=0.1, after='next'), losses)
  np.testing.assert_allclose(w, famo_in_numpy(losses, [None, *zip(losses, losses[1:])], 0.01, 0.1)[0], **EXACT)

  w, _ = follow(mtjax.optim.famo(after='validation'), losses, validation_losses=after)
  np.testing.assert_allclose(w, famo_in_numpy(losses, [None, *zip(after, after[1:])], 1e-5, 0.025)[0], **EXACT)


def test_famo_does_not_feel_the_scale_of_a_task():
  losses, after, scale = positive((6, 3)), positive((6, 3), seed=1), np.array([1.0, 1e4, 1e-2])
  w, states = follow(mtjax.optim.famo(), losses, after=after)
  scaled, other = follow(mtjax.optim.famo(), losses * scale, after=after * scale)
  np.testing.assert_allclose(states.logits, other.logits, atol=1e-6)    # the 1e-8 beside losses of 0.01
  gradients = scaled * scale / (scaled * scale).sum(axis=1, keepdims=True)
  np.testing.assert_allclose(gradients, w, rtol=1e-5)                   # the direction of sum_t w_t grad(c_t l_t)


def test_famo_on_a_fixed_batch_does_without_a_second_pass():
  def losses(x):
    return jnp.stack([jnp.sum(x ** 2), jnp.sum((x - 1) ** 2), 10 * jnp.sum((x + jnp.array([1.0, -2.0])) ** 2)])

  def last(after):
    tx = mtjax.optim.famo(gamma=0.001, after=after)

    @jax.jit
    def step(x, state, extra):
      d, state = tx.update(jax.jacobian(losses)(x), state, x, losses=losses(x), **extra)
      x = x - 0.1 * d
      return x, state, (dict(losses_after=losses(x)) if after == 'same' else {})    # the next update takes it

    x, state, extra = step(jnp.array([2.0, -1.0]), tx.init(jnp.zeros(2), num_tasks=3), {})
    for _ in range(6):
      x, state, extra = step(x, state, extra)
    return x, state.inner.logits

  for same, following in zip(last('same'), last('next')):
    np.testing.assert_allclose(same, following, rtol=1e-5)    # float32


def test_famo_waits_for_those_that_took_part():
  tx = mtjax.optim.famo(optimizer=optax.sgd(1.0), gamma=0.0)
  assert tx.observes == 'losses_after' and mtjax.optim.famo(after='next').observe is None
  active = jnp.array([True, True, False])
  row, after = jnp.array([1.0, 4.0, jnp.nan]), jnp.array([0.9, 3.0, jnp.nan])
  _, state = jax.jit(tx.weights)(tx.init({}), Info(losses=row, active=active))
  observe = jax.jit(tx.observe)
  assert state.inner.waiting.tolist() == [True, True, False]
  state = observe(state, after)
  expected = famo_gradient(jnp.zeros(2), row[:2], after[:2], 0.0, BOTH)
  np.testing.assert_allclose(state.inner.logits, [*-expected, 0], rtol=1e-6)
  assert not state.inner.waiting.any()
  again = observe(state, after)    # nobody waits any more
  np.testing.assert_array_equal(again.inner.logits, state.inner.logits)


def test_famo_at_its_bounds():
  row = jnp.array([1.0, 2.0, 3.0])
  w = famo_weights(jnp.zeros(3), row, jnp.array([1.0, 2.5, 0.0]), jnp.ones(3, bool))    # at the bound, below it, above it
  np.testing.assert_allclose(w, [0.5, 0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize('after', ['same', 'next', 'validation'])
def test_famo_balances_rates(after):
  """Of two equal tasks of which one is ten times slower, the slower gets the weight."""
  def step(carry, _):
    state, log_losses = carry
    losses = jnp.exp(log_losses)
    w, state = tx.weights(state, Info(losses=losses, validation_losses=losses))
    log_losses = log_losses - 0.01 * jnp.array([1.0, 0.1]) * w * losses / jnp.sum(w * losses)
    if tx.observe is not None:
      state = tx.observe(state, jnp.exp(log_losses))
    return (state, log_losses), None

  tx = mtjax.optim.famo(after=after)
  (state, log_losses), _ = jax.jit(lambda c: jax.lax.scan(step, c, length=300))(
    (tx.init({}, num_tasks=2), jnp.zeros(2)))
  z = jax.nn.softmax(state.inner.logits)
  np.testing.assert_allclose(z, [1 / 11, 10 / 11], atol=0.05)    # rates z_t * speed_t equal; Adam circles the optimum
