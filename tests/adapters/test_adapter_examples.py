"""The examples in the docstrings of adapters are true; every method of the registry is in the table of promises."""
import doctest
import importlib
import pathlib

import numpy as np
import pytest
from adapters import table

from mtjax import adapters
from mtjax.adapters.spec import GENERATORS, METHODS, ROUTERS

FILES = sorted(pathlib.Path(adapters.__file__).parent.glob('*.py'))
WITH_EXAMPLES = [path.stem for path in FILES if '>>>' in path.read_text()]
# Their promises need trained sources, which test_compositions.py has.
ELSEWHERE = {'scalearn', 'adapter_fusion'}


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_examples(name):
  module = importlib.import_module(f'mtjax.adapters.{name}')
  failed, tried = doctest.testmod(module, extraglobs={'np': np})
  assert tried and not failed


def test_every_method_is_in_the_table():
  used = {rule['method'] if isinstance(rule['method'], str) else rule['method']['name']
          for case in table.CASES.values() for rule in case.rules}
  assert set(METHODS) == used | ELSEWHERE


def test_every_name_can_be_imported():
  for registry in (METHODS, ROUTERS, GENERATORS):
    for name in registry:
      assert registry.lookup(name).__doc__


def test_specs_survive_json():
  for name in table.CASES:
    spec = table.spec_of(name)
    assert adapters.Spec.from_json(spec.to_json()) == spec
