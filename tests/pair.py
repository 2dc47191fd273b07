"""Several processes on this machine that stand for hosts: started, watched, and ended, whatever happens."""
import contextlib
import os
import pathlib
import socket
import subprocess
import time

TAKEN = ('cannot listen at port', 'Failed to add port')  # another program was quicker


class Pair:
  """Processes 0 … count - 1 of one program, each with CPU devices of its own; their outputs are files.

  Args:
    command: what each of them runs.
    folder: of the outputs, '0.log', '1.log', …
    count, devices: processes, and devices of each.
  """

  def __init__(self, command, folder, count=2, devices=4):
    self._command, self._folder, self._count, self._devices = command, pathlib.Path(folder), count, devices
    self._folder.mkdir(parents=True, exist_ok=True)
    self._again = True
    self._start()

  def _start(self):
    self.port, self.processes = free_port(), []
    for number in range(self._count):
      own = {'MTJAX_COORDINATOR': f'127.0.0.1:{self.port}', 'MTJAX_NUM_PROCESSES': str(self._count),
             'MTJAX_PROCESS_ID': str(number), 'JAX_PLATFORMS': 'cpu',
             'XLA_FLAGS': f'--xla_force_host_platform_device_count={self._devices}'}
      with self.log(number).open('w') as log:
        self.processes.append(subprocess.Popen(self._command, stdout=log, stderr=subprocess.STDOUT,
                                               env={**os.environ, **own}))

  def log(self, number):
    return self._folder / f'{number}.log'

  def text(self):
    return '\n'.join(f'--- host {number}\n{self.log(number).read_text()}' for number in range(self._count))

  def until(self, predicate, seconds=600):
    """Waits for `predicate()`; a process that ends before, or too long a wait, is a failure."""
    end = time.monotonic() + seconds
    while not predicate():
      self._retry()
      ended = [process.returncode for process in self.processes if process.poll() is not None]
      assert not ended and time.monotonic() < end, f'{ended}\n{self.text()}'
      time.sleep(0.02)

  def codes(self, seconds=600):
    """The exit codes of all."""
    end = time.monotonic() + seconds
    while None in [process.poll() for process in self.processes] and time.monotonic() < end:
      self._retry()
      time.sleep(0.05)
    return [process.poll() for process in self.processes]

  def _retry(self):
    """Starts once again, at another port, where the first process found its own taken."""
    if self._again and self.processes[0].poll() and any(text in self.log(0).read_text() for text in TAKEN):
      self._again = False
      self.end()
      self._start()

  def end(self):
    """Kills what still runs."""
    for process in self.processes:
      if process.poll() is None:
        process.kill()
      process.wait()


@contextlib.contextmanager
def hosts(command, folder, **kwargs):
  """A `Pair` while it lasts."""
  pair = Pair(command, folder, **kwargs)
  try:
    yield pair
  finally:
    pair.end()


def free_port():
  """A port that nobody listens to now."""
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]
