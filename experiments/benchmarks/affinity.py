"""What it costs to watch affinity between tasks inside the step, as a ratio to the same step without.

python -m experiments.benchmarks.affinity [--every=50] [--steps=200] [--rounds=7]

MultiMNIST and the quickstart's model, with UPGrad and with the plain mean of the gradients (`cagrad`, c = 0). Programs
alternate; each round times `steps` steps of both. Writes experiments/results/affinity.json.
"""
import argparse
import json
import pathlib
import statistics
import time

import jax

from experiments.common import provenance
from experiments.multimnist import joint
from mtjax import experiment

METHODS = {'upgrad': {'name': 'upgrad'}, 'mean': {'name': 'cagrad', 'c': 0.0}}
RESULT = pathlib.Path('experiments/results/affinity.json')


def stepper(method: str, every: int, steps: int):
  """A function that makes `steps` steps, and the batches' run."""
  config = joint.get_config()
  config.mesh, config.aggregator, config.gradients = {'data': 1}, METHODS[method], {'affinity_every': every}
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
  for method in METHODS:
    with_it, without = (stepper(method, every, options.steps) for every in (options.every, 0))
    with_it(), without()  # compiled
    ratios = [with_it() / without() for _ in range(options.rounds)]
    found[method] = {'ratio': statistics.median(ratios), 'range': [min(ratios), max(ratios)]}
    print(f'{method}: {found[method]["ratio"]:.3f} ({min(ratios):.3f} to {max(ratios):.3f})')
  RESULT.write_text(json.dumps({**provenance('experiments.benchmarks.affinity'), 'every': options.every,
                                'steps': options.steps, 'rounds': options.rounds, 'methods': found}, indent=1) + '\n')


if __name__ == '__main__':
  main()
