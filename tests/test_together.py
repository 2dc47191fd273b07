"""Runs trained side by side are the runs that they would have been alone."""
import json

import jax
import numpy as np
import pytest
import toy

from mtjax import experiment, together
from mtjax.run import seeded
from mtjax.training import loop

STEPS = 9


def config(**fields):
  return toy.config(steps=STEPS, ema=0.9, **fields)


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [{k: v for k, v in json.loads(line).items() if not k.startswith('time/')} for line in text.splitlines()]


def side_by_side(folder, seeds, vmapped=None, base=None):
  base = base or experiment.build(config())
  devices = jax.devices()[:2]
  runs = [base.with_seed(seed, folder / str(seed), devices[i % 2 if vmapped is None else 0]) for i, seed in enumerate(seeds)]
  return runs, together.train_together(runs, vmapped=vmapped)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
  """{seed: (final state, workdir)} of runs trained one after the other."""
  found = {}
  for seed in (0, 3, 5):
    folder = tmp_path_factory.mktemp(f'alone{seed}')
    run = experiment.build(seeded(config().to_dict(), seed), folder)
    state, _ = run.train(run.init())
    found[seed] = jax.device_get(state), folder
  return found


def test_on_devices_of_their_own_they_are_equal_to_the_bit(alone, tmp_path):
  runs, outcomes = side_by_side(tmp_path, (0, 3, 5))
  for run, outcome in zip(runs, outcomes):
    state, folder = alone[run.config['seed']]
    assert outcome.error is None
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(outcome.state.params), state.params)
    assert lines(run.workdir) == lines(folder)
    assert json.loads((run.workdir / 'config.json').read_text()) == json.loads((folder / 'config.json').read_text())
    assert json.loads((run.workdir / 'run.json').read_text())['status'] == 'finished'
  assert runs[0].stages[0].update._cache_size() == 2  # one program a device, however many seeds


def test_stacked_they_are_equal_to_rounding(alone, tmp_path):
  runs, outcomes = side_by_side(tmp_path, (0, 3, 5), vmapped=True)
  for run, outcome in zip(runs, outcomes):
    state, folder = alone[run.config['seed']]
    # Batched products add in another order; nine steps of Adam carry that on.
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-5),
                 jax.device_get(outcome.state.params), state.params)
    assert [sorted(line) for line in lines(run.workdir)] == [sorted(line) for line in lines(folder)]


def test_a_run_that_fails_leaves_the_others_alone(alone, tmp_path):
  base = experiment.build(config())
  runs = [base.with_seed(seed, tmp_path / str(seed), jax.devices()[0]) for seed in (0, 3)]
  real = runs[1].init
  runs[1].init = lambda **_: real().replace(params=jax.tree.map(lambda x: x + np.float32(np.nan), real().params))
  outcomes = together.train_together(runs)
  assert isinstance(outcomes[1].error, loop.NonFiniteLoss) and outcomes[1].state is None
  status = json.loads((tmp_path / '3' / 'run.json').read_text())
  assert status['status'] == 'failed' and 'not finite at step 0' in status['message']
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(outcomes[0].state.params), alone[0][0].params)


class StopAfter(loop.StopRequest):
  """SIGTERM after a number of steps."""

  steps = 0
  signal = 'SIGTERM'

  def __bool__(self):
    StopAfter.steps -= 1
    return StopAfter.steps <= 0


def test_stopped_they_go_on_each_from_its_checkpoint(alone, tmp_path, monkeypatch):
  with monkeypatch.context() as patch:
    StopAfter.steps = 5
    patch.setattr(together, 'StopRequest', StopAfter)
    runs, _ = side_by_side(tmp_path, (0, 3))
    assert all(run.stopped for run in runs)
    assert json.loads((tmp_path / '0' / 'run.json').read_text())['status'] == 'stopped'
  runs, outcomes = side_by_side(tmp_path, (0, 3, 5))  # 5 begins, the others go on
  for run, outcome in zip(runs, outcomes):
    state, folder = alone[run.config['seed']]
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(outcome.state.params), state.params)
    assert lines(run.workdir) == lines(folder)


def test_stacks_that_do_not_fit_are_halved():
  run = experiment.build(config())
  state = run.init()
  one, four = together._bytes(run, state, 1), together._bytes(run, state, 4)
  assert 2 * one < four <= 5 * one
  assert together.most_lanes(run, state, 4, limit=four) == 4
  assert together.most_lanes(run, state, 4, limit=four - 1) == 2
  assert together.most_lanes(run, state, 4, limit=1) == 1


def test_stages_are_entered_by_every_run(tmp_path):
  staged = config(stages=[dict(name='heads', steps=3, frozen=('encoder/',)), dict(name='all', steps=3)])
  base = experiment.build(staged)
  runs = [base.with_seed(seed, tmp_path / str(seed), jax.devices()[0]) for seed in (0, 1)]
  outcomes = together.train_together(runs)
  alone = experiment.build(seeded(staged.to_dict(), 1))
  state, _ = alone.train(alone.init())
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(outcomes[1].state.params), jax.device_get(state.params))


def test_what_cannot_go_together_is_refused():
  base = experiment.build(config())
  with pytest.raises(ValueError, match='optimizer.lr'):
    together.train_together([base, experiment.build(config(optimizer={'name': 'adam', 'lr': 1e-2}))])
  with pytest.raises(ValueError, match=r'run\.with_seed'):
    together.train_together([base, experiment.build(config())])
  with pytest.raises(ValueError, match='mesh=dict'):
    together.train_together([experiment.build(config(mesh={'data': 8}))])
  with pytest.raises(ValueError, match='no runs'):
    together.train_together([])
