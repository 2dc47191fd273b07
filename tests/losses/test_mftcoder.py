import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import losses
from mtjax.losses.mftcoder import CASES

NAN = jnp.nan
mft_loss = jax.jit(losses.mft_loss, static_argnames=('num_tasks', 'mode'))
# Two samples of task 0 with 2 and 1 tokens, one of task 1 with 3; what is masked does not matter.
TOKENS = jnp.array([[1.0, 1.0, NAN], [4.0, NAN, NAN], [3.0, 3.0, 3.0]])
MASK = jnp.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]])
TASK = jnp.array([0, 0, 1])
# (1+1+4+9)/6; (1+4+3)/3; ((1+1+4)/3 + 3)/2; ((1+4)/2 + 3)/2
BY_HAND = dict(case1=2.5, case2=8 / 3, case3=2.5, case4=2.75)
# With task 1's sample twice: 24/9, 11/4, and no change.
TWICE = dict(case1=24 / 9, case2=2.75, case3=2.5, case4=2.75)


@pytest.mark.parametrize('mode', CASES)
def test_cases_by_hand(mode):
  np.testing.assert_allclose(mft_loss(TOKENS, MASK, TASK, 2, mode), BY_HAND[mode], rtol=1e-6)
  twice = [jnp.concatenate([x, x[2:]]) for x in (TOKENS, MASK, TASK)]
  np.testing.assert_allclose(mft_loss(*twice, 2, mode), TWICE[mode], rtol=1e-6)


def reference(tokens, mask, task, mode, weights):
  """One loop over samples, another over the tasks that are there."""
  samples = [(t, [x for x, m in zip(row, keep) if m]) for row, keep, t in zip(tokens, mask, task)]
  samples = [(t, row) for t, row in samples if row]
  means = lambda t: [np.mean(row) for s, row in samples if t in (s, None)]
  pooled = lambda t: np.concatenate([row for s, row in samples if t in (s, None)])
  if mode in ('case1', 'case2'):
    return np.mean(pooled(None) if mode == 'case1' else means(None))
  there = sorted({t for t, _ in samples})
  return np.average([np.mean(pooled(t) if mode == 'case3' else means(t)) for t in there], weights=[weights[t] for t in there])


@pytest.mark.parametrize('mode', CASES)
def test_cases_in_numpy(mode):
  rng = np.random.default_rng(0)
  tokens, mask, task = rng.exponential(size=(9, 5)), rng.random((9, 5)) < 0.6, rng.choice([0, 1, 3], 9)
  mask[0] = False    # a sample of padding
  weights = [0.5, 2.0, 1.0, 3.0]
  given = None if mode in ('case1', 'case2') else weights
  value, slope = jax.value_and_grad(mft_loss)(jnp.asarray(tokens, jnp.float32), jnp.asarray(mask), jnp.asarray(task), 4, mode, given)
  np.testing.assert_allclose(value, reference(tokens, mask, task, mode, weights), rtol=1e-5)
  assert np.isfinite(slope).all() and (slope[~mask] == 0).all() and (slope[mask] > 0).all()


@pytest.mark.parametrize('loss', [*(lambda *a, mode=mode: losses.mft_loss(*a, 3, mode) for mode in CASES),
                                  *(lambda *a, level=level: losses.mft_focal(*a, 3, level=level) for level in ('sample', 'task'))])
def test_the_loss_of_a_batch_is_that_of_the_sums_of_its_parts_and_absent_tasks_are_silent(loss):
  loss = jax.jit(loss)
  both = jax.jit(jax.value_and_grad(loss))
  value, slope = both(TOKENS, MASK, TASK)    # task 2 is absent
  assert np.isfinite(value) and np.isfinite(slope).all()
  np.testing.assert_array_equal(slope[MASK == 0], 0)
  value, slope = both(TOKENS, jnp.zeros_like(MASK), TASK)    # nothing is there
  assert value == 0 and (slope == 0).all()
  outside, without = loss(TOKENS, MASK, jnp.array([0, 0, -1])), loss(TOKENS, MASK.at[2].set(0), TASK)
  np.testing.assert_allclose(outside, without, rtol=1e-6)    # a task_id that is none


def test_sums_add_up_over_devices():
  tokens, mask, task = [x[:, None] for x in (TOKENS, MASK, TASK)]    # one sample a device

  def on_device(tokens, mask, task):
    case = losses.mft_sums(tokens, mask, task, 2)
    focal = losses.focal_sums(tokens, mask, task, 2, level='task')
    return losses.mft_mean(jax.lax.psum(case, 'data')), losses.focal_mean(jax.lax.psum(focal, 'data'), level='task')

  case, focal = jax.jit(jax.vmap(on_device, axis_name='data'))(tokens, mask, task)
  np.testing.assert_allclose(case, BY_HAND['case3'], rtol=1e-6)
  np.testing.assert_allclose(focal, losses.mft_focal(TOKENS, MASK, TASK, 2, level='task'), rtol=1e-6)


