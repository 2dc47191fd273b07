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


def lose(workdir, logs, number, how):
  """Starts two hosts, loses one of them after the first checkpoint; the other has a minute to end, and to say why."""
  with pair.hosts(command(workdir), logs) as two:
    two.until(lambda: saved(workdir) > 0)
    two.processes[number].send_signal(how)
    began = time.monotonic()
    while two.processes[1 - number].poll() is None and time.monotonic() - began < 60:
      time.sleep(0.1)
    assert two.processes[1 - number].poll() not in (None, 0), two.text()
    assert 'nother host has died' in two.log(1 - number).read_text(), two.text()


@pytest.mark.slow
@pytest.mark.parametrize('number, how', [(0, signal.SIGKILL), (1, signal.SIGSTOP)], ids=['first killed', 'second frozen'])
def test_a_lost_host_ends_the_run_within_a_minute(number, how, tmp_path):
  lose(tmp_path / 'run', tmp_path / 'logs', number, how)


@pytest.mark.slow
def test_the_run_goes_on_after_a_host_was_killed(tmp_path):
  workdir = tmp_path / 'run'
  lose(workdir, tmp_path / 'first', 1, signal.SIGKILL)
  for count in 2, 1:  # then one host with half the devices
    reached = saved(workdir)
    with pair.hosts(command(workdir), tmp_path / f'again{count}', count=count) as again:
      again.until(lambda: saved(workdir) > reached)  # noqa: B023
      again.processes[0].send_signal(signal.SIGTERM)
      assert again.codes(120) == [0] * count, again.text()
      assert f'Restored step {reached} of' in again.text()
