"""The vector of losses: sums with weights, right whatever is masked, split or absent."""
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mtjax import experiment
from mtjax.context import Features
from mtjax.objective import Losses, stream_key

BITS, DIGIT, INK = range(3)  # a ConfigDict sorts its keys
TASKS = {
  'digit': dict(label='digit', head=dict(name='classification', classes=10)),
  'ink': dict(label='ink', head=dict(name='regression')),
  'bits': dict(label='bits', head=dict(name='multilabel', labels=4)),
}


@pytest.fixture(scope='module')
def run():
  return experiment.build(toy.config(tasks=TASKS))


@pytest.fixture(scope='module')
def params(run):
  return jax.device_get(run.init().params)


def losses(run, params, batch):
  return run.objective.losses(run.objective.outputs(params, batch), batch)


def rows(batch, index):
  return {stream: {name: column[index] for name, column in columns.items()} for stream, columns in batch.items()}


def test_values_by_hand():
  one, other = Losses(jnp.array([6.0, 0.0]), jnp.array([3.0, 0.0])), Losses(jnp.array([0.0, 5.0]), jnp.array([1.0, 2.0]))
  assert one.values.tolist() == [2.0, 0.0] and one.active.tolist() == [True, False]
  both = one + other
  assert both.values.tolist() == [1.5, 2.5] and float(both.total(jnp.array([1.0, 0.5]))) == 2.75
  assert np.isfinite(jax.grad(lambda s: Losses(s, one.weights).values.sum())(one.sums)).all()


@pytest.mark.parametrize('cut', [1, 20, 63])
def test_two_parts_make_the_whole(run, params, cut):
  batch = jax.device_get(run.batch(0))
  whole = losses(run, params, batch)
  parts = losses(run, params, rows(batch, slice(0, cut))) + losses(run, params, rows(batch, slice(cut, None)))
  np.testing.assert_allclose(whole.sums, parts.sums, rtol=1e-5)
  np.testing.assert_array_equal(whole.weights, parts.weights)
  assert whole.weights[DIGIT] == 64 and 0 < whole.weights[INK] < 64  # a fifth of the ink labels is missing


def test_what_is_masked_does_not_count_whatever_it_holds(run, params):
  batch = jax.device_get(run.batch(0))['Toy']
  hidden = np.arange(64) % 3 == 0
  garbage = dict(batch, ink=np.where(hidden, np.nan, batch['ink']), digit=np.where(hidden, -7, batch['digit']),
                 ink_mask=batch['ink_mask'] & ~hidden, digit_mask=batch['digit_mask'] & ~hidden)
  kept = {name: column[~hidden] for name, column in batch.items()}
  found, expected = losses(run, params, {'Toy': garbage}), losses(run, params, {'Toy': kept})
  for task in (DIGIT, INK):
    np.testing.assert_allclose(found.values[task], expected.values[task], rtol=1e-5)
    assert found.weights[task] == expected.weights[task]

  def total(params):
    return losses(run, params, {'Toy': garbage}).total(jnp.ones(3))

  assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.grad(total)(params)))


def test_single_entries_of_a_binary_vector_can_be_missing(run, params):
  batch = jax.device_get(run.batch(0))['Toy']
  mask = np.zeros((64, 4), bool)
  mask[:10, 2] = True
  outputs = run.objective.outputs(params, {'Toy': batch})
  found = run.objective.losses(outputs, {'Toy': dict(batch, bits_mask=mask)})
  logits, label = np.asarray(outputs['bits'])[:10, 2], batch['bits'][:10, 2]
  assert found.weights[BITS] == 10
  np.testing.assert_allclose(found.sums[BITS], np.log1p(np.exp(-np.where(label == 1, 1, -1) * logits)).sum(), rtol=1e-5)


def test_adding_a_task_leaves_the_parameters_of_the_others_alone(run, params):
  fewer = experiment.build(toy.config(tasks={'ink': TASKS['ink']})).init().params
  for path in (('encoder', 'fc1'), ('heads', 'ink')):
    np.testing.assert_array_equal(fewer[path[0]][path[1]].get('out', fewer[path[0]][path[1]])['kernel'],
                                  params[path[0]][path[1]].get('out', params[path[0]][path[1]])['kernel'])


def test_keys_are_told_apart_by_name_and_step():
  key = jax.random.key(0)
  data = [jax.random.key_data(stream_key(key, name, step)).tolist() for name in ('a', 'b') for step in (0, 1)]
  assert len({tuple(d) for d in data}) == 4


class Flat(nn.Module):
  """An encoder without parameters."""

  @nn.compact
  def __call__(self, inputs, *, ctx=None, train=False):
    return Features(pooled=inputs.reshape(len(inputs), -1).astype(jnp.float32) / 255)


class WithBatchNorm(nn.Module):
  """An encoder with running statistics."""

  @nn.compact
  def __call__(self, inputs, *, ctx=None, train=False):
    x = inputs.reshape(len(inputs), -1).astype(jnp.float32)
    return Features(pooled=nn.BatchNorm(use_running_average=not train)(x))


def test_an_encoder_may_have_no_parameters_but_no_state_beside_them():
  run = experiment.build(toy.config(encoder=dict(name=f'{__name__}:Flat')))
  state, metrics = run.train(run.init())
  assert set(state.params) == {'heads'} and np.isfinite(metrics['eval/loss'])
  with pytest.raises(ValueError, match="WithBatchNorm keeps state in 'batch_stats'.*use LayerNorm or GroupNorm"):
    experiment.build(toy.config(encoder=dict(name=f'{__name__}:WithBatchNorm')))
