r"""Collects finished runs into one result file: commands, seeds, and every task's test metrics with mean and spread.

python -m experiments.collect --output=experiments/results/NAME.json WORKDIR…

Reads what the runs wrote; nothing is computed anew and nothing typed in.
"""
import json
import pathlib
import statistics

from absl import app, flags

from experiments.common import current_commit
from mtjax.training.writers import read_metrics

_OUTPUT = flags.DEFINE_string('output', None, 'JSON file.', required=True)
_COMMIT = flags.DEFINE_string('commit', None, 'Commit that the runs were made at; the current one by default.')


def read_run(workdir):
  """What is worth keeping of one run."""
  folder = pathlib.Path(workdir)
  run, config = (json.loads((folder / name).read_text()) for name in ('run.json', 'config.json'))
  if run['status'] != 'finished':
    raise ValueError(f'{workdir} is {run["status"]}, not finished.')
  test = [line for line in read_metrics(folder) if line['split'] == 'test'][-1]
  metrics = {name.removeprefix('eval/'): value for name, value in test.items() if name.startswith('eval/')}
  command = run['command'].replace(str(folder), f'runs/{folder.name}')
  return {'command': command, 'seed': config['seed'], 'steps': test['step'], 'seconds': run['seconds'],
          'device': run['device'], 'versions': run['versions'], 'test': metrics}


def summarise(runs):
  """{metric: mean and sample standard deviation over runs}."""
  summary = {}
  for name in runs[0]['test']:
    values = [run['test'][name] for run in runs]
    summary[name] = {'mean': statistics.mean(values), 'sd': statistics.stdev(values) if len(values) > 1 else None}
  return summary


def main(argv):
  """Reads, writes, prints."""
  runs = [read_run(workdir) for workdir in argv[1:]]
  result = {'commit': _COMMIT.value or current_commit(), 'selection': 'last step', 'split': 'test',
            'summary': summarise(runs), 'runs': runs}
  pathlib.Path(_OUTPUT.value).write_text(json.dumps(result, indent=1) + '\n')
  for name, entry in result['summary'].items():
    spread = '' if entry['sd'] is None else f' ± {entry["sd"]:.4f}'
    print(f'{name:24} {entry["mean"]:.4f}{spread}  (n = {len(runs)})')


if __name__ == '__main__':
  app.run(main)
