"""Many hosts: one process on each, started by whatever starts processes, joined by `jax.distributed`.

`start` finds out how many processes there are, which one this is, and where the first one (the coordinator) listens:

    config.distributed        dict(coordinator='host:port', num_processes=4, process_id=0), all or some of them
    MTJAX_COORDINATOR, MTJAX_NUM_PROCESSES, MTJAX_PROCESS_ID     the same as variables of the environment
    OMPI_COMM_WORLD_SIZE, …   Open MPI (`mpirun`)
    SLURM_STEP_NUM_TASKS, …   SLURM (`srun`)
    PMI_SIZE, …               MPICH and its relatives (`mpiexec`)

Each is asked for what those above it leave open. The coordinator follows from SLURM's list of nodes; elsewhere it must
be given. On Kubernetes the manifest sets the variables (`experiments/launch/jobset.yaml`). Cloud TPUs know all of it
themselves: config.distributed = 'auto' leaves everything to JAX.

Without any of these, or with one process, nothing happens at all.

A process that dies ends the others: they notice a closed connection at once, and silence (a frozen machine, a torn
cable) after `heartbeat` seconds. What is left of a failing program ends within `FAREWELL` seconds more. A process that
still sends its heartbeat while its program hangs is not noticed.
"""
import contextlib
import inspect
import itertools
import logging
import os
import re
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mtjax.config import check_keys, to_dict
from mtjax.parallel import hosts
from mtjax.parallel.last_words import LastWords

log = logging.getLogger('mtjax')

HEARTBEAT = 30  # seconds of silence after which a process counts as dead
FAREWELL = 10   # seconds for which a failing process waits for the others to fail too
KEYS = ('coordinator', 'num_processes', 'process_id', 'local_devices', 'heartbeat', 'patience')
_OWN = {'coordinator': 'MTJAX_COORDINATOR', 'num_processes': 'MTJAX_NUM_PROCESSES', 'process_id': 'MTJAX_PROCESS_ID'}
_LAUNCHERS = {  # number of processes, this one's number; its number on this machine, how many are there
  'Open MPI': ('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK',
               'OMPI_COMM_WORLD_LOCAL_SIZE'),
  'SLURM': ('SLURM_STEP_NUM_TASKS', 'SLURM_PROCID', 'SLURM_LOCALID', 'SLURM_STEP_TASKS_PER_NODE'),
  'MPICH': ('PMI_SIZE', 'PMI_RANK', 'MPI_LOCALRANKID', 'MPI_LOCALNRANKS'),
}
_PORTS = range(61_440, 65_536)  # of the coordinator under SLURM, by the number of the job


class Place(NamedTuple):
  """Where a process stands among the others.

  Attributes:
    coordinator: 'host:port' of process 0.
    num_processes, process_id: how many there are, and which this is.
    local_devices: indices of the devices of this machine that are this process's; None = all.
    heartbeat: seconds of silence after which a process counts as dead.
    patience: seconds to wait for all processes at the start.
  """

  coordinator: str
  num_processes: int
  process_id: int
  local_devices: tuple[int, ...] | None = None
  heartbeat: int = HEARTBEAT
  patience: int = 300


GO_ON = 'The same command on all hosts, as many as you like, goes on from the last checkpoint.'
_started: Place | str | None = None
_last_words: LastWords | None = None


