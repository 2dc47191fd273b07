"""`kill -9` at random moments of training and saving: nothing is lost, the end is the same to the bit."""
import json
import pathlib
import random
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mtjax import experiment

CONFIG = pathlib.Path(__file__).with_name('kill_config.py')
NUM_KILLS = 20


def start(workdir, log):
  command = [sys.executable, '-m', 'mtjax.train', f'--config={CONFIG}', f'--workdir={workdir}', '--noreport']
  return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)


def wait_for(predicate, process, seconds=120):
  end = time.time() + seconds
  while time.time() < end and process.poll() is None:
    if predicate():
      return True
    time.sleep(0.005)
  return predicate()


def final(workdir):
  run = experiment.load_run(workdir)
  return int(run.restore().step), jax.device_get(run.restore().params), jax.device_get(run.restore().opt_state)


def lines(workdir):
  text = (workdir / 'metrics.jsonl').read_text()
  return [{k: v for k, v in json.loads(line).items() if not k.startswith('time/')} for line in text.splitlines()]


def saving(checkpoints):
  return checkpoints.exists() and any('tmp' in path.name for path in checkpoints.iterdir())


def newest(checkpoints):
  return max([int(p.name) for p in checkpoints.iterdir() if p.name.isdigit()], default=0) if checkpoints.exists() else 0


@pytest.mark.slow
def test_killed_twenty_times_and_yet_the_same(tmp_path):
  rng, killed_while_saving, reached = random.Random(0), 0, [0]
  workdir, log_path = tmp_path / 'killed', tmp_path / 'log'
  checkpoints = workdir / 'checkpoints'
  for i in range(NUM_KILLS):
    with log_path.open('w') as log:
      process = start(workdir, log)
      started = lambda: any(words in log_path.read_text() for words in ('Fresh parameters', 'Restored step'))
      assert wait_for(started, process), log_path.read_text()
      goal = reached[-1] + rng.randrange(1, 12)
      if i % 5 == 0:    # before or during the first steps
        time.sleep(rng.uniform(0.0, 1.0))
      elif i % 5 < 3:   # after some steps
        assert wait_for(lambda: newest(checkpoints) > goal, process), log_path.read_text()  # noqa: B023
        time.sleep(rng.uniform(0.0, 0.1))
      else:             # while a checkpoint is being written
        assert wait_for(lambda: newest(checkpoints) > goal and saving(checkpoints), process), log_path.read_text()  # noqa: B023
        time.sleep(rng.uniform(0.0, 0.03))
      process.send_signal(signal.SIGKILL)
      process.wait()
    assert process.returncode == -signal.SIGKILL, f'it ended before it was killed:\n{log_path.read_text()}'
    killed_while_saving += saving(checkpoints)
    reached.append(newest(checkpoints))
  assert reached == sorted(reached), 'a restart never goes back behind a finished checkpoint'
  assert killed_while_saving >= 3 and reached[-1] > 20, (killed_while_saving, reached)
  with log_path.open('w') as log:
    assert start(workdir, log).wait() == 0, log_path.read_text()
    assert start(tmp_path / 'whole', log).wait() == 0, log_path.read_text()
  (step, params, opt_state), (step2, params2, opt_state2) = final(workdir), final(tmp_path / 'whole')
  assert step == step2 == 400
  for a, b in zip(jax.tree.leaves((params, opt_state)), jax.tree.leaves((params2, opt_state2))):
    np.testing.assert_array_equal(a, b)
  assert lines(workdir) == lines(tmp_path / 'whole')


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_cleanly(number, tmp_path):
  log_path = tmp_path / 'log'
  with log_path.open('w') as log:
    process = start(tmp_path / 'run', log)
    metrics = tmp_path / 'run' / 'metrics.jsonl'
    assert wait_for(lambda: metrics.exists() and metrics.stat().st_size > 0, process), log_path.read_text()
    process.send_signal(number)
    assert process.wait(timeout=60) == 0, log_path.read_text()
  text = log_path.read_text()
  stopped = f'{signal.Signals(number).name}: stopped at step '
  assert stopped in text and 'the same command goes on' in text and 'Traceback' not in text
  step = int(text.split(stopped)[1].split('.')[0])
  assert (tmp_path / 'run' / 'checkpoints' / str(step)).is_dir()
  assert json.loads((tmp_path / 'run' / 'run.json').read_text())['status'] == 'stopped'
  assert int(experiment.load_run(tmp_path / 'run').init().step) == step
