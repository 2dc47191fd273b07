"""Where a process finds the others: config, own variables, launchers. What scripts and manifests say is read here too."""
import doctest
import pathlib
import shutil
import socket
import subprocess

import jax
import pytest
import yaml

from mtjax.parallel import distributed, hosts
from mtjax.parallel.distributed import find

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / 'experiments' / 'launch'
SLURM = {'SLURM_JOB_ID': '77', 'SLURM_STEP_NODELIST': 'node[003-004]', 'SLURM_NTASKS': '2', 'SLURM_STEP_NUM_TASKS': '2',
         'SLURM_PROCID': '1', 'SLURM_LOCALID': '0', 'SLURM_STEP_TASKS_PER_NODE': '1(x2)'}
MPI = {'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': '1', 'OMPI_COMM_WORLD_LOCAL_RANK': '0',
       'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}


def numbers(place):
  return place.coordinator, place.num_processes, place.process_id


@pytest.mark.parametrize('environment', [
  {},
  {'SLURM_JOB_ID': '77', 'SLURM_NTASKS': '4', 'SLURM_PROCID': '0'},  # a batch script that does not use srun
  {**SLURM, 'SLURM_STEP_NUM_TASKS': '1', 'SLURM_PROCID': '0'},
  {**MPI, 'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_COMM_WORLD_RANK': '0'},
  {'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '3'},
  {'MTJAX_NUM_PROCESSES': '1'},
])
def test_one_process_is_left_alone(environment):
  assert find(None, environment) is None
  assert find(False, SLURM) is None


def test_the_config_comes_before_own_variables_before_the_launcher():
  own = {'MTJAX_COORDINATOR': 'a:1', 'MTJAX_NUM_PROCESSES': '4', 'MTJAX_PROCESS_ID': '3'}
  assert numbers(find(None, own)) == ('a:1', 4, 3)
  assert numbers(find(dict(coordinator='b:2'), own)) == ('b:2', 4, 3)
  assert numbers(find(None, own | SLURM)) == ('a:1', 4, 3)
  assert numbers(find(None, {'MTJAX_COORDINATOR': 'a:1', **MPI})) == ('a:1', 2, 1)
  assert find(dict(heartbeat=7), own).heartbeat == 7


@pytest.mark.parametrize('nodes, first', [
  ('node[003-004]', 'node003'), ('node[3,7-9],other', 'node3'), ('a,b[1-2]', 'a'), ('a1', 'a1'), ('r[01-02]n5', 'r01n5')])
def test_slurm_names_its_first_machine(nodes, first):
  place = find(None, SLURM | {'SLURM_STEP_NODELIST': nodes})
  assert numbers(place) == (f'{first}:{61440 + 77}', 2, 1)


@pytest.mark.parametrize('extra, expected', [
  ({}, None),                                                                   # alone on its machine: all GPUs
  ({'SLURM_STEP_TASKS_PER_NODE': '4(x2)', 'SLURM_LOCALID': '3'}, (3,)),         # four share it
  ({'SLURM_STEP_TASKS_PER_NODE': '4(x2)', 'SLURM_LOCALID': '3', 'CUDA_VISIBLE_DEVICES': '3'}, None),  # SLURM dealt out
])
def test_processes_on_one_machine_share_its_devices(extra, expected):
  assert find(None, SLURM | extra).local_devices == expected


@pytest.mark.parametrize('spec, environment, message', [
  (3, {}, "'distributed' must be None, False, 'auto' or a dict"),
  (dict(coordinater='a:1'), {}, "Unknown config key 'distributed.coordinater'. Did you mean 'coordinator'"),
  (dict(coordinator='a:1', num_processes=2), {}, r"'distributed.process_id' \(or MTJAX_PROCESS_ID\) is missing"),
  (dict(coordinator='a:1'), {}, "'distributed.num_processes' .* is missing"),
  (dict(coordinator='a:1', num_processes=2, process_id=2), {}, 'is 2, but there are 2 processes'),
  (dict(coordinator='a:1', num_processes=0, process_id=0), {}, 'must be a whole number >= 1, got 0'),
  (dict(coordinator='a', num_processes=2, process_id=0), {}, "'distributed.coordinator' must be 'host:port', got 'a'"),
  (None, {'MTJAX_COORDINATOR': 'a', **MPI}, "MTJAX_COORDINATOR must be 'host:port', got 'a'"),
  (None, {'MTJAX_NUM_PROCESSES': 'two', 'MTJAX_PROCESS_ID': '0'}, "MTJAX_NUM_PROCESSES must be a whole number"),
  (None, MPI, "no 'distributed.coordinator' .* the same on all"),
  (dict(coordinator='a:1', num_processes=2, process_id=0, local_devices='0'), {}, 'must be a list of indices'),
])
def test_what_does_not_fit_is_said(spec, environment, message):
  with pytest.raises(ValueError, match=message):
    find(spec, environment)


@pytest.mark.parametrize('module', [distributed, hosts])
def test_examples(module):
  failed, tried = doctest.testmod(module)
  assert tried and not failed


def test_too_late_is_said():
  jax.devices()
  with pytest.raises(ValueError, match='JAX has computed something before the hosts were joined'):
    distributed.start(dict(coordinator='127.0.0.1:1', num_processes=2, process_id=0))


def test_a_taken_port_is_said():
  with socket.create_server(('', 0)) as other, pytest.raises(ConnectionError, match='cannot listen at port'):
    distributed._check_port(f'127.0.0.1:{other.getsockname()[1]}')


@pytest.mark.parametrize('script', ['slurm.sh', 'mpirun.sh'])
def test_start_scripts_are_sound(script):
  subprocess.run(['bash', '-n', LAUNCH / script], check=True)
  run = subprocess.run(['bash', LAUNCH / script], capture_output=True, text=True)
  assert run.returncode == 2 and 'usage: ' in run.stderr


@pytest.mark.parametrize('status, again', [('finished', False), ('stopped', True), ('failed', True)])
def test_slurm_queues_again_what_is_not_finished(status, again, tmp_path):
  """With commands in place of SLURM's: `srun` is the run, `scontrol` writes down what it is told."""
  commands, workdir = tmp_path / 'bin', tmp_path / 'run'
  commands.mkdir()
  for name, text in {'srun': f'echo "{{\\"status\\": \\"{status}\\"}}" > {workdir}/run.json; mkdir -p {workdir}/checkpoints/12',
                     'scontrol': f'echo "$@" >> {tmp_path}/told'}.items():
    (commands / name).write_text(f'#!/bin/bash\n{text}\n')
    (commands / name).chmod(0o755)
  environment = {'PATH': f'{commands}:{pathlib.Path(shutil.which("bash")).parent}:/usr/bin:/bin', 'SLURM_JOB_ID': '77'}
  run = lambda: subprocess.run(['bash', LAUNCH / 'slurm.sh', 'a.py', workdir], env=environment, capture_output=True)
  told = lambda: (tmp_path / 'told').read_text().split('\n')[:-1] if (tmp_path / 'told').exists() else []
  run()
  assert told() == ['requeue 77'] * again
  codes = [run().returncode for _ in range(4)]  # no new checkpoint from now on: the third such start is the last
  assert told() == ['requeue 77'] * (3 if again else 0)
  assert codes == ([0, 0, 1, 1] if again else [0] * 4)


def test_the_manifest_says_where_the_first_pod_is():
  manifest = yaml.safe_load((LAUNCH / 'jobset.yaml').read_text())
  assert (manifest['apiVersion'], manifest['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  spec, name = manifest['spec'], manifest['metadata']['name']
  (job,) = spec['replicatedJobs']
  pods = job['template']['spec']
  (container,) = pods['template']['spec']['containers']
  given = {entry['name']: entry.get('value') for entry in container['env']}
  environment = {key: value for key, value in given.items() if value} | {'MTJAX_PROCESS_ID': '1'}
  # JobSet calls the first pod <set>-<job>-<replica>-<index>, in the domain of the headless service.
  assert numbers(find(None, environment)) == (f'{name}-{job["name"]}-0-0.{spec["network"]["subdomain"]}:4321', 2, 1)
  assert pods['completionMode'] == 'Indexed' and pods['parallelism'] == pods['completions'] == 2
  assert pods['template']['spec']['restartPolicy'] == 'Never' and spec['failurePolicy']['maxRestarts'] > 0
  number = next(entry for entry in container['env'] if entry['name'] == 'MTJAX_PROCESS_ID')
  assert number['valueFrom']['fieldRef']['fieldPath'].endswith("['batch.kubernetes.io/job-completion-index']")
  subprocess.run(['sh', '-n', '-c', container['args'][0]], check=True)