def find(spec: Any = None, environment: Mapping[str, str] | None = None) -> Place | None:
  """The place that a config and the environment say; None where there is but one process.

  Args:
    spec: config.distributed: None, False (one process, whatever the environment says), or a dict with some of
      coordinator, num_processes, process_id, local_devices (indices), heartbeat and patience (seconds).
    environment: None = that of this process.

  Example:
    >>> find(dict(coordinator='10.0.0.1:4321', num_processes=2), {'MTJAX_PROCESS_ID': '1'})[:3]
    ('10.0.0.1:4321', 2, 1)
    >>> find(None, {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_PROCID': '0'}) is None
    True
  """
  environment = os.environ if environment is None else environment
  if spec is False:
    return None
  spec = to_dict(spec or {})
  if not isinstance(spec, dict):
    raise ValueError("'distributed' must be None, False, 'auto' or a dict such as dict(coordinator='host:port', "
                     f'num_processes=2, process_id=0); got {spec!r}.')
  check_keys(spec, KEYS, 'distributed')
  given = {key: (spec[key], f"'distributed.{key}'") for key in KEYS if spec.get(key) is not None}
  for key, name in _OWN.items():
    if environment.get(name):
      given.setdefault(key, (environment[name], name))
  launcher = _launcher(environment)
  if launcher is not None:
    for key, name in zip(('num_processes', 'process_id'), _LAUNCHERS[launcher]):
      given.setdefault(key, (environment[name], name))
  if not {'coordinator', 'num_processes', 'process_id'} & set(given):
    return None
  count = _whole(given, 'num_processes', 1)
  if count == 1:
    return None
  number = _whole(given, 'process_id', 0)
  if number >= count:
    raise ValueError(f'{given["process_id"][1]} is {number}, but there are {count} processes ('
                     f'{given["num_processes"][1]}), numbered from 0.')
  coordinator, where = given.get('coordinator') or (_first_of_slurm(environment), 'SLURM_STEP_NODELIST')
  if coordinator is None:
    raise ValueError("There is no 'distributed.coordinator' (or MTJAX_COORDINATOR): it must be the address 'host:port' "
                     f'of the first of the {count} processes, the same on all of them.')
  if not re.fullmatch(r'.+:\d{1,5}', str(coordinator)):
    raise ValueError(f"{where} must be 'host:port', got {coordinator!r}.")
  return Place(coordinator, count, number, _local_devices(given, launcher, environment),
               _whole(given, 'heartbeat', 1, HEARTBEAT), _whole(given, 'patience', 1, 300))


def start(spec: Any = None, *, stoppable: bool = True) -> None:
  """Joins the other processes, before JAX computes anything. Does nothing where this is the only one, or it is done.

  Args:
    spec: config.distributed, see `find`; 'auto' or True = whatever JAX itself finds out (Cloud TPU).
    stoppable: SIGTERM to any process becomes a request that all training loops see at the same step. False leaves
      the signal as it was.
  """
  global _started, _last_words
  place = 'auto' if spec is True or spec == 'auto' else find(spec)
  if place is None or _started == place:
    return
  if _started is not None:
    raise ValueError(f"'distributed' cannot change within a process: {_started} before, now {place}.")
  jax.config.update('jax_enable_preemption_service', stoppable)
  if jax.config.jax_cpu_collectives_implementation is None:
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
  keywords = {'heartbeat_timeout_seconds': HEARTBEAT}
  if place != 'auto':
    keywords = dict(
      coordinator_address=place.coordinator, num_processes=place.num_processes, process_id=place.process_id,
      local_device_ids=place.local_devices, cluster_detection_method='deactivate',
      initialization_timeout=place.patience, heartbeat_timeout_seconds=place.heartbeat)
    if place.process_id == 0:
      _check_port(place.coordinator)
    _last_words = LastWords(
      f'[host {place.process_id} of {place.num_processes}] This process was ended: from outside, or because another '
      f'host has died or fallen silent. The lines above say more, and so does the output of the others. {GO_ON}')
  known = inspect.signature(jax.distributed.initialize).parameters
  try:
    jax.distributed.initialize(**{key: value for key, value in keywords.items() if key in known})
  except RuntimeError as error:
    if 'before any JAX' in str(error):
      raise ValueError('JAX has computed something before the hosts were joined. Call '
                       'mtjax.parallel.distributed.start(config.distributed) first thing in the program.') from error
    raise ConnectionError(f'The processes did not come together ({place}): {error}') from error
  _started = place
  log.info('Host %d of %d; the first is at %s.', jax.process_index(), jax.process_count(),
           'an address that JAX knows' if place == 'auto' else place.coordinator)


def connect(mesh: Mesh) -> None:
  """Opens the connections between the CPU devices of several hosts.

  Gloo opens them when a group of devices first computes together, and gives up after 30 seconds. A host that takes
  longer than that to compile a step is no reason to fail, so the groups that a mesh can make meet here.
  """
  if hosts.count() == 1 or jax.default_backend() != 'cpu':
    return
  by_host = np.array(jax.devices()).reshape(hosts.count(), -1)
  for own in (mesh, Mesh(by_host, ('hosts', 'devices'))):
    axes = [axis for axis in own.axis_names if own.shape[axis] > 1]
    groups = [group for size in range(1, len(axes) + 1) for group in itertools.combinations(axes, size)]

    def meet(x, groups=groups):
      return sum(jax.lax.psum(x, group) for group in groups)

    program = jax.jit(jax.shard_map(meet, mesh=own, in_specs=PartitionSpec(), out_specs=PartitionSpec()))
    one = jax.make_array_from_process_local_data(NamedSharding(own, PartitionSpec()), np.ones((), np.float32))
    program = program.lower(one).compile()
    hosts.wait('connections')
    program(one).block_until_ready()


