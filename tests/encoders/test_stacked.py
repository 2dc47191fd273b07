"""Stacked blocks: the layout and back, and the same numbers as block by block."""
import doctest

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtjax import encoders
from mtjax.encoders import stacked
from mtjax.encoders.stacked import stack_blocks, unstack_blocks

TOKENS = np.random.default_rng(0).integers(1, 20, (2, 5)).astype(np.int32)
LOOP = encoders.GPT2(vocab_size=20, width=8, depth=3, heads=2, max_length=5, dropout_rate=0.2)
SCAN = LOOP.clone(scan=True)


@pytest.fixture(scope='module')
def params():
  return jax.jit(LOOP.init)(jax.random.key(0), TOKENS)['params']


def equal(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def loss(module):
  def of(params):
    features = module.apply({'params': params}, TOKENS, train=True, rngs={'dropout': jax.random.key(1)})
    return jnp.sum(jnp.sin(features.tokens))
  return of


def test_there_and_back(params):
  there = stack_blocks(params)
  assert set(there) == {'embed', 'pos_embed', 'norm', 'blocks'}
  for i in range(3):
    equal(jax.tree.map(lambda x, i=i: x[i], there['blocks']), params[f'block_{i}'])
  back = unstack_blocks(there)
  equal(back, params)
  assert jax.tree.structure(back) == jax.tree.structure(params)


def test_an_optimizer_state_goes_along(params):
  tx = optax.adam(1e-3)
  there = stack_blocks(tx.init(params))
  assert jax.tree.structure(there) == jax.tree.structure(tx.init(stack_blocks(params)))
  equal(unstack_blocks(there), tx.init(params))


def test_what_has_no_blocks_alike_stays():
  x = jnp.zeros(2)
  for tree in ({'block_0': {'w': x}}, {'block_0': {'w': x}, 'block_1': {'w': jnp.zeros(3)}},
               {'block_0': {'w': x}, 'block_2': {'w': x}}, {'blocking': x}, (x, None)):
    assert jax.tree.structure(stack_blocks(tree)) == jax.tree.structure(tree)


def test_modules_inside_modules():
  t5 = encoders.T5(vocab_size=20, width=8, depth=2, heads=2, scan=True)
  params = jax.jit(t5.init)(jax.random.key(0), (TOKENS, TOKENS))['params']
  there = stack_blocks(params)
  assert 'blocks' in there['encoder'] and 'blocks' in there['decoder']
  plain, other = (jax.jit(t5.apply)({'params': p}, (TOKENS, TOKENS)).tokens for p in (params, there))
  np.testing.assert_allclose(other, plain, atol=1e-6)   # the same sums, compiled apart


def test_loop_scan_and_stacked_scan_agree_with_dropout(params):
  runs = [jax.jit(jax.value_and_grad(loss(module)))(p)
          for module, p in ((LOOP, params), (SCAN, params), (SCAN, stack_blocks(params)))]
  (plain, gradient), *others = runs
  assert np.abs(gradient['block_1']['mlp']['fc1']['kernel']).max() > 1e-3
  for value, other in others:
    np.testing.assert_allclose(value, plain, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), unstack_blocks(other), gradient)  # float sums


def test_gradients_are_taken_apart_without_a_kernel_a_layer(params):
  text = jax.jit(jax.grad(loss(SCAN))).lower(params).compile().as_text()
  kernel = 'f32[3,8,32]'   # of fc1, stacked
  assert kernel in text
  assert not any(' slice(' in line and kernel in line for line in text.splitlines())


def test_forward_mode_and_batches_of_gradients(params):
  """Two of what a rule for derivatives by hand may break."""
  tangents = jax.tree.map(jnp.ones_like, params)
  slopes = [jax.jit(lambda p, module=module: jax.jvp(loss(module), (p,), (tangents,))[1])(params)
            for module in (LOOP, SCAN)]
  np.testing.assert_allclose(*slopes, rtol=1e-4)        # one number of thousands of terms
  several = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
  gradients = jax.jit(jax.vmap(jax.grad(loss(SCAN))))(several)
  single = jax.jit(jax.grad(loss(SCAN)))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a[0], b, atol=1e-5), gradients, single)


@pytest.mark.parametrize('module, text', [
  (LOOP, "GPT2 has scan=False, but its parameters are stacked"),
  (SCAN.clone(depth=2), "GPT2 has 2 blocks, but its parameters 'blocks' hold 3"),
])
def test_errors(params, module, text):
  with pytest.raises(ValueError, match=text):
    module.apply({'params': stack_blocks(params)}, TOKENS)


def test_examples():
  failed, tried = doctest.testmod(stacked, extraglobs={'jnp': jnp, 'jax': jax})
  assert tried > 0 and failed == 0
