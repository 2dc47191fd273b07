"""What every method promises, on one tiny encoder; `table.py` is the list."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapters import table
from adapters.table import CASES, ENCODER, IDS, TASKS, TOKENS
from optim.calls import quick_jit

from mtjax import adapters, tree
from mtjax.context import Ctx

# Two layers of width 8 in float32: the ways of computing them differ by a few roundings of 1e-7 of values of order 1.
CLOSE = dict(rtol=1e-5, atol=2e-6)


@functools.cache
def base():
  return table.base_params()


@functools.cache
def plain():
  """The encoder alone, jitted."""
  return quick_jit(lambda params: ENCODER.apply({'params': params}, TOKENS).tokens)


@functools.cache
def setup(name):
  """(spec, fresh state, busy state, jitted: state, ids -> tokens, gradients of what the rows of task 'a' give)."""
  spec = table.spec_of(name)
  fresh = adapters.init_adapters(jax.random.key(0), ENCODER, base(), spec, TOKENS)
  return spec, fresh, table.busy(fresh), program(spec)


def program(spec, **fields):
  forward = adapters.bind(ENCODER.clone(**fields), spec)

  @quick_jit
  def run(base, state, ids):
    def first_task(state):
      tokens = forward(base, state, TOKENS, ctx=Ctx(task_id=ids))[0].tokens
      return jnp.sum(jnp.where(ids == 0, jnp.sum(tokens**2 * jnp.arange(8.0)[None, None], (1, 2)), 0)), tokens

    return jax.grad(first_task, has_aux=True)(state)

  return run


@pytest.mark.parametrize('name', CASES)
def test_begins_as_the_encoder_unless_said_otherwise(name):
  _, fresh, _, run = setup(name)
  tokens = run(base(), fresh, IDS)[1]
  assert np.allclose(tokens, plain()(base()), **CLOSE) == CASES[name].identity


@pytest.mark.parametrize('name', CASES)
def test_mixed_batch_is_the_batches_of_the_tasks(name):
  _, _, state, run = setup(name)
  mixed = run(base(), state, IDS)[1]
  for task in range(len(TASKS)):
    alone = run(base(), state, np.full_like(IDS, task))[1]
    np.testing.assert_allclose(mixed[IDS == task], alone[IDS == task], **CLOSE)
  assert not np.allclose(mixed[0], mixed[4], rtol=1e-3)  # one input, two tasks


@pytest.mark.parametrize('name', CASES)
def test_no_gradient_in_the_slots_of_other_tasks(name):
  spec, _, state, run = setup(name)
  gradient = run(base(), state, IDS)[0]
  commons = {leaf for rule in spec for leaf in rule.method.common}
  for path, leaf in tree.flatten({part: gradient[part] for part in ('adapters', 'shared')}).items():
    if path.rpartition('/')[2] not in commons:
      assert leaf.shape[0] == len(TASKS) and not np.any(leaf[1:]), path
      assert np.any(leaf[0]) or path.endswith('key/@bitfit/bias'), path  # the softmax does not see a key's bias


@pytest.mark.parametrize('name', CASES)
def test_scanned_and_rematerialised_layers_give_the_same(name):
  spec, _, state, run = setup(name)
  gradient, tokens = run(base(), state, IDS)
  scanned_gradient, scanned = program(spec, scan=True, remat=True)(base(), state, IDS)
  np.testing.assert_allclose(scanned, tokens, **CLOSE)
  # Gradients are sums over 100 numbers of products of order 10.
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-4), scanned_gradient, gradient)


@pytest.mark.parametrize('name', CASES)
def test_compiled_as_step_by_step(name):
  spec, _, state, run = setup(name)
  eager = adapters.bind(ENCODER, spec)(base(), state, TOKENS, ctx=Ctx(task_id=jnp.array(IDS)))[0].tokens
  np.testing.assert_allclose(eager, run(base(), state, IDS)[1], **CLOSE)


@pytest.mark.parametrize('name', CASES)
def test_merged_as_unmerged(name):
  spec, _, state, run = setup(name)
  if not CASES[name].merges:
    with pytest.raises(ValueError, match='cannot be merged'):
      adapters.merge(base(), state, spec, task='b')
    return
  merged = adapters.merge(base(), state, spec, task='b')
  assert jax.tree.structure(merged) == jax.tree.structure(base())
  np.testing.assert_allclose(plain()(merged)[IDS == 1], run(base(), state, IDS)[1][IDS == 1], **CLOSE)
  if CASES[name].merges == 'lost':
    with pytest.raises(ValueError, match='cannot be unmerged'):
      adapters.unmerge(merged, state, spec, task='b')
    return
  back = adapters.unmerge(merged, state, spec, task='b')
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **CLOSE), back, base())


@pytest.mark.parametrize('name', CASES)
def test_number_of_parameters(name):
  case, (spec, fresh, *_) = CASES[name], setup(name)
  found = adapters.find_sites(ENCODER, base(), spec, TOKENS)
  by_formula = sum(sum(map(rule.method.num_params, found[rule.name])) + rule.method.num_shared(found[rule.name])
                   for rule in spec)
  common = sum(rule.method.num_common(found[rule.name]) for rule in spec)
  assert (by_formula + common, common) == (case.num_params, case.common)
  assert tree.count(fresh['adapters']) + tree.count(fresh['shared']) == len(TASKS) * by_formula + common


@pytest.mark.parametrize('name', CASES)
def test_one_set_for_all_tasks_is_what_select_takes_out(name):
  spec, _, state, run = setup(name)
  state, spec = adapters.select(state, spec, 'a')
  tokens = adapters.bind(ENCODER, spec)(base(), state, TOKENS)[0].tokens  # no ctx is needed
  np.testing.assert_allclose(tokens[IDS == 0], run(base(), setup(name)[2], IDS)[1][IDS == 0], **CLOSE)
