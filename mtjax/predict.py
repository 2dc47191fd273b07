r"""Every task's outputs for inputs of one's own.

  python -m mtjax.predict --workdir=runs/joint --input=FILE.npz|FILE.jsonl|FOLDER_OF_PNGS --output=FILE.jsonl|FILE.npz

.npz: one array [N, …] a column that the encoder reads (a single array needs no name). .jsonl: one object a line with
these columns, or with the columns that their format reads ({"text": "…"}). Folder: its *.png, sorted by name.
With --task_column, a column of the .npz or .jsonl names each row's task, and each row has the outputs of its own.
"""
from absl import flags

from mtjax import cli, experiment, prediction_io
from mtjax.parallel import hosts

_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.', required=True)
_INPUT = flags.DEFINE_string('input', None, 'FILE.npz, FILE.jsonl or a folder of PNGs.', required=True)
_OUTPUT = flags.DEFINE_string('output', None, 'FILE.jsonl or FILE.npz.', required=True)
_STREAM = flags.DEFINE_string('stream', None, 'Whose tasks; by default of every stream that reads such inputs.')
_TASK_COLUMN = flags.DEFINE_string('task_column', None, 'Column with the task of each row; by default all are run.')
_CHECKPOINT = flags.DEFINE_string('checkpoint', 'last', "'last', 'best' (on validation) or a step.")

_MESH = flags.DEFINE_list('mesh', None, 'Axes of the mesh, e.g. data=2,fsdp=4; by default those of the training.')


def main(argv: list[str]) -> None:
  """Reads, predicts, writes."""
  del argv
  prediction_io.check_output(_OUTPUT.value)
  cli.start()
  run = experiment.load_run(_WORKDIR.value, cli.mesh(_MESH.value))
  inputs, names = prediction_io.read_inputs(_INPUT.value, run.streams, _STREAM.value)
  task = prediction_io.read_column(_INPUT.value, _TASK_COLUMN.value) if _TASK_COLUMN.value else None
  outputs = run.predict(run.restore(_CHECKPOINT.value), inputs, stream=_STREAM.value, task=task)
  if hosts.is_first():
    prediction_io.write_outputs(_OUTPUT.value, outputs, names)
  cli.say(f'{len(names)} predictions of {", ".join(outputs)}: {_OUTPUT.value}')


if __name__ == '__main__':
  cli.run(main)
