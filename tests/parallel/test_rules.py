"""Which parameter is split over which axis, and what is refused."""
import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from mtjax.parallel import batch_parts, make_mesh, partitions, shardings
from mtjax.parallel.rules import describe

SHAPES = {'encoder': {
  'embed': {'kernel': (4, 4, 1, 32), 'bias': (32,)}, 'pos_embed': (5, 32),
  'block_0': {'attn': {'query': {'kernel': (32, 4, 8), 'bias': (4, 8)}, 'out': {'kernel': (4, 8, 32), 'bias': (32,)}},
              'mlp': {'fc1': {'kernel': (32, 64), 'bias': (64,)}, 'fc2': {'kernel': (64, 32), 'bias': (32,)}},
              'norm1': {'scale': (32,), 'bias': (32,)}}},
  'heads': {'digit': {'out': {'kernel': (32, 10), 'bias': (10,)}}}}
PARAMS = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, jnp.float32), SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def test_the_default_rules():
  found = partitions(PARAMS, make_mesh(dict(data=2, fsdp=2, tensor=2)))
  block = 'encoder/block_0'
  assert found[f'{block}/attn/query/kernel'] == P('fsdp', 'tensor') and found[f'{block}/attn/query/bias'] == P('tensor')
  assert found[f'{block}/attn/out/kernel'] == P('tensor', None, 'fsdp') and found[f'{block}/attn/out/bias'] == P()
  assert found[f'{block}/mlp/fc1/kernel'] == P('fsdp', 'tensor') and found[f'{block}/mlp/fc2/kernel'] == P('tensor', 'fsdp')
  assert found[f'{block}/mlp/fc1/bias'] == P('tensor') and found[f'{block}/norm1/scale'] == P()
  assert found['encoder/embed/kernel'] == P(None, None, None, 'fsdp') and found['heads/digit/out/kernel'] == P('fsdp')


def test_what_does_not_divide_stays_whole_by_default_and_is_refused_by_a_rule():
  mesh = make_mesh(dict(fsdp=8))
  assert partitions(PARAMS, mesh)['heads/digit/out/bias'] == P()
  with pytest.raises(ValueError, match="splits axis 0 of 'heads/digit/out/bias', 10 long, over the 8"):
    partitions(PARAMS, mesh, [(r'digit/out/bias', ('fsdp',))])


def test_a_rule_of_the_user_comes_first():
  mesh = make_mesh(dict(tensor=2, fsdp=4))
  assert partitions(PARAMS, mesh, [(r'digit/out/kernel', ('tensor', None))])['heads/digit/out/kernel'] == P('tensor')
  assert partitions(PARAMS, mesh, [(r'fc1/kernel', ())])['encoder/block_0/mlp/fc1/kernel'] == P()


@pytest.mark.parametrize('rule, words', [
  ((r'nothing', ()), 'matches no parameter'),
  ((r'(', ()), 'no regular expression'),
  ((r'fc1', ('rows',)), "a different one of"),
  ((r'fc1', ('fsdp', 'fsdp')), "a different one of"),
  ((r'fc1/bias', ('fsdp', None)), 'has 2 axes'),
])
def test_bad_rules_are_refused(rule, words):
  with pytest.raises(ValueError, match=words):
    partitions(PARAMS, make_mesh(dict(fsdp=2)), [rule])


def test_state_follows_the_parameters():
  mesh = make_mesh(dict(fsdp=8))
  specs = partitions(PARAMS, mesh)
  stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((3, *x.shape), x.dtype), PARAMS)
  state = {'mu': PARAMS, 'momentum': stacked, 'count': jax.ShapeDtypeStruct((), jnp.int32)}
  found = shardings(state, specs, PARAMS, mesh)
  fc1 = lambda tree: tree['encoder']['block_0']['mlp']['fc1']['kernel'].spec
  assert fc1(found['mu']) == P('fsdp') and fc1(found['momentum']) == P(None, 'fsdp') and found['count'].spec == P()


def test_the_table():
  mesh = make_mesh(dict(fsdp=8))
  text = describe(PARAMS, partitions(PARAMS, mesh), mesh)
  line = next(line for line in text.splitlines() if 'mlp/fc1/kernel' in line)
  assert '32x64' in line and 'fsdp' in line and '1,024' in line  # 32 * 64 * 4 / 8


@pytest.mark.parametrize('config, sizes', [
  ({}, (8, 1, 1, 1)), (dict(data=-1), (8, 1, 1, 1)), (dict(fsdp=8), (1, 8, 1, 1)), (dict(fsdp=2), (4, 2, 1, 1)),
  (dict(data=-1, fsdp=2, tensor=2), (2, 2, 2, 1)), (dict(data=2, expert=-1), (2, 1, 1, 4)), (dict(data=1), (1, 1, 1, 1))])
def test_meshes(config, sizes):
  mesh = make_mesh(config)
  assert tuple(mesh.shape.values()) == sizes and batch_parts(mesh) == sizes[0] * sizes[1]


@pytest.mark.parametrize('config, words', [
  (dict(data=-1, fsdp=-1), 'both -1'), (dict(data=3000), 'asks for 3000 devices'), (dict(fsdp=3), 'a multiple of 3'),
  (dict(tensor=0), "'mesh.tensor' must be"), (dict(tensr=2), "Did you mean 'tensor'")])
def test_bad_meshes_are_refused(config, words):
  with pytest.raises(ValueError, match=words):
    make_mesh(config)
