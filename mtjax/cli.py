"""What the entry points share: logging, errors as messages, tables."""
import logging
import os
import pathlib
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from absl import app, flags
from absl import logging as absl_logging

from mtjax import tree
from mtjax.parallel import distributed, hosts


def run(main: Callable[[list[str]], None], parse_flags: bool = True) -> None:
  """`absl.app.run` with mtjax's log shown, and the user's mistakes as one line rather than a traceback.

  Args:
    main: gets the arguments that absl left over.
    parse_flags: False leaves all of them to `main`.
  """

  def guarded(argv: list[str]) -> None:
    show_log()
    cache_programs()
    if not flags.FLAGS['verbosity'].present:
      absl_logging.set_verbosity(absl_logging.WARNING)  # Orbax tells a line a file at INFO
    try:
      main(argv)
      distributed.finish()
    except Exception as error:
      mistake = isinstance(error, (ValueError, TypeError, FileNotFoundError, FloatingPointError, ConnectionError))
      brief = mistake and absl_logging.get_verbosity() <= 0  # -v 1: the whole story
      if jax.distributed.is_initialized():
        distributed.fail(_line(error) if brief else distributed.explain(error))
      if not brief:
        raise
      print(_line(error), file=sys.stderr)
      sys.exit(1)
    except KeyboardInterrupt:
      text = 'Interrupted. A training run goes on from its last checkpoint by the same command.'
      if jax.distributed.is_initialized():
        distributed.fail(text, 130)
      print(text, file=sys.stderr)
      sys.exit(130)

  try:
    app.run(guarded) if parse_flags else app.run(guarded, flags_parser=lambda argv: flags.FLAGS(argv[:1]) and argv)
  except (AttributeError, KeyError) as error:  # an override of a field that the config lacks
    if 'Did you mean' not in str(error):
      raise
    print(f'Unknown config key {error.args[0]}', file=sys.stderr)
    sys.exit(1)


def start(spec: Any = None, *, stoppable: bool = False) -> None:
  """Joins the hosts, before JAX computes anything; all but the first then log no more than warnings.

  Args:
    spec: config.distributed, see `mtjax.parallel.distributed`.
    stoppable: whether SIGTERM is a request to training loops.
  """
  distributed.start(spec, stoppable=stoppable)
  show_log()


def mesh(axes: Sequence[str] | None) -> dict[str, int] | None:
  """The flag --mesh: ['data=2', 'fsdp=4'] -> {'data': 2, 'fsdp': 4}; None where it is not given."""
  sizes = {}
  for item in axes or ():
    axis, _, size = item.partition('=')
    if not size.removeprefix('-').isdigit():
      raise ValueError(f"--mesh is a list of AXIS=SIZE such as data=2,fsdp=4; got {item!r}.")
    sizes[axis] = int(size)
  return sizes if axes else None


def say(text: str) -> None:
  """Prints, on the first host."""
  if hosts.is_first():
    print(text)


def cache_programs() -> None:
  """Keeps compiled programs in the user's cache folder, unless JAX_COMPILATION_CACHE_DIR says where.

  So a second run of a config, and runs of a study that differ in data or numbers alone, begin at once.
  """
  if not jax.config.jax_compilation_cache_dir:
    cache = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache')
    jax.config.update('jax_compilation_cache_dir', str(cache / 'mtjax' / 'compiled'))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.2)


def show_log() -> None:
  """mtjax's own log lines on stderr, as they are; of hosts after the first only warnings, with the host's number."""
  log, handler = logging.getLogger('mtjax'), logging.StreamHandler()
  first = hosts.is_first()
  handler.setFormatter(logging.Formatter('%(message)s' if first else f'[host {jax.process_index()}] %(message)s'))
  log.setLevel(logging.INFO if first else logging.WARNING)
  log.handlers, log.propagate = [handler], False


def metrics_table(by_split: Mapping[str, Mapping[str, float]]) -> str:
  """{split: {'eval/<task>/<metric>': value}} -> one line a task and metric, one column a split."""
  names = list(dict.fromkeys(name for metrics in by_split.values() for name in metrics))
  rows = [('metric', *by_split)]
  for name in names:
    rows.append((name.removeprefix('eval/'), *(_number(metrics.get(name)) for metrics in by_split.values())))
  return tree.align(rows)


def command() -> str:
  """The command line as a user would type it."""
  program = pathlib.Path(sys.argv[0])
  shown = f'python -m mtjax.{program.stem}' if program.parent.name == 'mtjax' else sys.argv[0]
  return ' '.join([shown, *map(shlex.quote, sys.argv[1:])])


def write_report(run: Any, state: Any = None) -> None:
  """Writes the report; a missing plotting library is said, not fatal: the run itself is complete.

  All hosts take part, and leave together.
  """
  try:
    say(f'Report: {run.report(state)}')
  except ImportError as error:
    print(f'No report: {error}', file=sys.stderr)
  hosts.wait('the report')


def _line(error: Exception) -> str:
  return f'{type(error).__name__}: {error}'


def _number(value: float | None) -> str:
  if value is None:
    return '–'
  return f'{value:,}' if isinstance(value, int) else f'{value:.4f}'
