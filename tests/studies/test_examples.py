"""The examples in docstrings are true."""
import doctest
import importlib

import numpy as np
import pytest

MODULES = ['across_tasks', 'aggregates', 'compare', 'continual', 'delta_m', 'factor_splits', 'intervals', 'pareto', 'power', 'score_frame', 'search', 'selection',
           'significance', 'study_markdown', 'transfer', 'verdict']


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
  result = doctest.testmod(importlib.import_module(f'mtjax.studies.{name}'), extraglobs={'np': np})
  assert result.attempted > 0 and result.failed == 0
