"""The examples of the encoders' docstrings."""
import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest


@pytest.mark.parametrize('name', ['selective_scan', 'ssd', 'mamba', 'swin', 'efficientnet_lite', 'tabular'])
def test_examples(name):
  module = importlib.import_module(f'mtjax.encoders.{name}')
  failed, tried = doctest.testmod(module, extraglobs={'np': np, 'jnp': jnp, 'jax': jax})
  assert tried > 0 and failed == 0
