"""Seeds of the quickstart side by side (`mtjax.together`) against the same runs one after another, in whole processes.

python -m experiments.benchmarks.seeds_side_by_side [--seeds=8] [--rounds=3] [--vmapped]

one after another    `python -m mtjax.train` for each seed
side by side         one process that trains all of them as a study does, and tests them

Both begin with the data prepared, write the same files but for the reports (there is none), and have no cache of
compiled programs to begin with. The ratio of their times is the median over rounds, in which the two alternate.
Writes experiments/results/seeds_side_by_side.json.
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from experiments.common import provenance

CONFIG = 'experiments/multimnist/joint.py'
RESULT = pathlib.Path('experiments/results/seeds_side_by_side.json')
TOGETHER = '''
import sys
from mtjax import experiment, together
together.one_device_a_core(int(sys.argv[2]))
from experiments.multimnist import joint
config = joint.get_config()
config.mesh, config.tensorboard = dict(data=1), False
base, seeds = experiment.build(config), int(sys.argv[2])
devices = together.spread_devices(seeds)
runs = [base.with_seed(seed, f'{sys.argv[1]}/{seed}', devices[seed % len(devices)]) for seed in range(seeds)]
for run, outcome in zip(runs, together.train_together(runs, vmapped=sys.argv[3] == 'vmapped' or None)):
  run.evaluate(outcome.state, 'validation')
  run.evaluate(outcome.state, 'test')
'''


def timed(command: list[str], environment: dict[str, str]) -> float:
  """Seconds of a process; raises where it fails."""
  start = time.perf_counter()
  subprocess.run(command, env=environment, check=True, capture_output=True)
  return time.perf_counter() - start


def one_round(seeds: int, vmapped: bool, environment: dict[str, str]) -> dict[str, float]:
  """Seconds of both ways."""
  found = {}
  with tempfile.TemporaryDirectory() as folder:
    own = environment | {'JAX_COMPILATION_CACHE_DIR': f'{folder}/alone'}
    found['one after another'] = sum(timed(
      [sys.executable, '-m', 'mtjax.train', f'--config={CONFIG}:seed={seed}', f'--workdir={folder}/alone{seed}',
       '--noreport', '--config.tensorboard=False'], own) for seed in range(seeds))
  with tempfile.TemporaryDirectory() as folder:
    way = 'vmapped' if vmapped else 'auto'
    found['side by side'] = timed([sys.executable, '-c', TOGETHER, folder, str(seeds), way], environment)
  return found


def main() -> None:
  """Measures, writes, prints."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--seeds', type=int, default=8)
  parser.add_argument('--rounds', type=int, default=3)
  parser.add_argument('--vmapped', action='store_true', help='stack the states, also on CPUs; nothing is written')
  options = parser.parse_args()
  environment = {**os.environ, 'PYTHONPATH': os.pathsep.join([os.getcwd(), os.environ.get('PYTHONPATH', '')])}
  rounds = []
  for number in range(options.rounds):
    rounds.append(one_round(options.seeds, options.vmapped, environment))
    print(f'round {number + 1}: ' + ', '.join(f'{name} {seconds:.1f} s' for name, seconds in rounds[-1].items()))
  ratios = [found['side by side'] / found['one after another'] for found in rounds]
  result = {**provenance('experiments.benchmarks.seeds_side_by_side'), 'cores': len(os.sched_getaffinity(0)),
            'seeds': options.seeds, 'ratio': statistics.median(ratios), 'range': [min(ratios), max(ratios)],
            'rounds': rounds}
  print(f'ratio {result["ratio"]:.2f} ({result["range"][0]:.2f} to {result["range"][1]:.2f})')
  if not options.vmapped:
    RESULT.write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
  main()
