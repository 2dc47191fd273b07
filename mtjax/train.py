r"""Trains a multitask model from a config file.

  python -m mtjax.train --config=experiments/multimnist/joint.py --workdir=runs/joint [--config.optimizer.lr=3e-4]

Writes DIR/config.json, metrics.jsonl, checkpoints/, tensorboard/, report.html. The same command again goes on from the
last checkpoint. SIGTERM and Ctrl-C save and exit; a second run of the command goes on.
"""
import logging

from absl import flags
from ml_collections import config_flags

from mtjax import cli, experiment

_CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'FILE[:arg], a file with get_config(arg=None).', lock_config=False, accept_new_attributes=True)
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; made when missing, gone on with when not.')
_REPORT = flags.DEFINE_bool('report', True, 'Whether to write DIR/report.html at the end.')
flags.mark_flags_as_required(['config', 'workdir'])


def main(argv: list[str]) -> None:
  """Builds, trains, evaluates, reports."""
  del argv
  log = logging.getLogger('mtjax')
  cli.start(_CONFIG.value.get('distributed'), stoppable=True)
  run = experiment.build(_CONFIG.value, _WORKDIR.value, cli.command())
  log.info('%s', run.describe())
  state = run.init()
  try:
    state, _ = run.train(state)
  except FloatingPointError:
    if _REPORT.value:
      cli.write_report(run)  # the curves say how it came to that
    raise
  if not run.stopped:
    cli.say(cli.metrics_table({split: run.evaluate(state, split) for split in ('validation', 'test')}))
  if _REPORT.value:
    cli.write_report(run, state)
  cli.say(f'Run folder: {run.workdir}' + (' (stopped; the same command goes on)' if run.stopped else ''))


if __name__ == '__main__':
  cli.run(main)


