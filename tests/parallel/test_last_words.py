"""A shell speaks for a process that cannot any more."""
import pathlib
import signal
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[2] / 'mtjax' / 'parallel'


@pytest.mark.parametrize('end, code, said', [
  ('pass', 0, ''),
  ('raise SystemExit(3)', 3, ''),
  ('words.goodbye(); os._exit(4)', 4, ''),
  ('os._exit(4)', 4, 'these are "the" last $words\n'),
  ('os.abort()', -signal.SIGABRT, 'these are "the" last $words\n'),
  ('os.kill(os.getpid(), signal.SIGKILL)', -signal.SIGKILL, 'these are "the" last $words\n'),
])
def test_only_a_process_without_goodbye_has_last_words(end, code, said):
  # The file by itself: to import mtjax takes seconds.
  program = f'import os, signal\nfrom last_words import LastWords\n' \
            f"words = LastWords('these are \"the\" last $words')\n{end}"
  ended = subprocess.run([sys.executable, '-c', program], env={'PYTHONPATH': str(FOLDER), 'PATH': '/usr/bin:/bin'}, stderr=subprocess.PIPE, text=True)  # until the shell ends too
  assert (ended.returncode, ended.stderr) == (code, said)
