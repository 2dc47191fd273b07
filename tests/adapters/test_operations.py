"""Tree operations, L2M's choice, LoRAHub's search, AdapterSoup: against what they are defined by."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table
from optim.calls import quick_jit

from mtjax import adapters, tree
from mtjax.adapters import Bank, l2m
from mtjax.adapters.adapter_soup import adapter_soup
from mtjax.adapters.lora_hub import lora_hub
from mtjax.context import Ctx


@functools.cache
def loras(bank=None):
  base = table.base_params()
  spec = table.spec_of('lora', bank)
  return base, spec, table.busy(adapters.init_adapters(jax.random.key(0), table.ENCODER, base, spec, table.TOKENS))


def deltas(base, state, spec, task=None):
  """What merging adds to every kernel."""
  merged, flat = tree.flatten(adapters.merge(base, state, spec, task=task)), tree.flatten(base)
  return {path: np.asarray(merged[path] - x) for path, x in flat.items() if not np.array_equal(merged[path], x)}


def test_selecting_and_stacking_are_inverse():
  _, spec, state = loras()
  parts = [adapters.select(state, spec, name) for name in table.TASKS]
  back, bank_spec = adapters.stack([part for part, _ in parts], parts[0][1], table.TASKS)
  assert bank_spec == spec
  jax.tree.map(np.testing.assert_array_equal, back['adapters'], state['adapters'])
  with pytest.raises(ValueError, match='3 states and the tasks'):
    adapters.stack([part for part, _ in parts], parts[0][1], ('a', 'b'))
  with pytest.raises(ValueError, match="Unknown task 'd'"):
    adapters.select(state, spec, 'd')


def test_concatenated_ranks_are_the_weighted_sum_of_changes():
  base, spec, state = loras()
  weights = [0.5, -1.0, 2.0]
  summed, summed_spec = adapters.concat_rank(state, spec, weights)
  assert summed_spec.rules[0].method.rank == 6 and summed_spec.rules[0].bank == Bank()
  own = [deltas(base, state, spec, task) for task in table.TASKS]
  for path, found in deltas(base, summed, summed_spec).items():
    wanted = sum(w * x[path] for w, x in zip(weights, own))
    np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)  # differences of kernels of order 1, in float32
  mean, mean_spec = adapters.average(state, spec, weights)  # factors instead: cross terms
  path = 'block_0/attn/query/kernel'
  assert not np.allclose(deltas(base, mean, mean_spec)[path], deltas(base, summed, summed_spec)[path], atol=1e-3)


def test_the_mean_of_equal_adapters_is_the_adapter():
  _, spec, state = loras()
  one, one_spec = adapters.select(state, spec, 'b')
  three, bank_spec = adapters.stack([one] * 3, one_spec)
  mean, mean_spec = adapters.average(three, bank_spec)
  assert mean_spec == one_spec
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), mean['adapters'], one['adapters'])


def test_truncation_is_the_best_of_its_rank():
  base, spec, state = loras()
  cut, cut_spec = adapters.svd_truncate(state, spec, 1)
  before, after = deltas(base, state, spec, 'a'), deltas(base, cut, cut_spec, 'a')
  for path in after:
    u, s, vt = np.linalg.svd(before[path].reshape(8, 8))
    np.testing.assert_allclose(after[path].reshape(8, 8), s[0] * np.outer(u[:, 0], vt[0]), atol=1e-5)  # float32
  same, same_spec = adapters.svd_truncate(state, spec, 2)
  for path, x in deltas(base, same, same_spec, 'c').items():
    np.testing.assert_allclose(x, deltas(base, state, spec, 'c')[path], atol=1e-5)
  with pytest.raises(ValueError, match='rank=3; allowed is 1 … 2'):
    adapters.svd_truncate(state, spec, 3)


def test_what_operations_refuse():
  _, _, state = loras()
  with pytest.raises(ValueError, match='concat_rank is for LoRA, but rule .ssf. has SSF'):
    adapters.concat_rank(state, table.spec_of('ssf'))
  with pytest.raises(ValueError, match='2 weights for 3 sets'):
    adapters.average(state, table.spec_of('lora'), [0.5, 0.5])


def test_labels_name_what_each_leaf_is():
  base, _, _ = loras()
  spec = adapters.Spec([dict(site='output', match='query$', method=dict(name='vera', rank=2))], trainable_base=[r'norm1/'])
  state = adapters.init_adapters(jax.random.key(0), table.ENCODER, base, spec, table.TOKENS)
  frozen, labels = adapters.trainable_labels(base, state, spec)
  assert set(jax.tree.leaves(frozen)) == {'frozen'}
  flat = tree.flatten(labels)
  assert flat['adapters/block_0/attn/query/@vera/d'] == 'adapter' and flat['stats/shared/vera/a'] == 'frozen'
  assert flat['base/block_1/norm1/scale'] == 'base'
  assert flat.keys() == tree.flatten(state).keys()


def test_the_mlp_of_a_prefix_can_be_dropped():
  base, spec = table.base_params(), table.spec_of('prefix_mlp')
  state = table.busy(adapters.init_adapters(jax.random.key(0), table.ENCODER, base, spec, table.TOKENS))
  plain, plain_spec = adapters.materialise(table.ENCODER, base, state, spec, table.TOKENS)
  assert plain_spec.rules[0].method == adapters.Prefix(length=3) and plain['shared'] == {}
  assert plain['adapters']['block_0']['attn']['@prefix']['keys'].shape == (3, 3, 2, 4)
  run = lambda spec, state: quick_jit(lambda state: adapters.bind(table.ENCODER, spec)(
    base, state, table.TOKENS, ctx=Ctx(task_id=jnp.array(table.IDS)))[0].tokens)(state)
  np.testing.assert_allclose(run(plain_spec, plain), run(spec, state), rtol=1e-5, atol=1e-5)  # float32


def test_l2m_chooses_the_nearest_key():
  keys = jnp.array([[1.0, 0.0], [0.0, 1.0]])
  winner, pull = l2m.choose(jnp.array([[3.0, 1.0]]), keys)
  assert winner.tolist() == [0] and np.isclose(pull, 0.9487, atol=1e-4)  # 3 / 10^(1/2)
  v = l2m.usage_penalty(jnp.array([0.5, 0.5, 0.0]))
  np.testing.assert_allclose(v, [2e-6, 2e-6, 1], rtol=1e-3)
  three = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
  assert l2m.choose(jnp.array([[3.0, 1.0]]), three, v)[0].tolist() == [2]  # the slot that is not used


def test_l2m_counts_and_queries():
  counts = jnp.zeros(3)
  for step, winner in enumerate(([0, 0], [0, 1])):
    counts = l2m.update_counts(counts, jnp.array(winner), step)
  np.testing.assert_allclose(counts, [0.75, 0.25, 0])
  tokens = jnp.array([[[2.0, 0.0], [4.0, 2.0], [9.0, 9.0]]])
  assert l2m.query(tokens, jnp.array([[True, True, False]])).tolist() == [[3.0, 1.0]]
  pull = lambda keys: l2m.choose(jnp.array([[3.0, 1.0]]), keys)[1]
  gradient = jax.grad(pull)(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
  assert np.any(gradient[0]) and not np.any(gradient[1])  # only the winner is pulled


def test_lora_hub_stays_within_its_bounds_and_budget():
  calls = []

  def loss(w):
    calls.append(w)
    return float(((w - 9) ** 2).sum())

  weights, lowest = lora_hub(loss, 2, evaluations=60)
  assert len(calls) == 60 and not np.any(calls[0]) and np.abs(weights).max() <= 1.5
  assert np.all(weights > 1.2) and lowest <= loss(weights) + 0.05 * 1.5
  with pytest.raises(ValueError, match='evaluations=0'):
    lora_hub(loss, 2, evaluations=0)


def test_adapter_soup_is_the_mean_of_the_nearest():
  _, spec, state = loras()
  soup, _ = adapter_soup(state, spec, np.eye(3), np.array([[1.0, 2.0, 0.0]]), k=2)
  path = 'block_0/attn/out/@lora/a'
  np.testing.assert_allclose(tree.flatten(soup['adapters'])[path], tree.flatten(state['adapters'])[path][:2].mean(0), rtol=1e-6)
