"""A study's cells: what one arm gave on one bed, as a JSON file. A finished cell is not computed again.

A cell knows its settings (bed, steps, seeds, grid) and the commit that made it, not the code: who changes an arm or a
bed takes another --workdir, or removes its cells.
"""
import argparse
import dataclasses
import json
import os
import pathlib
import platform
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax

from experiments.common import current_commit
from experiments.studies import stats
from experiments.studies.beds.base import Bed

RESULTS = pathlib.Path(__file__).resolve().parents[1] / 'results'
SMOKE_STEPS = 6


@dataclasses.dataclass(frozen=True)
class Study:
  """Where a study keeps its cells and results.

  Attributes:
    name: its module's name in `experiments.studies`.
    claim: what it tests, in words.
    workdir: where cells lie.
    seeds: runs an arm; None = what the bed says.
    smoke: a few steps, two seeds and learning rates; nothing is written under experiments/results.
    arguments: of the command line, for the record.
    results: the folder of results.
  """

  name: str
  claim: str
  workdir: pathlib.Path = pathlib.Path('runs/studies')
  seeds: int | None = None
  smoke: bool = False
  arguments: tuple[str, ...] = ()
  results: pathlib.Path = RESULTS

  @classmethod
  def parse(cls, name: str, claim: str, doc: str, add: Callable[[argparse.ArgumentParser], Any] = lambda parser: None,
            argv: Sequence[str] | None = None) -> tuple['Study', argparse.Namespace]:
    """(study, all options) of the command line; `add` gives the parser further options."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workdir', default='runs/studies', help='where cells are kept')
    parser.add_argument('--seeds', type=int, help='runs an arm; by default what the bed says')
    parser.add_argument('--smoke', action='store_true', help='a few steps, two seeds; results go to WORKDIR/smoke')
    add(parser)
    argv = list(sys.argv[1:] if argv is None else argv)
    options = parser.parse_args(argv)
    shown = tuple(x for x in argv if not x.startswith('--workdir'))
    return cls(name, claim, pathlib.Path(options.workdir), options.seeds, options.smoke, shown), options

  def bed(self, bed: Bed) -> Bed:
    """The bed as this study runs it: in a smoke run for a few steps, two seeds, two learning rates."""
    if self.smoke:
      bed = dataclasses.replace(bed, steps=SMOKE_STEPS, learning_rates=bed.learning_rates[:2], seeds=2, tune_seeds=None)
    return bed if self.seeds is None else dataclasses.replace(bed, seeds=self.seeds)

  def cell(self, path: str, settings: Mapping[str, Any], fn: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A cell: as stored if it finished under the same settings, else computed now; see `compute`."""
    folder = self.workdir / 'smoke' / 'cells' if self.smoke else self.workdir
    return compute(folder / path, settings, fn)

  def provenance(self, num_seeds: int) -> dict[str, Any]:
    """Command, commit, versions, device and warnings of a result file."""
    warnings = []
    if num_seeds < stats.FEWEST:
      warnings.append(f'{num_seeds} seeds: fewer than {stats.FEWEST}, intervals are too narrow.')
    if self.smoke:
      warnings.append(f'--smoke: {SMOKE_STEPS} steps; the numbers mean nothing.')
    return {'study': self.name, 'command': ' '.join(['python -m', f'experiments.studies.{self.name}', *self.arguments]),
            'commit': current_commit(), 'warnings': warnings,
            'versions': {'python': platform.python_version(), 'jax': jax.__version__, 'optax': optax.__version__},
            'device': f'{jax.devices()[0].device_kind}, {len(os.sched_getaffinity(0))} core(s)'}

  def write(self, name: str, result: Mapping[str, Any]) -> pathlib.Path:
    """Writes a result file: experiments/results/NAME, or in a smoke run WORKDIR/smoke/NAME."""
    path = (self.workdir / 'smoke' if self.smoke else self.results) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + '\n')
    return path


def compute(path: pathlib.Path, settings: Mapping[str, Any], fn: Callable[[], dict[str, Any]]) -> dict[str, Any]:
  """The cell of `path`: as stored if it finished under the same settings, else computed now.

  What raises becomes a failed cell, with the error, and is tried again the next time.
  """
  settings = json.loads(json.dumps(settings))
  if path.exists():
    stored = json.loads(path.read_text())
    if stored['status'] == 'finished' and stored['settings'] == settings:
      return stored
  start = time.perf_counter()
  try:
    cell = {'status': 'finished', **fn()}
  except Exception as error:  # a method that fails is a result: the others go on
    traceback.print_exc()
    cell = {'status': 'failed', 'error': f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'}
  cell |= {'settings': settings, 'seconds': round(time.perf_counter() - start, 1), 'commit': current_commit()}
  cell = json.loads(json.dumps(cell))  # the same whether it was read or made
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix(f'.{os.getpid()}.tmp')
  temporary.write_text(json.dumps(cell, indent=1) + '\n')
  temporary.replace(path)
  return cell


def file_name(arm: str) -> str:
  """An arm's name as a file's."""
  return ''.join(c if c.isalnum() else '_' for c in arm).strip('_') + '.json'
