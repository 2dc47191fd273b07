"""What the compiled programs hold and send, on 8 devices: read from the compiler's own account."""
import collections
import math
import re

import jax
import jax.numpy as jnp
import pytest
import toy
from jax.sharding import NamedSharding

from mtjax import experiment, tree
from mtjax.encoders import GPT2, ViT
from mtjax.parallel import batch_sharding, make_mesh, on, partitions

ENCODER = dict(name='vit', patch=2, width=64, depth=1, heads=8, hidden=128)
DEPTH, WIDTH = 2, 64
FAMILIES = {
  'vit': (ViT(patch=8, width=WIDTH, depth=DEPTH, heads=4), (8, 32, 32, 3), jnp.float32),
  'gpt2': (GPT2(vocab_size=100, width=WIDTH, depth=DEPTH, heads=4, max_length=16), (8, 16), jnp.int32),
}


def collectives(compiled):
  """[(kind, shape)] of what the devices send one another."""
  found = []
  for line in compiled.as_text().splitlines():
    match = re.search(r'= (.+?) (all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute)(-start)?\(', line)
    if match:
      found += [(match[2], tuple(map(int, filter(None, dims.split(',')))))
                for dims in re.findall(r'[a-z0-9]+\[([\d,]*)\]', match[1])]
  return found


def compiled_step(aggregator, **mesh):
  run = experiment.build(toy.config(encoder=ENCODER, mesh=mesh, aggregator=aggregator))
  state = run._abstract_fn(0)
  return state, run.stages[0].update.lower(state, run.batch(0), run.stages[0].rng).compile()


def forward(family, **mesh):
  """(shapes of the parameters, what the devices send in a forward pass)."""
  module, shape, dtype = FAMILIES[family]
  mesh = make_mesh(mesh)
  x = jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(mesh))
  shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros(shape, dtype)))['params']
  specs = partitions(shapes, mesh)
  params = tree.map_with_path(
    lambda path, leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, specs[path])), shapes)

  def apply(params, x):
    with on(mesh):
      features = module.apply({'params': params}, x)
    return features.tokens, features.aux.get('logits', features.pooled)

  return shapes, collectives(jax.jit(apply).lower(params, x).compile())


@pytest.fixture(scope='module')
def fsdp():
  return compiled_step({'name': 'upgrad'}, fsdp=8)


def test_a_device_holds_its_part_of_parameters_and_optimizer_state(fsdp):
  state, compiled = fsdp
  size = lambda part: sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(part))
  whole = size((state.params, state.opt_state))
  # The arguments are all of the state, and the batch. Norms and biases are whole everywhere.
  assert compiled.memory_analysis().argument_size_in_bytes <= (1 / 8 + 0.05) * whole
  held = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize
             for x in jax.tree.leaves((state.params, state.opt_state)))
  assert held <= (1 / 8 + 0.05) * whole


def test_only_parameters_are_gathered_and_a_gramian_is_one_small_sum(fsdp):
  state, compiled = fsdp
  shapes = {tuple(x.shape) for x in jax.tree.leaves(state.params)} | {()}
  sent = collectives(compiled)
  assert {kind for kind, _ in sent} <= {'all-gather', 'all-reduce', 'reduce-scatter'}
  assert {shape for kind, shape in sent if kind == 'all-gather'} <= shapes
  whole = {tuple(sorted(shape)) for shape in shapes} | {(10,), (1,)}  # a gradient may be summed with its axes turned
  summed = {tuple(sorted(shape)) for kind, shape in sent if kind == 'all-reduce'}
  assert summed <= whole | {(2, 2)}, 'gradients a task [2, …] would be summed over devices, not gathered'
  assert ('all-reduce', (2, 2)) in sent


@pytest.mark.parametrize('family', FAMILIES)
def test_a_tensor_parallel_block_sums_twice_forward(family):
  _, sent = forward(family, tensor=4, data=2)
  counts = collections.Counter(sent)
  kinds = {kind for kind, _ in sent}
  assert kinds == {'all-reduce'}
  look_up = 1 if family == 'gpt2' else 0  # the vocabulary is split, too
  assert sum(counts.values()) == 2 * DEPTH + look_up
  tokens = 17 if family == 'vit' else 16
  assert all(shape == (4, tokens, WIDTH) for _, shape in sent)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_fully_sharded_forward_gathers_each_parameter_once_and_no_activation(family):
  shapes, sent = forward(family, fsdp=8)
  gathered = collections.Counter(shape for kind, shape in sent if kind == 'all-gather')
  known = collections.Counter(tuple(x.shape) for x in jax.tree.leaves(shapes))
  assert gathered and all(known[shape] >= count for shape, count in gathered.items())
  positions = {(1, 16, WIDTH)}  # looked up in a table that is split along it: the rows are summed
  assert {shape for kind, shape in sent if kind != 'all-gather'} <= positions
