"""What is said when a process is ended where no Python runs any more.

JAX and Gloo abort a process whose peer has died, from a thread of C++, some with a message and some without; and the
system kills one that takes too much memory. So a shell waits at the end of a pipe, and speaks if the process goes
without a goodbye.
"""
import atexit
import contextlib
import subprocess


class LastWords:
  """Prints `text` on stderr when this process ends otherwise than by Python's own exit.

  Args:
    text: a line.
  """

  def __init__(self, text: str):
    waits = 'read -r goodbye || printf "%s\\n" "$0" >&2'
    self._shell = subprocess.Popen(['sh', '-c', waits, text], stdin=subprocess.PIPE, start_new_session=True)
    atexit.register(self.goodbye)

  def goodbye(self) -> None:
    """From now on nothing is said."""
    if self._shell.poll() is None:
      with contextlib.suppress(BrokenPipeError):
        self._shell.stdin.write(b'\n')
        self._shell.stdin.close()
      self._shell.wait()
    atexit.unregister(self.goodbye)
