"""The same config on every mesh: the same losses, with the plain step and with one that looks at each task's gradient."""
import json

import numpy as np
import pytest
import toy

from mtjax import experiment, tree

MESHES = {'data=8': dict(data=8), 'fsdp=8': dict(fsdp=8, data=1), 'tensor=4, data=2': dict(tensor=4, data=2),
          'fsdp=2, tensor=2, data=2': dict(fsdp=2, tensor=2, data=2)}
ENCODER = dict(name='vit', patch=4, width=32, depth=1, heads=4, hidden=64)
AGGREGATORS = {'joint': {}, 'upgrad': dict(name='upgrad')}


def losses(folder, aggregator, mesh):
  config = toy.config(encoder=ENCODER, aggregator=AGGREGATORS[aggregator], mesh=mesh, steps=20, log_every=1, eval_every=20,
                      checkpoint_every=20)
  run = experiment.build(config, folder)
  state, _ = run.train(run.init())
  lines = [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]
  found = [[line[f'train/{task}/loss'] for task in ('digit', 'ink')] for line in lines if line['split'] == 'train']
  return run, state, np.array(found)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  return {name: losses(tmp_path_factory.mktemp(name), name, dict(data=1))[2] for name in AGGREGATORS}


@pytest.mark.parametrize('aggregator', AGGREGATORS)
@pytest.mark.parametrize('mesh', MESHES)
def test_losses_are_those_of_one_device(mesh, aggregator, alone, tmp_path):
  run, state, found = losses(tmp_path, aggregator, MESHES[mesh])
  assert found.shape == (20, 2)
  # Sums over devices add in another order, and twenty steps of Adam carry that on.
  np.testing.assert_allclose(found, alone[aggregator], rtol=1e-5)
  sizes = dict(run.mesh.shape)
  parts = sizes['fsdp'] * sizes['tensor']
  kernel = tree.flatten(state.params)['encoder/block_0/mlp/fc1/kernel']
  assert kernel.addressable_shards[0].data.size * parts == kernel.size
  for path, moment in tree.flatten(state.opt_state).items():
    if path.endswith('encoder/block_0/mlp/fc1/kernel'):
      assert moment.sharding.is_equivalent_to(kernel.sharding, kernel.ndim), path