def test_sums_are_what_a_weighting_takes():
  sums = losses.mft_sums(TOKENS, MASK, TASK, 3, 'case4')
  np.testing.assert_allclose(sums.means, [2.5, 3.0, 0.0])
  assert sums.present.tolist() == [True, True, False] and sums.counts.tolist() == [2, 1, 0]
  w = jnp.array([0.25, 0.75, 0.0])    # traced weights, e.g. those of CoBa
  value = jax.jit(lambda w: losses.mft_mean(sums, 'case4', w))(w)
  np.testing.assert_allclose(value, 0.25 * 2.5 + 0.75 * 3, rtol=1e-6)


@pytest.mark.parametrize('level', ['sample', 'task'])
def test_focal_in_numpy(level):
  rng = np.random.default_rng(1)
  p, gamma, alpha = rng.uniform(0.05, 0.95, (4, 3)), 1.5, np.array([1.0, 2.0])
  task, mask = np.array([0, 1, 0, 1]), np.ones((4, 3), bool)
  P, Q = p.mean(axis=1), np.log(p).mean(axis=1)
  if level == 'sample':
    per_task = [np.mean(((1 - P) ** gamma * Q)[task == t]) for t in (0, 1)]
  else:
    per_task = [(1 - P[task == t].mean()) ** gamma * Q[task == t].mean() for t in (0, 1)]
  focal = lambda tokens, **kw: losses.mft_focal(tokens, jnp.asarray(mask), jnp.asarray(task), 2, gamma, level, alpha.tolist(), **kw)
  plain, constant = (jax.jit(jax.value_and_grad(lambda x, hold=hold: focal(x, stop_gradient=hold))) for hold in (False, True))
  tokens = jnp.asarray(-np.log(p), jnp.float32)
  value, slope = plain(tokens)
  same, held = constant(tokens)
  np.testing.assert_allclose(value, -np.mean(alpha * per_task), rtol=1e-5)
  np.testing.assert_allclose(same, value, rtol=1e-6)

  # With (1 - P)^gamma constant the slope in l is a (1 - P)^gamma / (T N_t L) = ... / 12; else more, as P falls with l.
  factor = (1 - P) ** gamma if level == 'sample' else np.array([(1 - P[task == t].mean()) ** gamma for t in task])
  np.testing.assert_allclose(held, np.repeat((alpha[task] * factor / 12)[:, None], 3, axis=1), rtol=1e-5)
  assert (slope > held).all()


def test_focal_without_focus_is_case4():
  for level in ('sample', 'task'):
    for gamma in (0, 0.0):
      np.testing.assert_allclose(losses.mft_focal(TOKENS, MASK, TASK, 2, gamma, level), BY_HAND['case4'], rtol=1e-6)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_focal_is_finite_where_all_is_certain(gamma):
  focal = lambda x: losses.mft_focal(x, jnp.ones((2, 2)), jnp.array([0, 1]), 2, gamma)
  value, slope = jax.jit(jax.value_and_grad(focal))(jnp.zeros((2, 2)))
  assert value == 0 and np.isfinite(slope).all()


def test_token_losses_in_bfloat16_are_summed_in_float32():
  loss = mft_loss(jnp.ones((2, 300), jnp.bfloat16), jnp.ones((2, 300)), jnp.array([0, 1]), 2, 'case1')
  assert loss.dtype == jnp.float32 and loss == 1
  with jax.enable_x64(True):
    wide = jax.eval_shape(lambda x: losses.mft_focal(x, x > 0, jnp.array([0, 1]), 2), jnp.ones((2, 3), jnp.float64))
    assert wide.dtype == jnp.float64


@pytest.mark.parametrize('wrong, message', [
  (lambda: losses.mft_loss(TOKENS, MASK, TASK, 2, 'case5'), "mode must be one of .*, got 'case5'"),
  (lambda: losses.mft_loss(TOKENS, MASK[:, :2], TASK, 2), r'both be \[B, L\], got shapes \[3, 3\] and \[3, 2\]'),
  (lambda: losses.mft_loss(TOKENS, MASK, TASK, 2, weights=[1.0]), r'weights must have one entry a task, \[2\], got \[1\]'),
  (lambda: losses.mft_loss(TOKENS, MASK, TASK, 2, weights=[1.0, -1.0]), r'weights must hold finite numbers >= 0'),
  (lambda: losses.mft_loss(TOKENS, MASK, TASK, 2, 'case1', [1.0, 1.0]), 'case1 has no task weights'),
  (lambda: losses.mft_focal(TOKENS, MASK, TASK, 2, -1.0), 'gamma must be a finite number >= 0, got -1.0'),
  (lambda: losses.mft_focal(TOKENS, MASK, TASK, 2, level='token'), "level must be one of .*, got 'token'"),
  (lambda: losses.mft_focal(TOKENS, MASK, TASK, 2, alpha=[0.0, 0.0]), 'alpha must hold finite numbers'),
])
def test_wrong_arguments_are_named(wrong, message):
  with pytest.raises(ValueError, match=message):
    wrong()


def test_examples_run():
  assert doctest.testmod(importlib.import_module('mtjax.losses.mftcoder')).failed == 0
