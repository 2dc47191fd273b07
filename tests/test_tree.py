import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax import tree

PARAMS = {'encoder': {'fc1': {'kernel': jnp.ones((2, 3)), 'bias': jnp.zeros(3)}}, 'heads': {'a': {'kernel': jnp.ones(3)}}}


def test_flatten_and_back():
  flat = tree.flatten(PARAMS)
  assert list(flat) == ['encoder/fc1/bias', 'encoder/fc1/kernel', 'heads/a/kernel']
  assert jax.tree.structure(tree.unflatten(flat)) == jax.tree.structure(PARAMS)
  assert tree.count(PARAMS) == 12


def test_first_match_wins():
  patterns = [(r'bias$', 0.0), (r'^encoder/', 0.5), r'.*']
  assert [tree.match(patterns, path) for path in tree.flatten(PARAMS)] == [0.0, 0.5, True]
  assert tree.match([r'x'], 'heads/a', default='none') == 'none'


def test_partition_and_merge_are_inverse():
  keep = tree.select([r'kernel$'], PARAMS)
  chosen, others = tree.partition(PARAMS, keep)
  assert list(tree.flatten(chosen)) == ['encoder/fc1/kernel', 'heads/a/kernel'] and tree.count(others) == 3
  assert jax.tree.structure(tree.merge(chosen, others)) == jax.tree.structure(PARAMS)


def test_patterns_that_match_nothing_are_errors():
  with pytest.raises(ValueError, match=r"'decoder' matches no parameter. Parameters: encoder/fc1/bias"):
    tree.select(['decoder'], PARAMS)
  with pytest.raises(ValueError, match='not a regular expression'):
    tree.select(['['], PARAMS)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=12), st.integers(0, 11), st.integers(0, 31))
@settings(max_examples=50, deadline=None)
def test_fingerprint_sees_every_single_bit(bits, index, flip):
  x = np.array(bits, np.uint32)
  # By hand, in Python's integers: sum of (2 i + 1) * bits_i mod 2^32.
  expected = sum((2 * i + 1) * b for i, b in enumerate(bits)) % 2**32
  assert int(tree.fingerprint({'x': x})[0]) == expected
  changed = x.copy()
  changed[index % len(x)] ^= np.uint32(1 << flip)
  assert int(tree.fingerprint({'x': changed})[0]) != expected


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16', 'int32', 'uint8', 'bool', 'int8'])
def test_fingerprint_of_every_dtype_sees_a_swap(dtype):
  x = jnp.arange(6).reshape(2, 3).astype(dtype)
  swapped = x.at[0, 0].set(x[0, 1]).at[0, 1].set(x[0, 0])
  assert tree.fingerprint([x])[0] != tree.fingerprint([swapped])[0]
  assert tree.fingerprint({}).shape == (1,)


def test_fingerprint_does_not_depend_on_the_sharding():
  mesh = jax.make_mesh((8,), ('data',))
  x = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
  sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data')))
  assert tree.fingerprint([x])[0] == jax.jit(tree.fingerprint)([sharded])[0]


def test_table_is_aligned():
  lines = tree.table(PARAMS, {'trained': lambda path, _: 'yes'}).splitlines()
  assert lines[0].split() == ['parameter', 'shape', 'dtype', 'trained']
  assert lines[2].split() == ['encoder/fc1/kernel', '2x3', 'float32', 'yes']
