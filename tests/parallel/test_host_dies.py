"""One of two hosts is told to stop, or dies: the other does not hang, and the run goes on, on two hosts or on one."""
import json
import pathlib
import signal
import sys
import time

import pair
import pytest

from mtjax.training.writers import read_metrics

CONFIG = pathlib.Path(__file__).parents[1] / 'kill_config.py'
STEPS = 2000


def command(workdir, steps=STEPS):
  return [sys.executable, '-u', '-m', 'mtjax.train', f'--config={CONFIG}:{steps}', f'--workdir={workdir}', '--noreport',
          '--config.mesh.data=-1', '--config.checkpoint_every=20']


def saved(workdir):
  folder = workdir / 'checkpoints'
  return max((int(path.name) for path in folder.glob('*') if path.name.isdigit()), default=0) if folder.exists() else 0


def test_sigterm_to_one_stops_both_at_the_same_step(tmp_path):
  workdir = tmp_path / 'run'
  with pair.hosts(command(workdir), tmp_path / 'logs') as two:
    two.until(lambda: bool(read_metrics(workdir)))
    two.processes[1].send_signal(signal.SIGTERM)
    assert two.codes(120) == [0, 0], two.text()
    stopped = [two.log(number).read_text().split('SIGTERM: stopped at step ')[1].split('.')[0] for number in range(2)]
  assert stopped[0] == stopped[1] == str(saved(workdir))
  assert json.loads((workdir / 'run.json').read_text())['status'] == 'stopped'


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_killed_host_ends_the_run_within_a_minute(victim, tmp_path):
  workdir = tmp_path / 'run'
  with pair.hosts(command(workdir), tmp_path / 'first') as two:
    two.until(lambda: saved(workdir) > 0)
    two.processes[victim].send_signal(signal.SIGKILL)
    began = time.monotonic()
    code = two.codes(60)[1 - victim]
    assert code not in (None, 0) and time.monotonic() - began < 60, two.text()
    assert 'nother host has died' in two.log(1 - victim).read_text(), two.text()
  reached = saved(workdir)
  with pair.hosts(command(workdir), tmp_path / 'second') as two:
    two.until(lambda: saved(workdir) > reached)
    two.processes[0].send_signal(signal.SIGTERM)
    assert two.codes(120) == [0, 0], two.text()
    assert f'Restored step {reached} of' in two.text()
  reached = saved(workdir)
  with pair.hosts(command(workdir), tmp_path / 'third', count=1) as one:  # one host with half the devices
    one.until(lambda: saved(workdir) > reached)
    one.processes[0].send_signal(signal.SIGTERM)
    assert one.codes(120) == [0], one.text()
    assert f'Restored step {reached} of' in one.text()
