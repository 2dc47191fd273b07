"""Settings of all tests: eight virtual CPU devices, no silent rank promotion, one data folder and compile cache."""
import gc
import itertools
import os
import pathlib
import sys
import tempfile

# Eight devices on few cores wait for one another longer than XLA thinks right, on a busy machine.
os.environ['XLA_FLAGS'] = ' '.join((
  os.environ.get('XLA_FLAGS', ''), '--xla_force_host_platform_device_count=8',
  '--xla_cpu_collective_call_terminate_timeout_seconds=300', '--xla_cpu_collective_timeout_seconds=300'))
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
# Workers of pytest-xdist and child processes inherit these, so that each data set is prepared and each program compiled once.
os.environ.setdefault('MTJAX_DATA', tempfile.mkdtemp(prefix='mtjax-tests-'))
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', os.path.join(os.environ['MTJAX_DATA'], 'compiled'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
ROOT = pathlib.Path(__file__).resolve().parents[1]
os.environ['PYTHONPATH'] = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
sys.path[:0] = [str(ROOT), str(ROOT / 'tests')]

import jax  # noqa: E402

jax.config.update('jax_numpy_rank_promotion', 'raise')

MOST_MAPS = 30_000  # of the 65,530 memory mappings that Linux allows a process; each compiled program takes several
_finished = itertools.count(1)


def pytest_runtest_teardown():
  """Gives compiled programs back before the process runs out of mappings, at which XLA would crash."""
  maps = pathlib.Path('/proc/self/maps')
  if next(_finished) % 16 == 0 and maps.exists() and maps.read_bytes().count(b'\n') > MOST_MAPS:
    jax.clear_caches()
    gc.collect()
