"""ScaLearn, AdapterFusion, LoRAMoE: by hand, and over real sources."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table
from adapters.by_hand import dense
from optim.calls import quick_jit

from mtjax import adapters
from mtjax.adapters import LoRA, LoRAMoE, ScaLearn, with_sources
from mtjax.adapters.adapter_fusion import fuse, value_penalty
from mtjax.adapters.intercept import add_to_loss
from mtjax.adapters.lora_moe import squared_variation
from mtjax.context import Ctx

NORM = r'norm2$'
IDS = jnp.array(table.IDS)


@functools.cache
def sources():
  """(base, state and spec of three tasks' Pfeiffer adapters, their tokens)."""
  base = table.base_params()
  spec = adapters.Spec([dict(site='output', match=NORM, method=dict(name='pfeiffer', rank=2), bank=dict(tasks=3))])
  state = table.busy(adapters.init_adapters(jax.random.key(0), table.ENCODER, base, spec, table.TOKENS))
  return base, state, spec


def composed(method):
  base, state, spec = sources()
  target = adapters.Spec([dict(site='output', match=NORM, method=method)])
  own = adapters.init_adapters(jax.random.key(1), table.ENCODER, base, target, table.TOKENS)
  return target, with_sources(own, target, state, spec)


def tokens(spec, ctx=None):
  forward = adapters.bind(table.ENCODER, spec)
  return lambda state: forward(sources()[0], state, table.TOKENS, ctx=ctx)[0].tokens


def run(spec, state, ctx=None):
  return quick_jit(tokens(spec, ctx))(state)


def gradient(spec, state):
  return quick_jit(jax.grad(lambda state: jnp.sum(tokens(spec)(state)**2 * jnp.arange(8.0)[None, None])))(state)


def put(state, value):
  """Every omega with this value [n, D]."""
  return {**state, **{part: jax.tree.map(lambda x: jnp.broadcast_to(value, x.shape), state[part])
                      for part in ('adapters', 'shared')}}


def test_one_hot_scaling_is_that_source_and_zero_the_encoder():
  spec, state = composed(dict(name='scalearn', sources=3, rank=2))
  one_hot = put(state, jnp.array([[0.0], [1.0], [0.0]]))
  _, source_state, source_spec = sources()
  wanted = run(source_spec, source_state, Ctx(task_id=jnp.ones_like(IDS)))
  np.testing.assert_allclose(run(spec, one_hot), wanted, rtol=1e-5, atol=1e-5)  # float32
  plain = table.ENCODER.apply({'params': sources()[0]}, table.TOKENS).tokens
  np.testing.assert_allclose(run(spec, put(state, jnp.zeros((3, 1)))), plain, rtol=1e-5, atol=1e-5)


def test_scaling_by_hand():
  # u_1 = (1, 2), u_2 = (3, 4), omega (1, 1) and (0.5, 2), on (10, 20): (12.5, 30)
  p = {'omega': jnp.array([[1.0, 1.0], [0.5, 2.0]]), 'down': jnp.zeros((2, 2, 1)), 'down_bias': jnp.zeros((2, 1)),
       'up': jnp.zeros((2, 1, 2)), 'up_bias': jnp.array([[1.0, 2.0], [3.0, 4.0]])}
  found = ScaLearn(sources=2, rank=1).apply(p, jnp.array([[10.0, 20.0]]), jnp.ones((1, 2)), dense(np.eye(2)))
  assert found.tolist() == [[12.5, 30.0]]


@pytest.mark.parametrize('uniform, shared, count', [(False, False, 2 * 3 * 8), (True, False, 2 * 3), (False, True, 24), (True, True, 3)])
def test_four_shapes_of_omega(uniform, shared, count):
  spec, state = composed(dict(name='scalearn', sources=3, rank=2, uniform=uniform, shared_by_layers=shared))
  omegas = jax.tree.leaves((state['adapters'], state['shared']))
  assert sum(x.size for x in omegas) == count and all(np.abs(x - 2 / 3).max() < 0.01 for x in omegas)
  if shared:
    apart_spec, apart = composed(dict(name='scalearn', sources=3, rank=2, uniform=uniform))
    both = gradient(apart_spec, put(apart, omegas[0]))
    summed = sum(jax.tree.leaves(both['adapters']))
    np.testing.assert_allclose(gradient(spec, state)['shared']['scalearn']['omega'], summed, rtol=1e-4, atol=1e-3)  # sums of 160


def test_omega_is_dropped_out_in_training_alone():
  spec, state = composed(dict(name='scalearn', sources=3, rank=2, omega_dropout=0.5))
  forward = adapters.bind(table.ENCODER, spec)
  train = lambda key: forward(sources()[0], state, table.TOKENS, train=True, rngs={'dropout': jax.random.key(key)})[0].tokens
  assert not np.allclose(train(0), train(1), atol=1e-3)
  with pytest.raises(ValueError, match="no 'dropout' key"):
    forward(sources()[0], state, table.TOKENS, train=True)


def test_fusion_of_equal_sources_asks_no_query():
  rng = np.random.default_rng(0)
  p = {name: jnp.asarray(rng.standard_normal((2, 2) if '_' not in name else 2), jnp.float32)
       for name in ('query', 'key', 'value', 'query_bias', 'key_bias')}
  h, u = jnp.ones((1, 2)), jnp.broadcast_to(jnp.array([[[1.0, 2.0]]]), (3, 1, 2))
  np.testing.assert_allclose(fuse(h, u, p), u[0] @ p['value'], rtol=1e-5)


def test_fusion_on_an_encoder():
  spec, state = composed(dict(name='adapter_fusion', sources=3, rank=2))
  own = state['adapters']['block_0']['norm2']['@adapter_fusion']
  assert np.allclose(own['value'], np.eye(8), atol=1e-5) and 0 < value_penalty(state) < 1e-9
  assert np.isfinite(run(spec, state)).all()
  with pytest.raises(ValueError, match='sources=2, rank=2'):
    composed(dict(name='adapter_fusion', sources=2, rank=2))


def test_one_expert_is_lora_and_none_at_first():
  rng = np.random.default_rng(0)
  a, b, x = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 2), (2, 4), (5, 3)))
  site, y = dense(np.zeros((3, 4))), jnp.zeros((5, 4))
  found, gates = LoRAMoE(experts=1, rank=2, alpha=2.0).apply({'gate': jnp.ones((3, 1)), 'a': a[None], 'b': b[None]}, x, y, site)
  np.testing.assert_allclose(found, LoRA(rank=2).apply({'a': a, 'b': b}, x, y, site), rtol=1e-5, atol=1e-6)
  assert gates.tolist() == [1.0]
  p = LoRAMoE(experts=3, rank=2).init(jax.random.key(0), site)
  assert sum(leaf.size for leaf in p.values()) == LoRAMoE(experts=3, rank=2).num_params(site) == 3 * (3 + 2 * 7)
  np.testing.assert_array_equal(LoRAMoE(experts=3, rank=2).apply(p, x, y, site)[0], y)


