"""Houlsby, Pfeiffer, parallel adapters, Compacter: by hand, and the identities between them."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table
from adapters.by_hand import adapted, dense

from mtjax import adapters
from mtjax.adapters import Compacter, ConvAdapter, Houlsby, LoRA, Parallel, Pfeiffer, ScaledParallel
from mtjax.adapters.compacter import phm
from mtjax.adapters.conv_adapter import depthwise

P = {'down': [[1.0], [1.0]], 'down_bias': [-1.0], 'up': [[2.0, 0.0]], 'up_bias': [0.0, 5.0]}
EYE = dense(np.eye(2))


def test_sequential_and_parallel_by_hand():
  double = dense(2 * np.eye(2))
  # h = (2, 4): relu(6 - 1) = 5, times (2, 0), plus (0, 5)
  np.testing.assert_array_equal(adapted(Houlsby(rank=1, activation='relu'), P, double, [[1.0, 2.0]]), [[12.0, 9.0]])
  # x = (1, 2): relu(3 - 1) = 2 -> (4, 5), on top of h
  np.testing.assert_array_equal(adapted(Parallel(rank=1), P, double, [[1.0, 2.0]]), [[6.0, 9.0]])
  np.testing.assert_array_equal(adapted(ScaledParallel(rank=1), P, double, [[1.0, 2.0]]), [[18.0, 24.0]])


def test_pfeiffer_runs_the_norm_again_on_the_sum():
  # The block's last norm, on z and then on z + f(norm(z)).
  params = table.base_params()
  spec = adapters.Spec([dict(site='output', match=r'block_1/norm2$', method=dict(name='pfeiffer', rank=2))])
  state = table.busy(adapters.init_adapters(jax.random.key(0), table.ENCODER, params, spec, table.TOKENS))
  own = state['adapters']['block_1']['norm2']['@pfeiffer']
  before = table.ENCODER.clone(depth=2).apply({'params': {**params}}, table.TOKENS, mutable=['intermediates'],
                                              capture_intermediates=lambda module, _: module.name in ('norm1', 'mlp'))
  inside = before[1]['intermediates']['block_1']
  z = inside['norm1']['__call__'][0] + inside['mlp']['__call__'][0]
  norm = lambda z: ((z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-12)
                    * params['block_1']['norm2']['scale'] + params['block_1']['norm2']['bias'])
  with jax.numpy_rank_promotion('allow'):
    h = norm(np.asarray(z))
    f = np.maximum(h @ own['down'] + own['down_bias'], 0) @ own['up'] + own['up_bias']
    wanted = norm(np.asarray(z) + f)
  found = adapters.bind(table.ENCODER, spec)(params, state, table.TOKENS)[0].tokens
  np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)  # float32 through two norms
  assert Pfeiffer().fits(adapters.Site('n', 'output', {'scale': jnp.ones(2)}, (2,), (2,))) and not Pfeiffer().fits(EYE)


def test_lora_is_a_parallel_adapter_without_an_activation():
  rng = np.random.default_rng(0)
  a, b, x = rng.random((2, 1)), rng.random((1, 2)), 1 + rng.random((3, 2))  # all positive: relu does nothing
  p = {'down': a, 'down_bias': [0.0], 'up': b, 'up_bias': [0.0, 0.0]}
  np.testing.assert_allclose(adapted(ScaledParallel(rank=1, scale=3.0), p, EYE, x),
                             adapted(LoRA(rank=1, alpha=3.0), {'a': a, 'b': b}, EYE, x), rtol=1e-6)


def test_initial_values():
  p = Houlsby(rank=64, std=0.01).init(jax.random.key(0), dense(np.eye(64)))
  assert 0 < np.abs(p['down']).max() <= 0.02 and 0 < np.abs(p['up']).max() <= 0.02  # cut off at two deviations
  p = Parallel(reduction=4).init(jax.random.key(0), dense(np.eye(64)))
  assert p['down'].shape == (64, 16) and np.any(p['down']) and not np.any(p['up'])


def test_phm_is_a_sum_of_kronecker_products():
  rng = np.random.default_rng(0)
  rule, s, t, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 3, 3), (3, 4), (3, 2), (5, 12)))
  kernel = sum(np.kron(rule[i], np.outer(s[i], t[i])) for i in range(3))
  np.testing.assert_allclose(phm(jnp.array(x), rule, s, t), x @ kernel, rtol=1e-4, atol=1e-4)  # 12 products of 3


def test_phm_of_one_part_and_of_a_block():
  x = jnp.array([[1.0, 2.0]])
  np.testing.assert_array_equal(phm(x, jnp.ones((1, 1, 1)), jnp.array([[1.0, 1.0]]), jnp.array([[5.0, 7.0]])), [[15.0, 21.0]])
  rule = jnp.stack([jnp.eye(2), jnp.zeros((2, 2))])  # one block, repeated on the diagonal
  found = phm(x, rule, jnp.array([[3.0], [9.0]]), jnp.array([[2.0], [9.0]]))
  np.testing.assert_array_equal(found, [[6.0, 12.0]])


def test_compacter_refuses_what_n_does_not_divide():
  with pytest.raises(ValueError, match='n=4, which must divide the 6 features'):
    Compacter().fits(dense(np.eye(6)))


def test_a_convolution_over_tokens():
  x, kernel = np.arange(1.0, 5.0)[:, None], np.array([[1.0], [10.0], [100.0]])
  # (before, itself, behind) times (1, 10, 100), zeros beyond the ends
  assert np.asarray(depthwise(x, kernel)).ravel().tolist() == [210, 321, 432, 43]


def test_the_conv_adapter_sees_the_order_of_tokens_and_of_width_1_does_not():
  rng, site = np.random.default_rng(0), dense(np.eye(4))
  x = jnp.asarray(rng.standard_normal((5, 4)), jnp.float32)
  for width, alike in ((1, True), (3, False)):
    method = ConvAdapter(reduction=2, width=width)
    p = {**method.init(jax.random.key(0), site), 'up': jnp.asarray(rng.standard_normal((2, 4)), jnp.float32)}
    moved = adapted(method, p, site, x[::-1])[::-1]
    assert np.allclose(moved, adapted(method, p, site, x), atol=1e-5) == alike
  with pytest.raises(ValueError, match='width=4; allowed is an odd'):
    ConvAdapter(width=4)


def test_wrong_fields_are_refused():
  for fields, message in ((dict(activation='rleu'), "activation='rleu'. Did you mean 'relu'"), (dict(rank=0), 'rank=0'),
                          (dict(init_scheme='zero'), "init_scheme='zero'")):
    with pytest.raises(ValueError, match=message):
      Parallel(**fields)
