"""Poly and MHR: by hand, against each other, and as a bank of a real encoder."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table
from adapters.by_hand import adapted, dense

from mtjax import adapters, tree
from mtjax.adapters import Bank, LoRA, Poly, Uniform
from mtjax.adapters.poly import routing_weights
from mtjax.context import Ctx

INVENTORY = {'a': jnp.array([[[1.0], [0.0]], [[0.0], [1.0]]]), 'b': jnp.array([[[1.0, 0.0]], [[0.0, 1.0]]])}
METHOD = LoRA(rank=1)


def mixed(bank, logits, task=0, stored=INVENTORY):
  ctx = Ctx(task_id=jnp.array(task))
  weights = bank.router.weights({'router_logits': jnp.asarray(logits)}, bank, ctx)
  return bank.rows(stored, ctx, 'r', None, weights, METHOD.split_axis)[0]


def test_factors_are_mixed_not_outputs():
  bank = Bank(tasks=1, skills=2, router=Poly())
  p = mixed(bank, jnp.zeros((1, 1, 2)))
  y = adapted(METHOD, p, dense(np.zeros((2, 2))), [[2.0, 4.0]])
  np.testing.assert_allclose(y, [[1.5, 1.5]], rtol=1e-6)  # mixing outputs would give (1, 2)


def test_weights_are_shares_of_sigmoids():
  np.testing.assert_allclose(routing_weights(jnp.array([np.log(3), 0.0])), [0.6, 0.4], rtol=1e-6)
  drawn = jax.vmap(lambda key: routing_weights(jnp.zeros(2), key))(jax.random.split(jax.random.key(0), 64))
  assert drawn.std() > 0.1 and np.allclose(drawn.sum(-1), 1)


def test_mhr_with_equal_splits_is_poly():
  rng = np.random.default_rng(0)
  stored = {'a': jnp.asarray(rng.standard_normal((3, 4, 1))), 'b': jnp.asarray(rng.standard_normal((3, 1, 6)))}
  z = rng.standard_normal((2, 1, 3))
  poly = mixed(Bank(tasks=2, skills=3, router=Poly()), z, 1, stored)
  mhr = mixed(Bank(tasks=2, skills=3, splits=2, router=Poly()), np.repeat(z, 2, axis=1), 1, stored)
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), poly, mhr)


def run(bank):
  """(spec, base, busy state, mixed batch -> tokens) of LoRA on the tiny encoder."""
  base = table.base_params()
  spec = adapters.Spec([dict(site='output', match=table.PROJECTIONS, method=dict(name='lora', rank=2), bank=bank)])
  fresh = adapters.init_adapters(jax.random.key(0), table.ENCODER, base, spec, table.TOKENS)
  forward = adapters.bind(table.ENCODER, spec)
  return spec, base, fresh, table.busy(fresh), jax.jit(
    lambda state, ids: forward(base, state, table.TOKENS, ctx=Ctx(task_id=ids))[0].tokens)


def test_a_bank_with_splits_on_an_encoder():
  spec, base, fresh, state, tokens = run(Bank(tasks=('a', 'b', 'c'), skills=2, splits=4, router=Poly()))
  ids = jnp.array(table.IDS)
  np.testing.assert_allclose(tokens(fresh, ids), table.ENCODER.apply({'params': base}, table.TOKENS).tokens, atol=1e-5)
  mixed_tokens = tokens(state, ids)
  for task in range(3):
    alone = tokens(state, jnp.full_like(ids, task))
    np.testing.assert_allclose(mixed_tokens[ids == task], alone[ids == task], rtol=1e-5, atol=1e-5)  # float32
  # T Q K numbers a layer are all that tasks cost.
  routing = {path: x for path, x in tree.flatten(fresh['adapters']).items() if 'router' in path}
  assert len(routing) == 6 and all(x.shape == (3, 4, 2) and np.abs(x).max() <= 1e-3 for x in routing.values())
  labels = tree.flatten(adapters.trainable_labels(base, state, spec)[1])
  assert {path for path, label in labels.items() if label == 'routing'} == {f'adapters/{path}' for path in routing}
  merged = adapters.merge(base, state, spec, task='b')
  np.testing.assert_allclose(table.ENCODER.apply({'params': merged}, table.TOKENS).tokens[ids == 1],
                             mixed_tokens[ids == 1], rtol=1e-5, atol=1e-5)


def test_mhr_mu_is_the_mean_of_the_inventory():
  spec, base, _, state, _ = run(Bank(tasks=2, skills=3, router=Poly(sharing='rule')))
  assert state['shared']['lora']['router_logits'].shape == (2, 1, 3)
  mean, mean_spec = adapters.average(state, spec)
  a = state['adapters']['block_0']['attn']['out']['@lora']['a']
  np.testing.assert_allclose(mean['adapters']['block_0']['attn']['out']['@lora']['a'], a.mean(0), rtol=1e-5, atol=1e-7)
  assert mean_spec.rules[0].bank == Bank() and mean['shared'] == {}
  uniform = Uniform().weights({}, Bank(skills=3, router=Uniform()), None)
  np.testing.assert_allclose(uniform, np.full(3, 1 / 3), rtol=1e-6)


def test_what_poly_needs_is_said():
  with pytest.raises(ValueError, match="sharing='sites'. Did you mean 'site'"):
    Poly(sharing='sites')
  with pytest.raises(ValueError, match='knows the tasks'):
    Poly().init_site(jax.random.key(0), Bank(skills=2, router=Poly()))
  with pytest.raises(ValueError, match='ctx says of no row'):
    Poly().weights({}, Bank(tasks=2, skills=2, router=Poly()), None)
