"""Affinity measured inside the step: what it says, when, and that it costs nothing when off."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from test_run import lines, train

from mtjax import experiment, tree
from mtjax.objective import stream_key


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
  config = toy.config(aggregator=dict(name='pcgrad'), gradients=dict(affinity_every=4))
  config.log_every = 1
  folder = tmp_path_factory.mktemp('affinity')
  return *train(config, folder), [line for line in lines(folder) if line['split'] == 'train'], config


def names(line):
  return {name for name in line if name.startswith('gradients/affinity/')}


def test_it_is_measured_every_so_many_steps(measured):
  *_, found, _ = measured
  for line in found:  # a line is written after its step: step k + 1 tells of batch k
    expected = {f'gradients/affinity/{a}/{b}' for a in ('digit', 'ink') for b in ('digit', 'ink')} if (line['step'] - 1) % 4 == 0 else set()
    assert names(line) == expected
  assert sum(bool(names(line)) for line in found) >= 2


def test_the_first_one_by_hand(measured):
  run, _, _, found, config = measured
  run = experiment.build(config)  # fresh parameters, of the same seed
  state = run.init()
  params, batch, step = state.params, run.batch(0), run.stages[0]
  rng = stream_key(jax.random.key(config.seed), 'train')
  losses = jax.jit(lambda p: run.objective(p, batch, rng, 0).values)
  jac = jax.jacrev(losses)(params)
  assert all(step.trainable.values())
  shared = [path for path, j in tree.flatten(jac).items() if (np.abs(np.asarray(j)).reshape(2, -1).max(1) > 0).all()]
  update = toy_update(config)
  before = losses(params)
  for i, a in enumerate(('digit', 'ink')):
    own = {path: (j[i] if path in shared else jnp.zeros_like(j[i])) for path, j in tree.flatten(jac).items()}
    change = tree.flatten(update(tree.unflatten(own), state.opt_state, params, config))
    moved = {path: leaf + (change[path] if path in shared else 0) for path, leaf in tree.flatten(params).items()}
    after = losses(tree.unflatten(moved))
    for j, b in enumerate(('digit', 'ink')):
      # a ratio near 1 in float32
      np.testing.assert_allclose(found[0][f'gradients/affinity/{a}/{b}'], 1 - after[j] / before[j], rtol=1e-3, atol=1e-5)


def toy_update(config):
  """The optimizer's update, by its own transform."""
  from mtjax.training.optimizer import make_optimizer

  def update(gradient, opt_state, params, config=config):
    tx, _ = make_optimizer(config.to_dict()['optimizer'], params, config.steps)
    return tx.update(gradient, opt_state, params)[0]

  return update


def test_training_is_the_same_with_it_and_nothing_is_kept_without(measured, tmp_path):
  _, with_it, _, _, config = measured
  plain = config.copy_and_resolve_references()
  plain.gradients = {}
  run, without, _ = train(plain, tmp_path)
  # another program, so rounding may differ; 12 steps of Adam move weights by up to .036
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5), with_it.params, without.params)
  assert without.window.diagnostics.affinity == () and not any(names(line) for line in lines(tmp_path))
  assert len(jax.tree.leaves(with_it.window)) == len(jax.tree.leaves(without.window)) + 2


def test_options():
  for gradients, message in [(dict(affinity_every=-1), 'affinity_every.*>= 0'), (dict(affinity_every=2, accumulate=2), 'affinity_every.*accumulate')]:
    with pytest.raises(ValueError, match=message):
      experiment.build(toy.config(aggregator=dict(name='pcgrad'), gradients=gradients))
  with pytest.raises(ValueError, match='affinity_every.*no .aggregator. is given'):
    experiment.build(toy.config(gradients=dict(affinity_every=2)))
