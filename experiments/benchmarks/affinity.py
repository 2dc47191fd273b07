"""What it costs to watch affinity between tasks inside the step, as a ratio to the same step without.

python -m experiments.benchmarks.affinity [--every=50] [--steps=200] [--rounds=7]

MultiMNIST with the quickstart's ConvNet and with an MLP; UPGrad, and the plain mean of the gradients (`cagrad`, c = 0).
On CPUs XLA computes convolutions inside of a condition many times slower than outside, hence both. Programs alternate;
each round times `steps` steps of both. Writes experiments/results/affinity.json.
"""
import argparse
import itertools
import json
import pathlib
import statistics
import time

import jax

from experiments.common import provenance
from experiments.multimnist import joint
from mtjax import experiment

ENCODERS = {'lenet': {}, 'mlp': {'name': 'mlp', 'widths': (256, 128)}}
METHODS = {'upgrad': {'name': 'upgrad'}, 'mean': {'name': 'cagrad', 'c': 0.0}}
RESULT = pathlib.Path('experiments/results/affinity.json')


def stepper(encoder: str, method: str, every: int, steps: int):
  """A function that makes `steps` steps and gives their time."""
  config = joint.get_config()
  config.mesh, config.aggregator, config.gradients = {'data': 1}, METHODS[method], {'affinity_every': every}
  config.encoder = ENCODERS[encoder] or config.encoder
  run = experiment.build(config)
  batches, box = [run.batch(step) for step in range(8)], [run.init()]

  def go() -> float:
    start = time.perf_counter()
    for step in range(steps):
      box[0] = run.stages[0].step(box[0], batches[step % len(batches)])
    jax.block_until_ready(box[0])
    return time.perf_counter() - start

  return go


def main() -> None:
  """Measures, writes, prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--every', type=int, default=50)
  parser.add_argument('--steps', type=int, default=200)
  parser.add_argument('--rounds', type=int, default=7)
  options = parser.parse_args()
  found = {}
  for encoder, method in itertools.product(ENCODERS, METHODS):
    with_it, without = (stepper(encoder, method, every, options.steps) for every in (options.every, 0))
    with_it(), without()  # compiled
    ratios = [with_it() / without() for _ in range(options.rounds)]
    name = f'{encoder}, {method}'
    found[name] = {'ratio': statistics.median(ratios), 'range': [min(ratios), max(ratios)]}
    print(f'{name}: {found[name]["ratio"]:.3f} ({min(ratios):.3f} to {max(ratios):.3f})')
  RESULT.write_text(json.dumps({**provenance('experiments.benchmarks.affinity'), 'every': options.every,
                                'steps': options.steps, 'rounds': options.rounds, 'ratios': found}, indent=1) + '\n')


if __name__ == '__main__':
  main()
