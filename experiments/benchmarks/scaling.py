r"""Weak scaling over devices, and the framework's step beside a hand-written one of the same transformer.

python -m experiments.benchmarks.scaling [--rounds=5] [--steps=20] [--attention=auto|xla|chunked|cudnn] [--parts=…]

weak      The small ViT with 16 rows a device on a mesh of 1, 2, 4 and 8 devices (virtual ones on a CPU, each number in
          a process of its own; on GPUs as many as there are): step time, examples a second, and both against one
          device. The virtual devices of a CPU share its cores, all of which one device keeps busy already: a step on n
          takes n times as long at best, and the processor time a row says what the partition costs.
step      Step time of `mtjax.training.loop.train` (masks, gradient norm, finiteness flags, log lines every 10 steps)
          against `params, opt_state = step(params, opt_state, batch)`, one `jax.jit` with donation, written by hand for
          the same module, loss and optimizer. The ratio is the median over rounds of (hand-written / ours); target
          >= 0.97. Beside it stands the ratio of the processor time of both, threads included, which on a CPU says the
          same and hardly minds what else the machine does. On a GPU: ViT-B/16 (batches of 128 images) and a decoder of
          125M parameters (16 x 2,048 tokens) in bfloat16, with model FLOPs utilisation; on a CPU the small sizes in
          float32.

Rounds interleave what is compared. Writes experiments/results/scaling.json, where a part that is not measured stays;
each says on what and beside which load of the machine it was measured.
"""
import argparse
import dataclasses
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import jax
import optax

from experiments.benchmarks import transformers
from experiments.common import provenance
from mtjax import experiment, tree
from mtjax.parallel import batch_sharding, chips, put_batch
from mtjax.training import loop
from mtjax.training.throughput import Meter

RESULT = pathlib.Path('experiments/results/scaling.json')
COUNTS = (1, 2, 4, 8)


def build(model: str, steps: int, devices: int = 1, attention: str = 'auto', dtype: str = 'float32'):
  """A run without evaluations."""
  config = transformers.get_config(f'{model},steps={steps},devices={devices},attention={attention},dtype={dtype}')
  config.mesh = dict(data=devices)
  run = experiment.build(config)
  no_evaluation = lambda params, split: {'eval/loss': 0.0}  # the one at the end is not what is measured
  run.stages = [dataclasses.replace(stage, evaluate=no_evaluation) for stage in run.stages]
  return run


class Time(NamedTuple):
  """Of a step, in ms: on the wall, and of the processor, all threads together."""
  wall: float
  processor: float


def now() -> Time:
  """What both clocks show, in ms."""
  return Time(1e3 * time.perf_counter(), 1e3 * time.process_time())


class Clock(Meter):
  """A meter that notes when the loop begins with its steps: all is compiled then."""

  def enter(self, *args) -> None:
    super().enter(*args)
    self.begin = now()


def make_ours(run, steps):
  """(function that runs the framework's loop once and returns its time, what the loop itself measured)."""
  clock = Clock(run.mesh, run.objective.encoder)

  def once():
    state = jax.block_until_ready(run.init())
    names = list(run.objective.tasks)
    state, _, _ = loop.train(state, run.stages, run.settings, task_names=names, mesh=run.mesh, meter=clock)
    jax.block_until_ready(state)
    return Time(*((end - begin) / steps for begin, end in zip(clock.begin, now())))

  return once, clock


def make_plain(run, steps):
  """A loop as one would write it by hand -> the same."""
  encoder, tx = run.objective.encoder, optax.adam(1e-4)
  stream = next(iter(run.streams.values()))
  batches = [stream.train_batch(k) for k in range(steps)]
  sharding = batch_sharding(run.mesh)

  def loss(params, batch):
    if 'tokens' in batch:
      logits = encoder.apply({'params': params['encoder']}, batch['tokens'], train=True).aux['logits']
      return optax.softmax_cross_entropy_with_integer_labels(logits[:, :-1], batch['tokens'][:, 1:]).mean()
    pooled = encoder.apply({'params': params['encoder']}, batch['image'], train=True).pooled
    logits = pooled @ params['heads']['class']['out']['kernel'] + params['heads']['class']['out']['bias']
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch['class']).mean()

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def step(params, opt_state, batch):
    value, gradient = jax.value_and_grad(loss)(params, batch)
    updates, opt_state = tx.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, value

  init = jax.jit(tx.init)

  def once():
    params = run.init().params
    opt_state = jax.block_until_ready(init(params))
    start = now()
    for batch in batches:
      params, opt_state, value = step(params, opt_state, put_batch(batch, sharding))
    jax.block_until_ready((params, value))
    return Time(*((end - begin) / steps for begin, end in zip(start, now())))

  return once


