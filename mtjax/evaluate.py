r"""Evaluates a checkpoint of a run: every task's metrics with counts.

  python -m mtjax.evaluate --workdir=runs/joint [--split=test] [--checkpoint=best] [--json=FILE]
"""
import json
import pathlib

from absl import flags

from mtjax import cli, experiment
from mtjax.parallel import hosts

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
_SPLIT = flags.DEFINE_enum('split', 'test', ['train', 'validation', 'test'], 'Which rows.')
_CHECKPOINT = flags.DEFINE_string('checkpoint', 'last', "'last', 'best' (on validation) or a step.")
_JSON = flags.DEFINE_string('json', None, 'File for the metrics as JSON, besides the table.')

_MESH = flags.DEFINE_list('mesh', None, 'Axes of the mesh, e.g. data=2,fsdp=4; by default those of the training.')


def main(argv: list[str]) -> None:
  """Restores, evaluates, prints."""
  del argv
  cli.start()
  run = experiment.load_run(_WORKDIR.value, cli.mesh(_MESH.value))
  state = run.restore(_CHECKPOINT.value)
  metrics = run.evaluate(state, _SPLIT.value, record=False)
  cli.say(cli.metrics_table({f'{_SPLIT.value}, step {int(state.step)}': metrics}))
  if _JSON.value and hosts.is_first():
    record = {'step': int(state.step), 'split': _SPLIT.value, 'checkpoint': _CHECKPOINT.value, **metrics}
    pathlib.Path(_JSON.value).write_text(json.dumps(record, indent=2))


if __name__ == '__main__':
  cli.run(main)
