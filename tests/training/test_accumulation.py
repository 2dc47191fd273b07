"""Micro-batches give what the large batch gives: whatever labels they hold, in all regimes, for less memory."""
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
import zoo

from mtjax import experiment
from mtjax.objective import Losses
from mtjax.optim import base
from mtjax.training import accumulation
from mtjax.training.gradients import losses_and_grads

KEY = jax.random.key(0)
HEADS = {'digit': dict(label='digit', head=dict(name='classification', classes=10)),
         'odd': dict(label='odd', head=dict(name='classification', classes=2)),
         'ink': dict(label='ink', head=dict(name='regression', mean=4.9), weight=0.1)}
REGIMES = {
  'multi-label': dict(tasks=HEADS),                             # ink is missing in every fifth row
  'streams': dict(tasks={name: HEADS[name] for name in ('digit', 'ink')},
                  data=dict(streams={'digit': dict(name='toy:Toy', batch_size=16), 'ink': dict(name='toy:Toy', batch_size=8)})),
  'mixture': dict(tasks={name: HEADS[name] for name in ('digit', 'odd')},
                  data=dict(mixture={'digit': dict(name='toy:Toy', weight=3.0), 'odd': dict(name='toy:Toy', weight=1.0)},
                            batch_size=32, block_size=8)),
}
METHODS = {'joint': {}, 'upgrad': dict(name='upgrad'), 'uncertainty': dict(name='uncertainty')}
VIT = dict(name='vit', patch=2, width=16, depth=1, heads=2, hidden=64)


def stage_of(regime='multi-label', method='joint', parts=1, **fields):
  run = experiment.build(toy.config(**REGIMES[regime], aggregator=METHODS[method], gradients=dict(accumulate=parts),
                                    optimizer=dict(name='sgd', lr=1.0), **fields))
  return run, run.stages[0]


def compiled(run, stage):
  return stage.update.lower(jax.eval_shape(run.init), run.batch(1), stage.rng).compile()


# --- the sum


def test_sums_are_float32_and_whole_numbers_stay():
  found = accumulation.add_up(lambda x, k: (x.astype(jnp.bfloat16).sum(), k), jnp.ones(512), 512)
  assert found[0] == 512 and found[0].dtype == jnp.float32     # in bfloat16, 256 + 1 = 256
  assert found[1] == 511 * 256 and found[1].dtype == jnp.int32


def test_micro_batch_k_has_every_kth_row():
  parts = accumulation.micro_batches({'x': jnp.arange(6)}, 3, 'these')
  assert parts['x'].tolist() == [[0, 3], [1, 4], [2, 5]]
  with pytest.raises(ValueError, match='these: 4 parts do not divide the 6 rows'):
    accumulation.micro_batches(jnp.arange(6), 4, 'these')


def test_by_hand_with_a_micro_batch_that_has_no_label_of_a_task():
  """l_0 = (p - x)^2, l_1 = 3 p x; x = 1, 2, 3, 4, of which task 1 knows the rows 1 and 3: the second micro-batch."""
  x, known = jnp.array([1.0, 2, 3, 4]), jnp.array([[1, 0], [1, 1], [1, 0], [1, 1]], bool)

  def losses_of(p, batch, rng):
    del rng
    rows = jnp.stack([(p - batch['x'])**2, 3 * p * batch['x']], axis=1)
    return Losses(jnp.where(batch['known'], rows, 0).sum(0), batch['known'].sum(0).astype(jnp.float32))

  # At p = 1: 2 mean(p - x) + 10 * 3 mean(2, 4) = 2 (1 - 2.5) + 90.
  for parts in (1, 2, 4):
    gradient, losses = accumulation.weighted_gradient(
      losses_of, jnp.float32(1), {'x': x, 'known': known}, KEY, jnp.array([1.0, 10.0]), parts)
    assert gradient == pytest.approx(87, rel=1e-6)
    assert losses.sums.tolist() == [14, 18] and losses.weights.tolist() == [4, 2]
  # A task without any label in the batch takes no part, and divides by nothing.
  none = {'x': x, 'known': known.at[:, 1].set(False)}
  gradient, _ = accumulation.weighted_gradient(losses_of, jnp.float32(1), none, KEY, jnp.array([1.0, 10.0]), 2)
  assert gradient == pytest.approx(-3, rel=1e-6)


def test_each_micro_batch_draws_from_a_key_of_its_own():
  draws = lambda key: accumulation.losses(
    lambda params, batch, rng, step: Losses(jax.random.normal(rng, (1,)), jnp.ones(1)), None, jnp.ones(4), key, 0, 2)
  expected = sum(jax.random.normal(accumulation.micro_key(KEY, k), (1,)) for k in range(2))
  np.testing.assert_allclose(draws(KEY).sums, expected, rtol=1e-6)
  assert draws(jax.random.key(1)).sums != draws(KEY).sums


def test_methods_that_look_again_see_the_losses_of_all_micro_batches():
  method = base.from_weights(
    lambda state, info: (jnp.ones(3), state), name='after', needs='losses', init=lambda n: jnp.zeros(n),
    observe=lambda state, losses, active: losses, observes='losses_after')
  p = zoo.Problem(zoo.TRUNKS['mlp'])
  seen = []
  for parts in (1, 2):
    engine = losses_and_grads(p, method, num_tasks=3, accumulate=parts)
    seen.append(jax.jit(engine.observe)(p.params, engine.init(p.params), p.batch, KEY, 0).aggregator.inner)
  np.testing.assert_allclose(*seen, rtol=1e-6)


# --- runs


@pytest.mark.parametrize('regime, method', [
  ('multi-label', 'uncertainty'), ('streams', 'joint'), ('streams', 'upgrad'), ('mixture', 'joint'), ('mixture', 'upgrad')])
def test_a_step_is_that_of_the_large_batch(regime, method):
  states = []
  for parts in (1, 4):
    run, stage = stage_of(regime, method, parts)
    state = run.init()
    for step in range(2):
      state = stage.step(state, run.batch(step))
    states.append(state)
  for a, b in zip(jax.tree.leaves(states[0].params), jax.tree.leaves(states[1].params)):
    np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6)     # sums in another order; two plain steps of size 1
  np.testing.assert_allclose(states[0].window.losses.sums, states[1].window.losses.sums, rtol=1e-5)
  assert states[0].window.losses.weights.tolist() == states[1].window.losses.weights.tolist()


def products(text):
  return len(re.findall(r'= \S+ dot\(|custom_call_target="__onednn\$matmul', text))


def test_counting_labels_does_not_run_the_network():
  few, many = (products(compiled(*stage_of(parts=parts)).as_text()) for parts in (1, 4))
  assert few == many > 0


@pytest.mark.parametrize('method', ['joint', 'upgrad'])
def test_memory_is_that_of_a_micro_batch(method):
  few, many = (compiled(*stage_of(method=method, parts=parts, encoder=VIT)).memory_analysis().temp_size_in_bytes
               for parts in (1, 4))
  assert many < 0.5 * few


def test_batches_that_do_not_fall_into_parts_are_refused():
  with pytest.raises(ValueError, match=r"'data.batch_size' is 64, .* 3 parts of 'Toy' \('gradients.accumulate' = 3, "):
    stage_of(parts=3)
  with pytest.raises(ValueError, match='not a multiple of the 128 parts .* = 16, on 8 devices.; the nearest are 128'):
    stage_of(parts=16, mesh=dict(data=8))
  with pytest.raises(ValueError, match="'gradients.accumulate' must be a whole number >= 1, got 0"):
    stage_of(parts=0)