def compare_steps(model: str, steps: int, rounds: int, attention: str, dtype: str) -> dict:
  """The framework's step beside the hand-written one."""
  run = build(model, steps, attention=attention, dtype=dtype)
  plain, (ours, meter) = make_plain(run, steps), make_ours(run, steps)
  plain(), ours()  # compile
  pairs = [(plain(), ours()) for _ in range(rounds)]
  facts, chip = meter.summary()['train'], chips.of_kind(jax.devices()[0].device_kind)
  wall, processor = ([getattr(p, which) / getattr(o, which) for p, o in pairs] for which in Time._fields)
  result = {
    'dtype': dtype, 'attention': attention, 'parameters': tree.count(run.init().params),
    'rows': facts['examples_per_step'],
    'tokens': facts.get('tokens_per_step'), 'flops_per_step': facts['flops_per_step'],
    'compiled_flops_per_step': facts['compiled_flops_per_step'], 'peak_memory_bytes': facts['peak_memory_bytes'],
    'plain_ms': statistics.median(p.wall for p, _ in pairs), 'ours_ms': statistics.median(o.wall for _, o in pairs),
    'ratio': statistics.median(wall), 'ratio_range': [min(wall), max(wall)],
    'processor_ratio': statistics.median(processor), 'processor_ratio_range': [min(processor), max(processor)]}
  if chip is not None:
    result['mfu'] = facts['flops_per_step'] / (1e-3 * result['ours_ms'] * facts['peak_flops_per_device'])
    result['plain_mfu'] = result['mfu'] * result['ours_ms'] / result['plain_ms']
  return result


def weak_round(count: int, steps: int, cache: str) -> Time:
  """Time of a step on `count` devices: virtual ones in a process of their own, GPUs in this one, which holds them."""
  if jax.default_backend() != 'cpu':
    once, _ = make_ours(build('vit_small', steps, count), steps)
    once()
    return once()
  environment = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': cache,
                 'XLA_FLAGS': f'--xla_force_host_platform_device_count={count}'}
  command = [sys.executable, '-m', 'experiments.benchmarks.scaling', f'--only={count}', f'--steps={steps}']
  output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
  return Time(*json.loads(output.splitlines()[-1]))


def weak_scaling(steps: int, rounds: int) -> list[dict]:
  """A row for each number of devices."""
  counts = COUNTS if jax.default_backend() == 'cpu' else [n for n in COUNTS if n <= jax.device_count()]
  with tempfile.TemporaryDirectory() as cache:
    times = [{count: weak_round(count, steps, cache) for count in counts} for _ in range(rounds)]
  rows = transformers.MODELS['vit_small']['rows']
  table = []
  for count in counts:
    own = statistics.median(found[count].wall for found in times)
    ratios = [[getattr(found[count], which) / getattr(found[1], which) for found in times] for which in Time._fields]
    table.append({
      'devices': count, 'rows': rows * count, 'step_ms': own, 'examples_per_second': 1e3 * rows * count / own,
      'step_over_one_device': statistics.median(ratios[0]),
      'examples_over_one_device': count / statistics.median(ratios[0]),
      'processor_time_a_row_over_one_device': statistics.median(ratios[1]) / count})
  return table


def main() -> None:
  """Measures, prints, writes."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--steps', type=int, default=20, help='a round')
  parser.add_argument('--attention', default='auto', choices=('auto', 'xla', 'chunked', 'cudnn'))
  parser.add_argument('--parts', default='weak,step', help='which of the two')
  parser.add_argument('--output', default=str(RESULT), help='JSON file for the result')
  parser.add_argument('--only', type=int, help='weak scaling on so many devices, ms a step (used inside)')
  options = parser.parse_args()
  if unknown := set(options.parts.split(',')) - {'weak', 'step'}:
    parser.error(f'--parts may hold weak and step, got {", ".join(sorted(unknown))}')
  if options.only:
    once, _ = make_ours(build('vit_small', options.steps, options.only), options.steps)
    once()
    print(json.dumps(once()))
    return
  gpu = jax.default_backend() == 'gpu'
  output = pathlib.Path(options.output)
  for part in options.parts.split(','):
    measured = {**provenance('experiments.benchmarks.scaling'), 'cores': len(os.sched_getaffinity(0)),
                'load_before': round(os.getloadavg()[0], 1), 'steps': options.steps, 'rounds': options.rounds}
    if part == 'step':
      models = ('vit_b16', 'decoder_125m') if gpu else ('vit_small', 'decoder_small')
      measured['models'] = {model: compare_steps(model, options.steps, options.rounds, options.attention,
                                                 'bfloat16' if gpu else 'float32') for model in models}
    else:
      measured['devices'] = weak_scaling(options.steps, options.rounds)
    print(json.dumps({part: measured}, indent=1))
    before = json.loads(output.read_text()) if output.exists() else {}
    output.write_text(json.dumps({**before, part: measured}, indent=1) + '\n')


if __name__ == '__main__':
  main()
