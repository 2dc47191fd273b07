"""The examples of the docstrings; every registered metric says what its number means."""
import doctest
import importlib
import pathlib
import re

import numpy as np
import pytest

import mtjax
from mtjax import experiment, metrics
from mtjax.config import keywords

MODULES = ('answers', 'calibration', 'classification', 'concordance', 'depth', 'edges', 'gauc', 'multiple_choice', 'normals',
           'recommendation', 'rouge', 'segmentation', 'translation')
LIBRARIES = {'rouge': 'rouge_score', 'translation': 'sacrebleu'}
NEEDED = {'classes': 3, 'group': 'user', 'length': 'bytes', 'unconditional': 'prior'}


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
  if name in LIBRARIES:
    pytest.importorskip(LIBRARIES[name], reason="pip install 'mtjax[text]'")
  module = importlib.import_module(f'mtjax.metrics.{name}')
  failed, tried = doctest.testmod(module, extraglobs={'np': np})
  assert tried > 0 and failed == 0


@pytest.mark.parametrize('name', sorted(experiment.METRICS))
def test_every_metric_says_what_its_numbers_mean(name):
  make = experiment.METRICS.lookup(name)
  metric = make(**{field: NEEDED[field] for field in keywords(make) if field in NEEDED})
  assert metric.specs and len({spec.name for spec in metric.specs}) == len(metric.specs)
  for spec in metric.specs:
    assert spec.higher_is_better in (True, False) or name == 'reliability'
    low, high = spec.range
    assert low < high and (spec.null_value is None or low <= spec.null_value <= high)
    assert not spec.primary
  metric = metrics.Collection({'it': metric})
  assert [spec.primary for spec in metric.specs] == [True] + [False] * (len(metric.specs) - 1)


def test_the_readme_names_every_metric_and_its_example_runs():
  readme = (pathlib.Path(__file__).parents[2] / 'README.md').read_text(encoding='utf-8')
  section = re.search(r'## Metrics\n(.*?)\n## ', readme, re.S).group(1)
  for name in experiment.METRICS:
    (file,) = re.findall(rf'^\|.*`{name}`.*\(mtjax/(metrics/\w+)\.py\) \|$', section, re.M)
    assert experiment.METRICS.lookup(name).__module__ == f'mtjax.{file}'.replace('/', '.')
  code = re.search(r'```python\n(.*?)```', section, re.S).group(1)
  said = re.search(r'metric\.compute\(state\) +# (.*)', code).group(1)
  names = {'mtjax': mtjax}
  exec(code.replace('metric.compute', 'found = metric.compute'), names)
  assert str(names['found']) == said


def test_a_spec_as_json():
  spec = metrics.MetricSpec('rmse', False, (0, np.inf), null_value=0.5)
  assert spec.to_json() == {'higher_is_better': False, 'range': [0.0, None], 'primary': False, 'null_value': 0.5}
