"""Sharded stacked gradients: a Gramian costs the exchange of T x T numbers, and the update is made where its shards are."""
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import mtjax.optim

T = 3
SPECS = {'kernel': P('fsdp', None), 'wide': P(None, 'fsdp'), 'bias': P('fsdp')}


@pytest.fixture(scope='module')
def problem():
  """(mesh, jac, params) with leaves over four devices."""
  mesh = jax.make_mesh((4,), ('fsdp',), axis_types=(AxisType.Auto,), devices=jax.devices()[:4])
  shapes = {'kernel': (32, 24), 'wide': (24, 64), 'bias': (16,)}
  keys = jax.random.split(jax.random.key(0), len(shapes))
  jac = {name: jax.device_put(jax.random.normal(key, (T, *shape)), NamedSharding(mesh, P(None, *SPECS[name])))
         for key, (name, shape) in zip(keys, shapes.items())}
  params = {name: jax.device_put(jnp.zeros(shape), NamedSharding(mesh, SPECS[name])) for name, shape in shapes.items()}
  return mesh, jac, params


@pytest.mark.parametrize('name', ['mgda', 'upgrad', 'pcgrad', 'cagrad', 'nash_mtl', 'aligned_mtl'])
def test_only_the_gramian_is_exchanged(problem, name):
  mesh, jac, params = problem
  tx = getattr(mtjax.optim, name)()
  state = tx.init(params, num_tasks=T)
  out = {leaf: NamedSharding(mesh, spec) for leaf, spec in SPECS.items()}
  update = jax.jit(lambda jac, state, params: tx.update(jac, state, params)[0], out_shardings=out)
  text = update.lower(jac, state, params).compile().as_text()
  moved = re.findall(r'= (.+?) (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute)(?:-start)?\(', text)
  shapes = {shape for kinds, _ in moved for shape in re.findall(r'\w+\[([\d,]*)\]', kinds)}
  assert {kind for _, kind in moved} == {'all-reduce'} and shapes == {f'{T},{T}'}, moved
  local = jax.device_get((jac, params))
  expected = tx.update(local[0], tx.init(local[1]), local[1])[0]
  for leaf, value in update(jac, state, params).items():
    np.testing.assert_allclose(value, expected[leaf], rtol=1e-4, atol=1e-5)
    assert value.sharding.spec == SPECS[leaf]


def test_a_chain_keeps_the_shards_where_they_are(problem):
  mesh, jac, params = problem
  tx = optax.chain(mtjax.optim.pcgrad(), optax.adamw(1e-3))
  update = jax.jit(lambda jac, state, params: optax.apply_updates(params, tx.update(jac, state, params)[0]))
  text = update.lower(jac, jax.jit(tx.init)(params), params).compile().as_text()
  assert 'all-gather' not in text and 'all-to-all' not in text
