r"""What the dense tasks of `rendered.py` score without looking at the picture: a bar that a model has to clear.

python -m experiments.dense.trivial --output=experiments/results/dense_trivial.json

constant: one answer for all pixels, the best guess from the training split (the most frequent class, the median depth,
  the mean normal; an edge everywhere, nothing salient).
by pixel: the best guess at each position (its most frequent class, its median depth, its mean normal, how often there
  is an edge, whether it is salient in most pictures); a camera that looks at the middle of a room makes these good.
"""
import argparse
import json
import pathlib

import numpy as np

from experiments.common import provenance
from experiments.dense import rendered
from mtjax import experiment


def guesses(train, by_pixel: bool) -> dict[str, np.ndarray]:
  """{task: outputs of a head [H, W, …]} that suit the training rows best."""
  size, over = train['depth'].shape[1:], (0,) if by_pixel else (0, 1, 2)
  classes = np.stack([(train['segmentation'] == kind).mean(over) for kind in range(rendered.KINDS)], -1)
  depth = np.median(train['depth'].astype(np.float32), over)
  normals = train['normals'].astype(np.float32).mean(over)
  edges = train['edges'].mean(over) if by_pixel else 1.0
  salient = train['saliency'].mean(over)
  logit = lambda p: np.log(np.clip(p, 1e-6, 1 - 1e-6)) - np.log1p(-np.clip(p, 1e-6, 1 - 1e-6))
  found = {'segmentation': classes, 'depth': depth, 'normals': normals, 'edges': logit(edges),
           'saliency': logit(salient)}
  tails = {'segmentation': (rendered.KINDS,), 'normals': (3,)}
  return {task: np.broadcast_to(np.asarray(x, np.float32), (*size, *tails.get(task, ()))) for task, x in found.items()}


def score(run, outputs, batch_size: int = 50) -> dict[str, float]:
  """Test metrics of the same outputs for every picture."""
  (stream,) = run.streams.values()
  scores = {}
  for name, task in run.objective.tasks.items():
    metrics, total = task.metrics, {}
    for part in (metrics.streaming, metrics.collecting):
      state = part.init()
      for batch in stream.eval_batches('test', batch_size):
        view = task.view(batch)
        repeated = np.broadcast_to(outputs[name], (len(view['label']), *outputs[name].shape))
        state = part.merge(state, part.update(part.init(), repeated, view))
      total |= part.compute(state)
    scores |= {f'{name}/{metric}': float(total[metric]) for metric in metrics.names}
  return scores


def main() -> None:
  """Fits, scores, writes, prints."""
  parser = argparse.ArgumentParser(prog='python -m experiments.dense.trivial', description=__doc__.split('\n\n')[0])
  parser.add_argument('--output', required=True, help='JSON file')
  args = parser.parse_args()
  run = experiment.build(rendered.get_config())
  (stream,) = run.streams.values()
  (tables,) = stream.sources.values()
  train = tables['train'].columns
  result = {name: score(run, guesses(train, by_pixel)) for name, by_pixel in (('constant', False), ('by pixel', True))}
  result |= {'split': 'test', **provenance('experiments.dense.trivial')}
  pathlib.Path(args.output).write_text(json.dumps(result, indent=1) + '\n')
  for metric, value in result['constant'].items():
    print(f'{metric:28} {value:8.4f} {result["by pixel"][metric]:8.4f}')


if __name__ == '__main__':
  main()