def test_localised_balancing():
  np.testing.assert_allclose(squared_variation(jnp.array([1.0, 2.0, 3.0, 4.0])), 1.66667 / 6.25, rtol=1e-5)
  even = jnp.full((2, 4), 0.25)
  assert float(LoRAMoE(experts=4, delta=0.0).penalty(even, None)) == 0
  method, ctx = LoRAMoE(experts=4, types=(1, 0)), Ctx(task_id=jnp.array([0, 1]))
  behind = jnp.array([[1, 1, 0, 0], [0, 0, 1, 1]])  # each sample's own experts get less: what the penalty asks for
  share = jnp.where(behind == 1, 1 / 1.1, 1 / 0.9)
  assert float(method.penalty(share / share.sum(1, keepdims=True), ctx)) < 1e-9 < float(method.penalty(even, ctx))
  with pytest.raises(ValueError, match='types of tasks, but ctx'):
    method.penalty(even, None)


def test_the_penalty_joins_the_gradient_of_the_loss():
  def loss(x, plainly):
    y, penalty = jnp.sin(x), jnp.sum(x**3)
    return y.sum() + penalty if plainly else add_to_loss(y, penalty).sum()

  x = jnp.array([0.3, 2.0])
  np.testing.assert_allclose(jax.grad(loss)(x, False), jax.grad(loss)(x, True), rtol=1e-6)
  base = sources()[0]
  spec = adapters.Spec([dict(site='output', match=r'fc1$', method=dict(name='lora_moe', experts=2, rank=1, dropout_rate=0.0))])
  state = adapters.init_adapters(jax.random.key(0), table.ENCODER, base, spec, table.TOKENS)
  forward = adapters.bind(table.ENCODER, spec)

  def gates(train):
    total = lambda state: jnp.sum(forward(base, state, table.TOKENS, train=train)[0].tokens)
    return quick_jit(jax.grad(total))(state)['adapters']['block_0']['mlp']['fc1']['@lora_moe']['gate']

  assert np.any(gates(True)) and not np.any(gates(False))  # B = 0: only the penalty reaches the gate