def finish() -> None:
  """Waits until all processes have got here, then leaves them. A program that uses `start` ends with it."""
  if _started is not None:
    hosts.wait('the end')
    jax.distributed.shutdown()


def fail(message: str, status: int = 1) -> None:
  """Ends this process, one of several, by force: an ordinary exit would wait for those that have died.

  The others may be failing for the same reason, and are given `FAREWELL` seconds to say so.
  """
  print(f'[host {jax.process_index()} of {jax.process_count()}] {message}', file=sys.stderr, flush=True)
  sys.stdout.flush()
  timer = threading.Timer(FAREWELL + 2, os._exit, (status,))  # the wait itself may be stuck
  timer.daemon = True
  timer.start()
  with contextlib.suppress(Exception):  # whatever it is, this process ends
    hosts.farewell(FAREWELL)
  if _last_words is not None:
    _last_words.goodbye()
  os._exit(status)


def explain(error: BaseException) -> str:
  """The traceback of `error`, and what it means where another process is its cause."""
  story = ''.join(traceback.format_exception(error))
  if isinstance(error, (jax.errors.JaxRuntimeError, hosts.LostHost)):
    return f'{story}Another host has died or fallen silent; its own output says why. This host ends too. {GO_ON}'
  return story


def _check_port(coordinator: str) -> None:
  """Raises ConnectionError where another program has the port: JAX would crash without a word."""
  port, dual = int(coordinator.rpartition(':')[2]), socket.has_dualstack_ipv6()
  try:
    socket.create_server(('', port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual).close()
  except (OSError, OverflowError) as error:
    raise ConnectionError(f'The first process cannot listen at port {port} ({error}): choose another one in '
                          f"'distributed.coordinator' or MTJAX_COORDINATOR, {coordinator!r} now.") from error


def _launcher(environment: Mapping[str, str]) -> str | None:
  """The launcher that started several processes of which this is one."""
  for name, (size, rank, *_) in _LAUNCHERS.items():
    if environment.get(size, '').isdigit() and int(environment[size]) > 1 and environment.get(rank):
      return name
  return None


def _local_devices(given: Mapping[str, Any], launcher: str | None,
                   environment: Mapping[str, str]) -> tuple[int, ...] | None:
  """Several processes on one machine share its GPUs, one each; a process alone on its machine has all of them."""
  if 'local_devices' in given:
    indices = given['local_devices'][0]
    if not isinstance(indices, list) or not all(isinstance(i, int) and i >= 0 for i in indices):
      raise ValueError(f"'distributed.local_devices' must be a list of indices of this machine's devices, got "
                       f'{indices!r}.')
    return tuple(indices)
  if launcher is None:
    return None
  number, here = (environment.get(name, '') for name in _LAUNCHERS[launcher][2:])
  most = max(map(int, re.findall(r'(?:^|,)(\d+)', here)), default=1)  # of SLURM: '2(x3),1'
  visible = environment.get('CUDA_VISIBLE_DEVICES')
  dealt_out = visible is not None and len(visible.split(',')) < most  # the launcher has chosen a GPU for each already
  return None if most == 1 or dealt_out or not number.isdigit() else (int(number),)


def _first_of_slurm(environment: Mapping[str, str]) -> str | None:
  """'node[003-004],other' -> 'node003:port'."""
  first = re.match(r'([^,\[]+)(?:\[(\d+)[^\]]*\]([^,]*))?', environment.get('SLURM_STEP_NODELIST', ''))
  job = environment.get('SLURM_JOB_ID', '')
  if first is None or not job.isdigit():
    return None
  return ''.join(part or '' for part in first.groups()) + f':{_PORTS[int(job) % len(_PORTS)]}'


def _whole(given: Mapping[str, Any], key: str, least: int, default: int | None = None) -> int:
  if key not in given and default is not None:
    return default
  if key not in given:
    raise ValueError(f"'distributed.{key}' (or {_OWN[key]}) is missing; given are "
                     + ', '.join(name for _, name in given.values()) + '.')
  value, where = given[key]
  if isinstance(value, bool) or not re.fullmatch(r'\d+', str(value)) or int(value) < least:
    raise ValueError(f'{where} must be a whole number >= {least}, got {value!r}.')
  return int(value)
