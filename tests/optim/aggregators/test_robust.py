"""Krum and the trimmed mean against plain loops, and CR-MOGM around other rules."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optim.calls import update

from mtjax import optim
from mtjax.optim import base


def krum_loop(jac, num_byzantine, num_selected):
  scores = []
  for i in range(len(jac)):
    distances = sorted(np.sum((jac[i] - jac[j]) ** 2) for j in range(len(jac)) if j != i)
    scores.append(sum(distances[:len(jac) - num_byzantine - 2]))
  w = np.zeros(len(jac))
  w[np.argsort(scores)[:num_selected]] = 1 / num_selected
  return w


@pytest.mark.parametrize('num_byzantine, num_selected', ((0, 1), (1, 1), (2, 3), (4, 2)))
def test_krum_loop(x64, num_byzantine, num_selected):
  tx = optim.krum(num_byzantine=num_byzantine, num_selected=num_selected)
  for seed in range(5):
    jac = np.random.default_rng(seed).normal(size=(9, 4))
    np.testing.assert_allclose(update(tx, jac)[1], krum_loop(jac, num_byzantine, num_selected))


def test_krum_leaves_out_what_is_far_away():
  jac = np.random.default_rng(0).normal(size=(6, 4))
  jac[3] = 1e6
  _, w, _ = update(optim.krum(num_byzantine=1, num_selected=5), jac)
  np.testing.assert_allclose(w, [0.2, 0.2, 0.2, 0, 0.2, 0.2])


def test_krum_among_few_that_are_left():
  active = jnp.array([True, False, False, True, False])
  _, w, _ = update(optim.krum(num_selected=2), np.random.default_rng(0).normal(size=(5, 4)), active=active)
  np.testing.assert_allclose(w, [0.5, 0, 0, 0.5, 0])


def test_trimmed_mean_loop(x64):
  rng = np.random.default_rng(0)
  for num_trimmed in (0, 1, 2):
    jac = rng.normal(size=(6, 4))
    expected = np.sort(jac, axis=0)[num_trimmed:6 - num_trimmed].mean(0)
    np.testing.assert_allclose(update(optim.trimmed_mean(num_trimmed), jac)[0], expected, rtol=1e-12)


def test_trimmed_mean_of_a_tree_with_absent_tasks():
  rng = np.random.default_rng(0)
  jac = {'a': rng.normal(size=(5, 2, 3)).astype(np.float32), 'b': rng.normal(size=(5,)).astype(np.float32)}
  active = np.array([True, True, False, True, True])
  jac['a'][2], jac['b'][2] = np.nan, np.inf
  tx = optim.trimmed_mean(1)
  d, state = tx.update(jac, tx.init({'a': jnp.zeros((2, 3)), 'b': jnp.zeros(())}), active=jnp.asarray(active))
  for name in jac:
    np.testing.assert_allclose(d[name], np.sort(jac[name][active], axis=0)[1:-1].mean(0), rtol=1e-6)
  # Two are left: nothing can be dropped at both ends.
  d, _ = tx.update(jac, state, active=jnp.array([True, True, False, False, False]))
  np.testing.assert_allclose(d['b'], jac['b'][:2].mean(), rtol=1e-6)


class TestCRMOGM:

  def test_average_over_steps(self, x64):
    rng, rule, state, last = np.random.default_rng(0), optim.mgda(), None, None
    tx = optim.cr_mogm(rule, alpha=0.7)
    for _ in range(4):
      jac = rng.normal(size=(3, 5))
      _, w, state = update(tx, jac, state)
      new = update(rule, jac)[1]
      last = new if last is None else 0.7 * last + 0.3 * new
      np.testing.assert_allclose(w, last, rtol=1e-5)          # the state is kept in float32 or the default dtype
    assert state.inner.count == 4

  def test_alpha_0_is_the_rule_itself(self, x64):
    rule, state = optim.nash_mtl(), None
    tx = optim.cr_mogm(rule, alpha=0.0)
    for seed in range(2):
      jac = np.random.default_rng(seed).normal(size=(3, 5))
      d, _, state = update(tx, jac, state)
      np.testing.assert_allclose(d, update(rule, jac)[0], rtol=1e-9)

  def test_alpha_by_schedule(self, x64):
    tx = optim.cr_mogm(optim.mgda(), alpha=lambda count: jnp.minimum(count * 1.0, 1.0))  # from the 2nd step on no change
    jacs = np.random.default_rng(0).normal(size=(3, 3, 5))
    _, first, state = update(tx, jacs[0])
    for jac in jacs[1:]:
      _, w, state = update(tx, jac, state)
      np.testing.assert_allclose(w, first, rtol=1e-6)

  def test_an_absent_task_keeps_its_average_and_a_new_one_starts(self, x64):
    tx = optim.cr_mogm(optim.mgda(), alpha=0.5)
    jac = np.random.default_rng(0).normal(size=(3, 5))
    two = jnp.array([True, True, False])
    _, w, state = update(tx, jac, active=two)
    assert w[2] == 0 and not state.inner.seen[2]
    _, w, state = update(tx, jac, state)
    np.testing.assert_allclose(w[2], update(optim.mgda(), jac)[1][2], rtol=1e-6)
    kept = state.inner.w[2]
    _, w, state = update(tx, jac, state, active=two)
    assert w[2] == 0 and state.inner.w[2] == kept

  def test_what_the_rule_says_is_handed_on(self):
    rule = base.from_weights(
      lambda state, info: (jnp.where(info.mask, state, 0), state + 1), name='rule', needs='losses',
      init=lambda num_tasks: jnp.ones(num_tasks), scale_heads=True,
      observe=lambda state, losses_after, active: state + losses_after, observes='losses_after')
    tx = optim.cr_mogm(rule, alpha=0.0)
    assert (tx.needs, tx.observes, tx.name) == ('losses', 'losses_after', 'cr_mogm(rule)')
    info = optim.Info(losses=jnp.array([1.0, 2.0]))
    w, state = tx.weights(tx.init({}), info)
    np.testing.assert_allclose(w, 1)
    w, _ = tx.weights(tx.observe(state, jnp.array([10.0, 20.0])), info)
    np.testing.assert_allclose(w, [12, 22])
    np.testing.assert_allclose(tx.head_weights(w, info), w)
    np.testing.assert_allclose(optim.cr_mogm(optim.mgda()).head_weights(w, info), 1)

  def test_in_a_scan(self):
    tx = optim.cr_mogm(optim.pcgrad())
    jacs = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 5)), jnp.float32)
    step = lambda state, jac: tx.update({'w': jac}, state)[::-1]
    state, ds = jax.lax.scan(step, tx.init({'w': jnp.zeros(5)}, 3), jacs)
    assert ds['w'].shape == (4, 5) and state.inner.inner.inner.count == 4
