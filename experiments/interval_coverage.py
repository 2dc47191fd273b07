r"""How often the intervals of `mtjax.studies.intervals` hold the true mean, and what the paired t-test finds.

python -m experiments.interval_coverage --output=experiments/results/interval_coverage.json

10000 simulated studies a cell for means, 5000 for the interquartile mean over 4 tasks; about four minutes on one core.
The standard error of a coverage of 0.95 is 0.002 and 0.003.
"""
import json
import pathlib
import time

from absl import app, flags

from experiments.common import current_commit
from mtjax.studies import intervals, power
from mtjax.studies.across_tasks import iqm

_OUTPUT = flags.DEFINE_string('output', None, 'JSON file.', required=True)
_REPETITIONS = flags.DEFINE_integer('repetitions', 10_000, 'Simulated studies a cell.')
SIZES = (5, 10, 20)


def main(_):
  """Simulates, writes, prints."""
  start, repetitions = time.time(), _REPETITIONS.value
  mean = {name: {kind: {n: power.coverage(kind, n, draw, repetitions) for n in SIZES} for kind in intervals.KINDS}
          for name, draw in power.DISTRIBUTIONS.items()}
  over_tasks = {kind: {n: power.stratified_coverage(iqm, 0.0, kind, n, 4, repetitions // 2) for n in SIZES}
                for kind in ('percentile', 'expanded')}
  result = {
    'commit': current_commit(), 'command': 'python -m experiments.interval_coverage', 'level': 0.95, 'seed': 0,
    'repetitions': {'mean': repetitions, 'iqm': repetitions // 2}, 'seconds': None, 'mean': mean,
    'iqm_of_4_tasks_normal': over_tasks, 'power_of_the_paired_t_test': power.power_table()}
  result['seconds'] = round(time.time() - start)
  pathlib.Path(_OUTPUT.value).write_text(json.dumps(result, indent=1) + '\n')
  for name, table in {**mean, 'iqm, normal': over_tasks}.items():
    for kind, row in table.items():
      print(f'{name:12} {kind:12}', *(f'{row[n]:.3f}' for n in SIZES))


if __name__ == '__main__':
  app.run(main)
