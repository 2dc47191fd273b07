"""Hypernetworks: parameter counts by hand, who shares what, generated as stored, and on an encoder with mixed rows."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table
from optim.calls import quick_jit

from mtjax import adapters, tree
from mtjax.adapters import Bank
from mtjax.context import Ctx
from mtjax.hypernets import HyperFormer, HyperFormerPlus, Polyhistor, PolyhistorLite

SMALL = dict(embedding=4, hidden=5, features=6)
CLOSE = dict(rtol=1e-5, atol=1e-5)  # float32
GENERATORS = {'hyperformer': HyperFormer(**SMALL), 'hyperformer_plus': HyperFormerPlus(**SMALL),
              'polyhistor': Polyhistor(embedding=4), 'polyhistor_lite': PolyhistorLite(embedding=4, template=4)}
NETWORK = lambda size: size * 5 + 5 + 5 * 6 + 6 + 2 * 6
# four sites; a bottleneck of rank 2 is down 8 x 2, 2, up 2 x 8, 8: 42 numbers; T = 3
COUNTS = {
  'hyperformer': 3 * 4 + 4 * (NETWORK(4) + 7 * 42),
  'hyperformer_plus': 3 * 4 + 4 * 4 + NETWORK(8) + 7 * 42,
  'polyhistor': 3 * 4 + 4 * 4 * (2 * (8 * 2 + 2 * 2) + 2 + 8),
  # templates 4 x 2 and 2 x 4, biases whole, of all sites; kernels 2 x 1 and 1 x 2 a site
  'polyhistor_lite': 3 * 4 + 4 * (2 * (4 * 2 + 2 * 2) + 2 + 8) + 4 * 4,
}


def spec_of(name, method='houlsby', **fields):
  return adapters.Spec([dict(site='wrap', match=table.LAYERS, method=dict(name=method, rank=2, **fields),
                             bank=Bank(tasks=table.TASKS, generated_by=GENERATORS[name]))])


@functools.cache
def setup(name):
  base, spec = table.base_params(), spec_of(name)
  fresh = adapters.init_adapters(jax.random.key(0), table.ENCODER, base, spec, table.TOKENS)
  return base, spec, fresh, table.busy(fresh)


def program(spec, base, **fields):
  forward = adapters.bind(table.ENCODER.clone(**fields), spec)
  return quick_jit(lambda state, ids: forward(base, state, table.TOKENS, ctx=Ctx(task_id=ids))[0].tokens)


@pytest.mark.parametrize('name', GENERATORS)
def test_number_of_parameters(name):
  _, _, fresh, _ = setup(name)
  assert tree.count(fresh['adapters']) + tree.count(fresh['shared']) == COUNTS[name]


@pytest.mark.parametrize('name', GENERATORS)
def test_mixed_rows_and_what_is_generated_as_stored_parameters(name):
  base, spec, _, state = setup(name)
  ids, run = jnp.array(table.IDS), program(spec, base)
  mixed = run(state, ids)
  alone = run(state, jnp.full_like(ids, 2))
  np.testing.assert_allclose(mixed[ids == 2], alone[ids == 2], **CLOSE)
  assert not np.allclose(mixed[0], mixed[4], rtol=1e-3)  # one input, two tasks
  stored, plain = adapters.materialise(table.ENCODER, base, state, spec, table.TOKENS)
  assert plain.rules[0].bank == Bank(tasks=table.TASKS) and stored['shared'] == {}
  np.testing.assert_allclose(program(plain, base)(stored, ids), mixed, **CLOSE)
  if name == 'hyperformer_plus':  # a scan, in which a layer does not know its name
    np.testing.assert_allclose(program(spec, base, scan=True)(state, ids), mixed, **CLOSE)


def test_plus_tells_sites_apart_by_their_embedding_alone():
  base, spec, _, state = setup('hyperformer_plus')
  flat = tree.flatten(state['adapters'])
  same = tree.unflatten({path: next(iter(flat.values())) for path in flat})
  stored, _ = adapters.materialise(table.ENCODER, base, {**state, 'adapters': same}, spec, table.TOKENS)
  one, other = (stored['adapters'][block]['attn']['@houlsby'] for block in ('block_0', 'block_1'))
  jax.tree.map(np.testing.assert_array_equal, one, other)
  stored, _ = adapters.materialise(table.ENCODER, base, state, spec, table.TOKENS)
  assert not np.allclose(stored['adapters']['block_0']['attn']['@houlsby']['down'],
                         stored['adapters']['block_1']['attn']['@houlsby']['down'])


def test_generators_of_zero_generate_the_identity():
  base, _, _, _ = setup('hyperformer')
  spec = adapters.Spec([dict(site='wrap', match=table.LAYERS, method=dict(name='normed_bottleneck', rank=2), bank=Bank(
    tasks=3, generated_by=HyperFormer(**SMALL, std=0.0)))])
  state = adapters.init_adapters(jax.random.key(0), table.ENCODER, base, spec, table.TOKENS)
  np.testing.assert_array_equal(program(spec, base)(state, jnp.array(table.IDS)),
                                program(adapters.Spec([]), base)({}, jnp.array(table.IDS)))


def test_a_method_that_is_no_identity_near_zero_begins_where_it_would():
  base, _, _, _ = setup('hyperformer')
  spec = adapters.Spec([dict(site='output', match=r'value$', method='ia3', bank=Bank(
    tasks=2, generated_by=HyperFormerPlus(**SMALL, std=0.0, bias='method')))])
  state = adapters.init_adapters(jax.random.key(0), table.ENCODER, base, spec, table.TOKENS)
  stored, _ = adapters.materialise(table.ENCODER, base, state, spec, table.TOKENS)
  assert stored['adapters']['block_0']['attn']['value']['@ia3']['scale'].tolist() == [[1.0] * 8] * 2


def test_given_task_embeddings_are_not_learnt():
  generator = HyperFormerPlus(**{**SMALL, 'embedding': 2}, task_embeddings=np.eye(2))
  spec = adapters.Spec([dict(site='output', match=r'value$', method='ia3', bank=Bank(tasks=2, generated_by=generator))])
  state = adapters.init_adapters(jax.random.key(0), table.ENCODER, setup('hyperformer')[0], spec, table.TOKENS)
  assert 'task_embed' not in state['shared']['ia3']
  assert adapters.Spec.from_json(spec.to_json()) == spec
  with pytest.raises(ValueError, match='2 task_embeddings for 3 tasks'):
    generator.init_shared(jax.random.key(0), Bank(tasks=3, generated_by=generator), [], adapters.IA3())


def test_decomposed_matrices_have_the_inner_rank_and_lite_ones_are_kronecker_products():
  base, spec, _, state = setup('polyhistor')
  wide = adapters.Spec([dict(site='wrap', match=r'block_0/mlp$', method=dict(name='houlsby', rank=4), bank=Bank(
    tasks=2, generated_by=Polyhistor(embedding=4, inner=1)))])
  own = table.busy(adapters.init_adapters(jax.random.key(0), table.ENCODER, base, wide, table.TOKENS))
  stored, _ = adapters.materialise(table.ENCODER, base, own, wide, table.TOKENS)
  down = stored['adapters']['block_0']['mlp']['@houlsby']['down']
  assert down.shape == (2, 8, 4) and [np.linalg.matrix_rank(x, tol=1e-5) for x in down] == [1, 1]
  lite = PolyhistorLite(embedding=1, template=2)
  site = adapters.Site('s', 'wrap', {}, (4,), (4,))
  leaves = {'task_embed': jnp.ones((1, 1)), 'kernel_down': jnp.array([[1.0], [2.0]]), 'kernel_up': jnp.ones((1, 2)),
            'left_down_2x1': jnp.array([[[3.0], [4.0]]]), 'right_down_2x1': jnp.ones((1, 1, 1)),
            'left_up_1x2': jnp.ones((1, 1, 1)), 'right_up_1x2': jnp.ones((1, 1, 2)), 'gen_down_bias_1': jnp.ones((1, 1)),
            'gen_up_bias_4': jnp.ones((1, 4))}
  found = lite.generate(leaves, Bank(tasks=1, generated_by=lite), site, adapters.Houlsby(rank=1))
  assert found['down'].tolist() == [[[3.0], [4.0], [6.0], [8.0]]]  # (1, 2) x (3, 4)


def test_what_cannot_be_generated_is_said():
  with pytest.raises(ValueError, match='rule, which HyperFormer does not|Compacter has parameters of all tasks'):
    GENERATORS['hyperformer'].init_shared(jax.random.key(0), Bank(tasks=2), [], adapters.Compacter())
  with pytest.raises(ValueError, match='HyperFormerPlus has embedding=0'):
    HyperFormerPlus(embedding=0)
  base, spec, _, state = setup('polyhistor')
  with pytest.raises(ValueError, match='cannot be merged'):
    adapters.merge(base, state, spec, task='a')
