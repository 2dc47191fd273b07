"""LoRA, RsLoRA, DoRA, PiSSA, VeRA on one layer: numbers worked out by hand, and what each promises beyond the table."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters.by_hand import adapted, dense, folded

from mtjax.adapters import DoRA, LoRA, PiSSA, RsLoRA, VeRA
from mtjax.adapters.dora import column_norms
from mtjax.adapters.pissa import principal_factors

RNG = np.random.default_rng(0)
W, X = RNG.standard_normal((6, 4)).astype(np.float32), RNG.standard_normal((3, 6)).astype(np.float32)
FACTORS = {'a': RNG.standard_normal((6, 2)).astype(np.float32), 'b': RNG.standard_normal((2, 4)).astype(np.float32)}


def test_lora_by_hand():
  # x = (1, 2): x A = 3, times B = (6, 0), on top of x itself
  p = {'a': [[1.0], [1.0]], 'b': [[2.0, 0.0]]}
  site = dense(np.eye(2))
  np.testing.assert_array_equal(adapted(LoRA(rank=1), p, site, [[1.0, 2.0]]), [[7.0, 2.0]])
  np.testing.assert_array_equal(folded(LoRA(rank=1), p, site, [[1.0, 2.0]]), [[7.0, 2.0]])


def test_scales():
  assert LoRA(rank=4, alpha=8).scale == 2 and RsLoRA(rank=4, alpha=8).scale == 4
  assert LoRA(rank=4).scale == 1 and RsLoRA(rank=4).scale == 2


def test_lora_begins_within_its_bound():
  p = LoRA(rank=50).init(jax.random.key(0), dense(W))
  bound = 6**-0.5
  assert np.all(np.abs(p['a']) <= bound) and np.abs(p['a']).max() > 0.9 * bound and not np.any(p['b'])


def test_dora_by_hand():
  # V = W + A B = [[3], [4]], |V| = 5; m = 10: the kernel is [[6], [8]]; the bias is beside it
  p = {'a': [[3.0], [4.0]], 'b': [[1.0]], 'magnitude': [10.0]}
  site = dense([[0.0], [0.0]], [1.0])
  np.testing.assert_allclose(adapted(DoRA(rank=1), p, site, [[1.0, 1.0]]), [[15.0]], rtol=1e-6)  # a square root
  np.testing.assert_allclose(folded(DoRA(rank=1), p, site, [[1.0, 1.0]]), [[15.0]], rtol=1e-6)


def test_dora_does_not_see_the_length_of_v():
  method, p = DoRA(rank=2), {**FACTORS, 'magnitude': np.ones(4, np.float32)}
  twice = {'a': 2 * FACTORS['a'], 'b': FACTORS['b'], 'magnitude': p['magnitude']}
  # Rounding of norms that are sums of 6 squares.
  np.testing.assert_allclose(adapted(method, twice, dense(2 * W), X), adapted(method, p, dense(W), X), rtol=1e-5)
  np.testing.assert_allclose(column_norms(W, FACTORS['a'], FACTORS['b'], 1.0),
                             np.linalg.norm(W + FACTORS['a'] @ FACTORS['b'], axis=0), rtol=1e-5)


def test_gradients_of_dora_are_those_of_lora_scaled():
  site, cotangent = dense(W), RNG.standard_normal((3, 4)).astype(np.float32)
  m = np.array([1.0, 2.0, 3.0, 4.0], np.float32)
  ratio = m / np.linalg.norm(W + FACTORS['a'] @ FACTORS['b'], axis=0)
  own = jax.grad(lambda p: jnp.sum(adapted(DoRA(rank=2), {**p, 'magnitude': m}, site, X) * cotangent))(FACTORS)
  lora = jax.grad(lambda p: jnp.sum(adapted(LoRA(rank=2), p, site, X) * cotangent * ratio[None]))(FACTORS)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), own, lora)  # float32


def test_pissa_takes_the_principal_part():
  method, site = PiSSA(rank=2, alpha=3.0), dense(W)
  p = {**method.init(None, site), **method.fixed(site)}
  np.testing.assert_allclose(adapted(method, p, site, X), X @ W, atol=1e-5)  # float32
  u, s, vt = np.linalg.svd(W)
  np.testing.assert_allclose(method.scale * p['a'] @ p['b'], u[:, :2] * s[:2] @ vt[:2], atol=1e-5)
  rest = W - method.scale * np.asarray(p['a'] @ p['b'])
  np.testing.assert_allclose(np.linalg.norm(rest, 2), s[2], rtol=1e-5)


def test_pissa_as_a_plain_lora_of_twice_the_rank():
  method, site = PiSSA(rank=2, alpha=3.0), dense(W)
  p = {**FACTORS, **method.fixed(site)}
  plain = method.as_lora(p)
  assert plain['a'].shape == (6, 4) and plain['b'].shape == (4, 4)
  np.testing.assert_allclose(adapted(LoRA(rank=4, alpha=6.0), plain, site, X), adapted(method, p, site, X), atol=1e-4)
  with pytest.raises(ValueError, match='at most 4'):
    PiSSA(rank=5).fits(site)


def test_pissa_splits_roots_between_the_factors():
  a, b = principal_factors(jnp.diag(jnp.array([9.0, 4.0])), 1, 1.0)
  np.testing.assert_allclose(np.abs(a).ravel(), [3, 0], atol=1e-6)
  np.testing.assert_allclose(np.abs(b).ravel(), [3, 0], atol=1e-6)


def test_vera_by_hand_and_from_its_seed():
  # x A = 3, times d = 6, times B = (6, 12), times g = (6, 0)
  p = {'a': [[1.0], [1.0]], 'b': [[1.0, 2.0]], 'd': [2.0], 'g': [1.0, 0.0]}
  site = dense(np.eye(2))
  np.testing.assert_array_equal(adapted(VeRA(rank=1), p, site, [[1.0, 2.0]]), [[7.0, 2.0]])
  np.testing.assert_array_equal(folded(VeRA(rank=1), p, site, [[1.0, 2.0]]), [[7.0, 2.0]])
  one, same, other = (VeRA(rank=3, seed=seed).shared_fixed([dense(W), dense(W.T)]) for seed in (1, 1, 2))
  assert one['a'].shape == (6, 3) and one['b'].shape == (3, 6)
  assert np.array_equal(one['a'], same['a']) and not np.array_equal(one['a'], other['a'])


@pytest.mark.parametrize('method, field', [(LoRA, 'rank'), (LoRA, 'alpha'), (VeRA, 'd_init'), (DoRA, 'dropout_rate')])
def test_wrong_hyper_parameters_are_refused(method, field):
  with pytest.raises(ValueError, match=f'{method.__name__} has {field}=-1'):
    method(**{field: -1})
