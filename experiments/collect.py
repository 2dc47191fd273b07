r"""Collects finished runs into one result file: commands, seeds, and every task's test metrics with mean and spread.
Of runs with an aggregator also how much their gradients conflicted, as means over the log lines.

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
  lines = read_metrics(folder)
  test = [line for line in lines if line['split'] == 'test'][-1]
  metrics = {name.removeprefix('eval/'): value for name, value in test.items() if name.startswith('eval/')}
  command = run['command'].replace(str(folder), f'runs/{folder.name}')
  return {'command': command, 'seed': config['seed'], 'steps': test['step'], 'seconds': run['seconds'],
          'device': run['device'], 'versions': run['versions'], 'test': metrics, **read_conflict(lines)}


def read_conflict(lines):
  """{'gradients': {name: mean over the log lines}} of what is not of single tasks; {} where there is nothing."""
  names = ('conflicts', 'norm_spread', 'worst_progress', 'stationarity', 'weight_entropy')
  values = {name: [line[f'gradients/{name}'] for line in lines if f'gradients/{name}' in line] for name in names}
  found = {name: statistics.mean(series) for name, series in values.items() if series}
  return {'gradients': found} if found else {}


def summarise(runs):
  """{metric: mean and sample standard deviation over runs}; what is of the gradients by 'gradients/<name>'."""
  summary = {}
  tables = [run['test'] | {f'gradients/{name}': value for name, value in run.get('gradients', {}).items()}
            for run in runs]
  for name in tables[0]:
    values = [table[name] for table in tables]
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
