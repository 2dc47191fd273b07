r"""Runs a study and says whether its claim holds: arms x seeds, a verdict, a report.

  python -m mtjax.study --study=experiments/studies/sharing_multimnist.py --workdir=runs/sharing_multimnist

The file has get_study() -> mtjax.study.Study. Runs that are missing are run, with the seeds side by side; the same
command goes on after a kill, and tries failed runs again. Writes verdict.json, report.md, report.html, scores.jsonl.

  --smoke                a few steps of two seeds of every arm, in DIR/smoke
  --seeds=10             or --seeds=0,3,7, in place of the study's
  --arms='joint;single'  only these arms
  --jobs=2               arms in processes beside each other, the machine's cores divided among them
  --publish=FOLDER       copies verdict, scores and report to FOLDER/<study>, and makes FOLDER/index.html anew
  --report-only          runs nothing; the report of what is there
"""
import argparse
import os
import pathlib
import shlex
import shutil
import sys
from collections.abc import Callable, Sequence

from mtjax import cli
from mtjax.parallel import distributed
from mtjax.study.runner import Runner, load_study
from mtjax.together import one_device_a_core

PUBLISHED = ('verdict.json', 'scores.jsonl', 'report.md', 'report.html')


def parse(argv: Sequence[str]) -> argparse.Namespace:
  """The options of the command line."""
  parser = argparse.ArgumentParser(prog='python -m mtjax.study', description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--study', required=True, help='FILE.py[:arg] with get_study()')
  parser.add_argument('--workdir', required=True, help='folder of the study; made when missing, gone on with when not')
  parser.add_argument('--seeds', type=_seeds, help='how many, or which, separated by commas')
  parser.add_argument('--arms', type=lambda text: [name.strip() for name in text.split(';') if name.strip()],
                      help="only these, separated by ';'")
  parser.add_argument('--jobs', type=int, default=1, help='arms in processes beside each other')
  parser.add_argument('--smoke', action='store_true', help='a few steps of two seeds')
  parser.add_argument('--publish', help='folder of results')
  parser.add_argument('--report-only', action='store_true', help='runs nothing')
  parser.add_argument('--cells-only', action='store_true', help=argparse.SUPPRESS)  # of a process of --jobs
  parser.add_argument('--cores', type=_seeds, help=argparse.SUPPRESS)
  options = parser.parse_args(argv)
  if options.jobs < 1:
    parser.error(f'--jobs must be at least 1, got {options.jobs}')
  return options


def main(argv: list[str]) -> None:
  """Runs, writes, prints."""
  options = parse(argv[1:])
  if options.cores:
    os.sched_setaffinity(0, options.cores)
  if distributed.find() is not None:
    raise ValueError('A study runs on one host. Give each host arms of its own (--arms=… on one workdir, e.g. as the '
                     'elements of a SLURM array), then write the report by --report-only.')
  study, name = load_study(options.study), _name(options.study)
  one_device_a_core(len(options.seeds or study.seed_list()))
  runner = Runner(study, options.workdir, name=name, seeds=options.seeds, arms=options.arms, smoke=options.smoke,
                  command=_command(argv[1:]))
  if options.cells_only:
    runner.run_cells([cell for arm in runner.wanted or runner.arms for cell in runner.cells(arm)])
    return
  verdict = runner.write() if options.report_only else runner.run(options.jobs, _spawner(options))
  print(summary(verdict))
  print(f'Report: {runner.folder / "report.html"}')
  if options.publish and not options.smoke:
    print(f'Published: {publish(runner.folder, options.publish, name)}')
  if any(cell['status'] != 'finished' for cell in verdict['cells']):
    sys.exit(1)


def summary(verdict: dict) -> str:
  """The verdict for a terminal."""
  word = {True: 'HOLDS', False: 'DOES NOT HOLD', None: 'NO EVIDENCE'}[verdict['holds']]
  lines = ['', f'Claim: {verdict["claim"]}', f'{word}. {verdict["sentence"]}', '']
  rows = [('arm', verdict['metric_text'], '95 % interval', 'seeds', '')]
  for arm, entry in verdict['arms'].items():
    low, high = entry['interval'] or (float('nan'),) * 2
    value = '–' if entry['mean'] is None else f'{entry["mean"]:.4f}'
    rows.append((arm, value, f'{low:.4f} … {high:.4f}' if entry['interval'] else '–', str(entry['n']),
                 '' if entry['status'] == 'finished' else entry['status']))
  lines += [cli.tree.align(rows), *(f'Warning: {text}' for text in verdict['warnings'])]
  return '\n'.join(lines)


def publish(folder: pathlib.Path, results: str | os.PathLike, name: str) -> pathlib.Path:
  """Copies what a reader needs to results/<name>, and makes the index of all studies anew."""
  from mtjax.studies.index import write_index

  target = pathlib.Path(results) / name
  target.mkdir(parents=True, exist_ok=True)
  for file in PUBLISHED:
    if (folder / file).exists():
      shutil.copy(folder / file, target / file)
  write_index(pathlib.Path(results))
  return target


def _spawner(options: argparse.Namespace) -> Callable[[str, int], list[str]]:
  cores = sorted(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else []

  def spawn(arm: str, slot: int) -> list[str]:
    command = [sys.executable, '-m', 'mtjax.study', f'--study={options.study}', f'--workdir={options.workdir}',
               f'--arms={arm}', '--cells-only']
    command += ['--smoke'] if options.smoke else []
    command += [f'--seeds={",".join(map(str, options.seeds))},'] if options.seeds else []
    own = cores[slot::options.jobs]
    return command + ([f'--cores={",".join(map(str, own))},'] if own else [])

  return spawn


def _seeds(text: str) -> list[int]:
  """'10' -> 0 … 9; '3,5' -> 3 and 5; '3,' -> 3."""
  try:
    return list(range(int(text))) if ',' not in text else [int(part) for part in text.split(',') if part]
  except ValueError:
    raise argparse.ArgumentTypeError(f'expected how many, or numbers separated by commas, got {text!r}') from None


def _name(path: str) -> str:
  file, _, argument = path.partition('.py:')
  return pathlib.Path(file).stem + (f'_{argument}' if argument else '')


def _command(argv: Sequence[str]) -> str:
  kept = [item for item in argv if not item.startswith(('--publish', '--report-only'))]
  return ' '.join(['python -m mtjax.study', *map(shlex.quote, kept)])


if __name__ == '__main__':
  cli.run(main, parse_flags=False)
