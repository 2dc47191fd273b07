"""The examples in the docstrings run and print what they say."""
import doctest
import importlib

import jax
import jax.numpy as jnp
import optax
import pytest

import mtjax.optim

MODULES = [f'mtjax.optim.aggregators.{name}' for name in (
  'sdmgrad', 'modo', 'moco', 'db_mtl', 'excess_mtl', 'graddrop', 'rotograd')] + [
  'mtjax.optim.weightings.unmixed', 'mtjax.optim.tbgn', 'mtjax.optim.solvers.simplex']


@pytest.mark.parametrize('module', MODULES)
def test_examples(module):
  names = dict(jax=jax, jnp=jnp, optax=optax, mtjax=mtjax)
  result = doctest.testmod(importlib.import_module(module), extraglobs=names)
  assert result.attempted > 0 and result.failed == 0
