"""The examples of the losses' and heads' docstrings."""
import doctest
import importlib

import jax.numpy as jnp
import numpy as np
import pytest

MODULES = [*(f'losses.{name}' for name in ('positions', 'language_model', 'depth', 'normals', 'edges', 'contrastive',
                                            'survival')), 'heads.span']


@pytest.mark.parametrize('name', MODULES)
def test_examples(name):
  module = importlib.import_module(f'mtjax.{name}')
  failed, tried = doctest.testmod(module, extraglobs={'np': np, 'jnp': jnp})
  assert tried > 0 and failed == 0
