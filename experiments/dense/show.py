r"""Draws what a run of `rendered.py` sees: picture, labels and predictions of five tasks, side by side.

python -m experiments.dense.show --workdir=runs/dense --output=dense.png [--rows=6] [--checkpoint=best]

Two lines a picture: labels above, predictions below. Of edges and saliency the prediction is the probability.
Needs the extra `report` (matplotlib).
"""
import argparse

import numpy as np

from experiments.dense import rendered
from mtjax import experiment

TASKS = ('segmentation', 'depth', 'normals', 'edges', 'saliency')


def panel(task: str, x: np.ndarray, far: float) -> dict:
  """How a map is drawn: arguments of matplotlib's imshow.

  Args:
    task: a name of TASKS.
    x: label or prediction, [H, W] or [H, W, 3].
    far: the greatest depth drawn.
  """
  if task == 'segmentation':
    return dict(X=x, cmap='tab20', vmin=0, vmax=rendered.KINDS, interpolation='nearest')
  if task == 'depth':
    return dict(X=x.astype(np.float32), cmap='viridis', vmin=0, vmax=far)
  if task == 'normals':
    return dict(X=np.clip((x.astype(np.float32) + 1) / 2, 0, 1))
  return dict(X=x, cmap='gray', vmin=0, vmax=1)


def draw(rows: dict[str, np.ndarray], outputs: dict[str, dict[str, np.ndarray]], path: str) -> None:
  """Writes the picture.

  Args:
    rows: {column: [N, …]}, `image` and the labels.
    outputs: {task: {'prediction', 'probabilities'?}}, as `Run.predict` returns them.
    path: of the PNG.
  """
  import matplotlib  # here, because only this script needs it

  matplotlib.use('Agg')
  import matplotlib.pyplot as plt

  count = len(rows['image'])
  figure, axes = plt.subplots(2 * count, 1 + len(TASKS), figsize=(1.6 * (1 + len(TASKS)), 3.2 * count), squeeze=False)
  for axis in axes.ravel():
    axis.axis('off')
  for i in range(count):
    axes[2 * i, 0].imshow(rows['image'][i])
    far = float(rows['depth'][i].max())
    for j, task in enumerate(TASKS, 1):
      said = outputs[task]['probabilities' if task in ('edges', 'saliency') else 'prediction'][i]
      axes[2 * i, j].imshow(**panel(task, rows[task][i], far))
      axes[2 * i + 1, j].imshow(**panel(task, said, far))
      if not i:
        axes[0, j].set_title(task, fontsize=9)
  figure.tight_layout(pad=0.2)
  figure.savefig(path, dpi=100)
  plt.close(figure)


def main() -> None:
  """Restores, predicts, draws."""
  parser = argparse.ArgumentParser(prog='python -m experiments.dense.show', description=__doc__.split('\n\n')[0])
  parser.add_argument('--workdir', required=True, help='folder of the run')
  parser.add_argument('--output', required=True, help='PNG file')
  parser.add_argument('--rows', type=int, default=6, help='how many pictures of the test split, >= 1')
  parser.add_argument('--checkpoint', default='last', help="'last', 'best' (on validation) or a step")
  args = parser.parse_args()
  if args.rows < 1:
    parser.error(f'--rows is {args.rows}; allowed is a whole number >= 1.')
  run = experiment.load_run(args.workdir)
  (stream,) = run.streams.values()
  (tables,) = stream.sources.values()
  rows = tables['test'].rows(np.arange(args.rows), ['image', *TASKS])
  draw(rows, run.predict(run.restore(args.checkpoint), rows['image']), args.output)
  print(args.output)


if __name__ == '__main__':
  main()
