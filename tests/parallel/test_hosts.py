"""Two processes with four devices each, as two hosts: what they tell each other, and that a run is the same on them."""
import json
import pathlib
import shutil
import sys

import hosts_program
import numpy as np
import pair
import pytest
import toy  # noqa: F401  (the data set)

from mtjax import experiment, tree
from mtjax.training.writers import read_metrics

PROGRAM = pathlib.Path(hosts_program.__file__)
STEPS = hosts_program.STEPS


def losses(folder):
  """[steps, 2], and the lines of evaluations."""
  lines = read_metrics(folder)
  found = [[line[f'train/{task}/loss'] for task in ('digit', 'ink')] for line in lines if line['split'] == 'train']
  return np.array(found), [line for line in lines if line['split'] != 'train']


def forget(folder, step):
  """As if the run had been killed before it saved at `step`."""
  shutil.rmtree(folder / 'checkpoints' / str(step))


def close(found, expected):
  # Sums over devices add in another order, and eight steps of Adam carry that on.
  np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """A run of one device."""
  folder = tmp_path_factory.mktemp('alone') / 'run'
  return folder, *hosts_program.trained(folder, dict(data=1))


@pytest.fixture(scope='module')
def two(tmp_path_factory, alone):  # alone first: it prepares the data, and runs no race with the processes
  """(the folder of all, what each process found)."""
  folder = tmp_path_factory.mktemp('two')
  hosts_program.trained(folder / 'began_alone', dict(data=2, fsdp=4))
  forget(folder / 'began_alone', STEPS)
  with pair.hosts([sys.executable, str(PROGRAM), str(folder)], folder / 'logs') as processes:
    assert processes.codes() == [0, 0], processes.text()
  return folder, [json.loads((folder / f'found{number}.json').read_text()) for number in range(2)]


def test_messages(two):
  first, second = (found['messages'] for found in two[1])
  assert first['gather'] == second['gather'] == [0, 1]
  assert first['on_first'] == second['on_first'] == 7
  assert (first['prepared'], second['prepared']) == ('made', 'found')
  assert first['fails'] == ['OSError', 'the disk is full'] and second['fails'] == ['RuntimeError', 'the disk is full']
  assert first['fails_too'] == second['fails_too'] and first['fails_too'][0] == 'ValueError'
  assert first['seen'] is second['seen'] is None
  for found in first, second:
    assert found['unseen'][0] == 'ValueError' and found['unseen'][1].startswith('Host 1 does not see ')


def test_each_host_reads_the_rows_of_its_devices(two):
  first, second = (found['rows'] for found in two[1])
  assert list(first['data=8'].values()) + list(second['data=8'].values()) == np.arange(16).reshape(8, 2).tolist()
  assert [*first['data=2, tensor=4'].values()] == [[*range(8)]] * 4
  assert [*second['data=2, tensor=4'].values()] == [[*range(8, 16)]] * 4
  assert [*first['tensor=8'].values()] == [*second['tensor=8'].values()] == [[*range(16)]] * 4


@pytest.mark.parametrize('name', ['data', 'fsdp', 'began_alone'])
def test_losses_and_metrics_are_those_of_one_process(name, alone, two):
  (expected, evaluated), (found, evaluated_there) = losses(alone[0]), losses(two[0] / name)
  assert expected.shape == (STEPS, 2)
  close(found, expected)
  for here, there in zip(evaluated, evaluated_there):
    assert here.keys() == there.keys()
    close([there[key] for key in here if key.startswith('eval/')], [here[key] for key in here if key.startswith('eval/')])
  assert all(found['went_on'] == STEPS for found in two[1])


def test_every_host_has_the_whole_result(alone, two):
  _, run, state = alone
  expected = run.evaluate(state, 'test', record=False)
  images = np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8, 1)
  for found in two[1]:
    close([found['test'][name] for name in expected], list(expected.values()))
    assert found['test']['eval/digit/n'] == 497  # the last of 21 batches holds 17 rows of 24
    close(found['predictions'], run.predict(state, images)['digit']['probabilities'])


@pytest.mark.parametrize('mesh', [dict(data=1), dict(data=2), dict(data=2, fsdp=2), dict(fsdp=8, data=1)],
                         ids=['1', '2', '4', '8'])
def test_one_process_restores_what_two_have_saved(mesh, alone, two, tmp_path):
  shutil.copytree(two[0] / 'fsdp', tmp_path / 'run')
  run = experiment.build(hosts_program.config(mesh), tmp_path / 'run')
  state = run.init()  # compares the checksum of every array
  assert int(state.step) == STEPS
  expected = tree.flatten(alone[2].params)
  for path, x in tree.flatten(state.params).items():
    # The weights are of size 0.1; those near zero differ by the rounding of sums.
    np.testing.assert_allclose(x, expected[path], rtol=1e-4, atol=1e-6)
  assert len(next(iter(tree.flatten(state.params).values())).sharding.device_set) == run.mesh.size


def test_one_process_goes_on_where_two_have_stopped(alone, two, tmp_path):
  shutil.copytree(two[0] / 'fsdp', tmp_path / 'run')
  forget(tmp_path / 'run', STEPS)
  hosts_program.trained(tmp_path / 'run', dict(data=1))
  close(losses(tmp_path / 'run')[0], losses(alone[0])[0])
  assert json.loads((tmp_path / 'run' / 'config.json').read_text())['mesh'] == {'data': 1}


def test_hosts_judge_alike(two):
  folder, (first, second) = two
  assert first['damaged'] == second['damaged'] == 4
  assert [path.name for path in (folder / 'damaged' / 'checkpoints.damaged').iterdir()] == [str(STEPS)]
  assert first['differ'] == second['differ'] == [
    'ValueError', 'Hosts 0 and 1 have different configs:\n  seed: 0 -> 1']
  kind, text = first['other_config']
  assert first['other_config'] == second['other_config'] and kind == 'ValueError' and 'seed: 0 -> 1' in text


def test_the_first_host_alone_writes(two):
  lines = (two[0] / 'fsdp' / 'metrics.jsonl').read_text().splitlines()
  assert len(lines) == len({(line['step'], line['split']) for line in map(json.loads, lines)}) == STEPS + 2
