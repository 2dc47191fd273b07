r"""What the framework's loop costs over a bare jitted loop on the same model and the same batches.

python -m experiments.benchmarks.step_overhead [--steps=200] [--rounds=5] [--output=FILE.json]

Baseline: `for batch in batches: params, opt_state = step(params, opt_state, device_put(batch))`, one `jax.jit` with
donation, batches made before the clock starts. Ours: `mtjax.training.loop.train` with its input pipeline, masks,
gradient norm, finiteness flags, log lines every 50 steps. Rounds alternate; the ratio is the median over rounds of
(ours / bare) steps per second. Peak memory is that of a process of its own for each,
where the bare loop makes its batches one by one. Targets: >= 0.95 of the speed,
<= 1.1 of the memory.
"""
import dataclasses
import json
import pathlib
import re
import statistics
import subprocess
import sys
import time

import jax
import optax
from absl import app, flags

from experiments.common import provenance
from experiments.multimnist import joint
from mtjax import experiment
from mtjax.training import loop

_STEPS = flags.DEFINE_integer('steps', 600, 'Steps a round.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Rounds, alternating.')
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file for the result.')
_ONLY = flags.DEFINE_enum('only', None, ['bare', 'mtjax'], 'Run one of the two, print its peak memory (used inside).')


def make_bare(run, steps, ready=True):
  """A loop as one would write it by hand -> function that runs it once and returns seconds.

  `ready`: whether all batches are made beforehand; else one by one, as a loop that is to save memory would.
  """
  tx = optax.adam(1e-3)
  tasks = run.objective.tasks
  make = lambda k: {n: s.train_batch(k) for n, s in run.streams.items()}
  batches = [make(k) for k in range(steps)] if ready else None

  def total_loss(params, batch):
    outputs = run.objective.outputs(params, batch, train=True, rng=jax.random.key(0))
    labels = next(iter(batch.values()))
    return sum(optax.softmax_cross_entropy_with_integer_labels(outputs[t], labels[t]).mean() for t in tasks)

  @jax.jit
  def init():
    params = run.objective.init(jax.random.key(0), {n: s.train_batch(0) for n, s in run.streams.items()})
    return params, tx.init(params)

  def step(params, opt_state, batch):
    updates, opt_state = tx.update(jax.grad(total_loss)(params, batch), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  step = jax.jit(step, donate_argnums=(0, 1))

  def once():
    params, opt_state = step(*init(), jax.device_put(make(0)))
    jax.block_until_ready(params)
    start = time.perf_counter()
    for batch in batches or map(make, range(steps)):
      params, opt_state = step(params, opt_state, jax.device_put(batch))
    jax.block_until_ready(params)
    return time.perf_counter() - start

  return once


def make_ours(run):
  """The framework's loop -> the same."""
  def once():
    state = run.init()
    jax.block_until_ready(state)
    start = time.perf_counter()
    state, _, _ = loop.train(
      state, run.stages, run.settings, task_names=list(run.objective.tasks), mesh=run.mesh)
    jax.block_until_ready(state)
    return time.perf_counter() - start

  return once


def peak_memory():
  """Peak resident memory of this process in KiB (getrusage would count in the process that started it)."""
  return int(re.search(r'VmHWM:\s+(\d+)', pathlib.Path('/proc/self/status').read_text()).group(1))


def build(steps):
  """The quickstart's run, without evaluations."""
  config = joint.get_config()
  config.optimizer = dict(name='adam', lr=1e-3)
  config.steps, config.log_every, config.eval_every = steps, 50, 10**9
  run = experiment.build(config)
  no_evaluation = lambda params, split: {'eval/loss': 0.0}  # the one at the end is not what is measured
  run.stages = [dataclasses.replace(stage, evaluate=no_evaluation) for stage in run.stages]
  return run


def main(_):
  """Measures both, prints a table."""
  steps = _STEPS.value
  run = build(steps)
  if _ONLY.value:
    once = make_bare(run, steps, ready=False) if _ONLY.value == 'bare' else make_ours(run)
    once()
    print(peak_memory())
    return
  bare, ours = make_bare(run, steps), make_ours(run)
  bare(), ours()  # compile
  rounds = [(bare(), ours()) for _ in range(_ROUNDS.value)]
  memory = {}
  for name in ('bare', 'mtjax'):
    command = [sys.executable, '-m', 'experiments.benchmarks.step_overhead', f'--only={name}', f'--steps={steps}']
    memory[name] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])
  result = {
    **provenance('experiments.benchmarks.step_overhead'), 'steps': steps, 'rounds': len(rounds),
    'bare_steps_per_second': steps / statistics.median(b for b, _ in rounds),
    'mtjax_steps_per_second': steps / statistics.median(o for _, o in rounds),
    'speed_ratio': statistics.median(b / o for b, o in rounds),
    'speed_ratio_range': [min(b / o for b, o in rounds), max(b / o for b, o in rounds)],
    'peak_memory_kib': memory, 'memory_ratio': memory['mtjax'] / memory['bare']}
  print(json.dumps(result, indent=2))
  if _OUTPUT.value:
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  app.run(main)
