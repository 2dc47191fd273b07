"""What a run left in its folder, as reports read it.

    config.json     the config, nested
    run.json        {"command", "started", "versions", "device", "parameters", "trainable", "seconds", "status",
                    "message", "gradients", "performance", "metrics"}; status is 'finished', 'stopped', 'running' or
                    'failed';
                    "gradients" is {stage: {"method", "needs", "plan", "description"}} of the stages with an aggregator;
                    "performance" is {stage: {"compile_seconds", "step_ms", …}}, see mtjax.training.throughput;
                    "metrics" is {task: {metric: {"higher_is_better", "range", "primary", "null_value"}}}
    data.json       {stream: {"source", "version", "splits": {split: {"rows", "fingerprint"}}}}
    metrics.jsonl   see mtjax.training.writers
    samples.json    {task: {"kind", "rows": [{"input", "label", "prediction", "detail", "correct"}]}}, where "input" is
                    {"type": "image", "png": base64}, {"type": "text", "text": …} or {"type": "vector", "values": […]};
                    label and prediction are values, or (of maps) images
"""
import dataclasses
import functools
import json
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from mtjax.studies import plots
from mtjax.training import writers


@dataclasses.dataclass(frozen=True)
class Record:
  """What a run left in its folder; a file that is missing or damaged is an empty dict."""
  workdir: pathlib.Path
  config: Mapping[str, Any]
  run: Mapping[str, Any]
  data: Mapping[str, Any]
  samples: Mapping[str, Any]
  metrics: Sequence[Mapping[str, Any]]

  @classmethod
  def read(cls, workdir: pathlib.Path) -> 'Record':
    """Reads the files of `workdir`."""
    files = {name: _read_json(workdir / f'{name}.json') for name in ('config', 'run', 'data', 'samples')}
    return cls(workdir=workdir.resolve(), metrics=writers.read_metrics(workdir), **files)

  @functools.cached_property
  def tasks(self) -> list[str]:
    """Task names in the order of the config; where it names none, in the order of the metrics."""
    if isinstance(self.config.get('tasks'), Mapping) and self.config['tasks']:
      return list(self.config['tasks'])
    names = (re.fullmatch(r'(?:train|eval)/([^/]+)/.+', key) for line in self.metrics for key in line)
    return list(dict.fromkeys(match.group(1) for match in names if match))

  def series(self, split: str, key: str) -> dict[int, float]:
    """{step: value} of one name on one split; of a step written twice the later value counts."""
    found = {line['step']: float(line[key]) for line in self.metrics
             if line.get('split') == split and isinstance(line.get(key), (int, float))}
    return dict(sorted(found.items()))

  def names(self, task: str) -> list[str]:
    """The task's scores in the order written, the loss last; the first is primary.

    Counts are left out, and numbers of which neither more nor less is better.
    """
    prefix = f'eval/{task}/'
    found = dict.fromkeys(key.removeprefix(prefix) for line in self.metrics if line.get('split') != 'train'
                          for key in line if key.startswith(prefix))
    found.pop('n', None)
    return sorted((name for name in found if self.higher_is_better(task, name) is not None),
                  key=lambda name: name == 'loss')

  def higher_is_better(self, task: str, metric: str) -> bool | None:
    """The direction of a metric, None if it has none: as the run wrote down; where it did not, told by the name."""
    recorded = (self.run.get('metrics') or {}).get(task, {}).get(metric)
    return recorded['higher_is_better'] if recorded else plots.higher_is_better(metric)

  def run_wide(self) -> list[str]:
    """The names on training lines that belong to no task and not to `gradients`."""
    prefixes = ('gradients/', *(f'train/{task}/' for task in self.tasks))
    return [key for key in self._training_names if not key.startswith(prefixes)]

  def gradients(self) -> list[str]:
    """The names on training lines under 'gradients/', without it: what the gradient engine says of conflict."""
    return [key.removeprefix('gradients/') for key in self._training_names if key.startswith('gradients/')]

  @functools.cached_property
  def _training_names(self) -> list[str]:
    return list(dict.fromkeys(key for line in self.metrics if line.get('split') == 'train' for key in line
                              if key not in ('step', 'split')))

  @functools.cached_property
  def last_step(self) -> int:
    """The largest step of any line."""
    return max((line['step'] for line in self.metrics), default=0)


@dataclasses.dataclass(frozen=True)
class Score:
  """One metric of one task at the end: on test, on validation beside it, and at its best validation step."""
  test: float | None
  test_step: int | None
  validation: float | None
  validation_step: int | None
  best: float | None
  best_step: int | None

  @classmethod
  def of(cls, record: Record, task: str, metric: str) -> 'Score':
    """Validation is that of the step of the last test; where that step has none, the last."""
    key = f'eval/{task}/{metric}'
    test, validation = record.series('test', key), record.series('validation', key)
    test_step = max(test, default=None)
    validation_step = test_step if test_step in validation else max(validation, default=None)
    finite = [step for step in validation if math.isfinite(validation[step])]
    sign = 1 if record.higher_is_better(task, metric) else -1
    best = max(finite, key=lambda step: sign * validation[step], default=None)     # the earliest of equals
    return cls(test.get(test_step), test_step, validation.get(validation_step), validation_step,
               validation.get(best), best)


def _read_json(path: pathlib.Path) -> Mapping[str, Any]:
  try:
    value = json.loads(path.read_text(encoding='utf-8'))
  except FileNotFoundError:
    return {}
  except ValueError as error:
    logging.warning('%s is damaged, and left out of the report: %s', path, error)
    return {}
  return value if isinstance(value, dict) else {}
