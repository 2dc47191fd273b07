"""Every plan gives the gradients of the obvious way, on every kind of layer."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from mtjax import tree
from mtjax.autodiff import graph
from mtjax.training.engine import cost, passes, plans
from mtjax.training.gradients import losses_and_grads

EXACT = 1e-6  # relative, float32: sums in another order


@functools.cache
def problem(name):
  return zoo.Problem(zoo.TRUNKS[name])


@functools.cache
def reference(name):
  """(G, gradient, weights) by jacrev."""
  p = problem(name)
  jac = p.jacobian()
  gram = p.gram(jac)
  w = zoo.toy_weights(gram)
  return gram, p.expected(w, jac), w


def evidence(p, run):
  """(G, update with the toy weights) of a plan called by itself."""
  leaves = tree.flatten(p.params)
  objective = lambda leaves, batch: p(tree.unflatten(leaves), batch, None, 0)

  @jax.jit
  def both(leaves):
    g, inputs = graph.trace(objective, leaves, p.batch)
    found = run(g, passes.prepare(g, leaves, inputs), leaves,
                lambda found: found.scale(g, 1 / found.normalisers), zoo.NUM_TASKS)
    gram = found.gramian()
    return gram, found.combine(zoo.toy_weights(gram))

  return both(leaves)


@pytest.mark.parametrize('name,plan,form', [
  *((name, plan, 'inner') for name in zoo.TRUNKS for plan in ('tape', 'probe')),
  ('mlp', 'probe', 'direct'), ('tokens', 'probe', 'direct'), ('scan', 'probe', 'direct')])
def test_tape_and_probe_are_the_explicit_jacobian(name, plan, form):
  p = problem(name)
  gram, gradient, _ = reference(name)
  run = {'tape': plans.by_tape, 'probe': plans.by_probe}[plan]
  paths = [path for path in tree.flatten(p.params) if path.startswith('trunk/')]
  found, update = evidence(p, functools.partial(run, forms=dict.fromkeys(paths, form)))
  np.testing.assert_allclose(found, gram, atol=EXACT * float(jnp.abs(gram).max()))
  assert found.dtype == jnp.float32
  assert zoo.worst(update, {path: gradient[path] for path in paths}) < 5 * EXACT


@pytest.mark.parametrize('name', ['mlp', 'scan'])
@pytest.mark.parametrize('plan,chunk', [('jacobian', 1), ('jacobian', 2), ('jacobian', 8), ('tape', 1), ('auto', None)])
def test_the_engine_agrees_whatever_the_plan_and_chunk(name, plan, chunk):
  p = problem(name)
  engine = losses_and_grads(p, zoo.toy(), num_tasks=3, plan=plan, chunk=chunk)
  step = jax.jit(engine)(p.params, engine.init(p.params), p.batch, jax.random.key(0), 0)
  _, gradient, w = reference(name)
  assert zoo.worst(step.gradient, gradient) < 5 * EXACT
  np.testing.assert_allclose(step.state.weights, w, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(step.losses.values, p(p.params, p.batch, None, 0).values, rtol=1e-6)


SITES = {  # (leaves that have a short form, how many of them the probe can take too)
  'mlp': (2, 2), 'general': (3, 3), 'images': (0, 0), 'tokens': (2, 2), 'tied': (1, 1), 'twice': (2, 0),
  'transformer': (9, 9), 'remat': (9, 9), 'scan': (9, 9),
}


@pytest.mark.parametrize('name', zoo.TRUNKS)
def test_which_leaves_have_a_short_form(name):
  p = problem(name)
  g, _ = graph.trace(lambda leaves, batch: p(tree.unflatten(leaves), batch, None, 0), tree.flatten(p.params), p.batch)
  assert (len(plans.tape_uses(g)), len(plans.probe_uses(g))) == SITES[name]


def test_shared_and_owned_parameters_are_told_apart_by_the_graph():
  p = problem('mlp')
  g, _ = graph.trace(lambda leaves, batch: p(tree.unflatten(leaves), batch, None, 0), tree.flatten(p.params), p.batch)
  assert g.owned == {'heads/t0': 0, 'heads/t1': 1, 'heads/t2': 2}
  assert set(g.shared) == {f'trunk/fc{i}/{kind}' for i in (1, 2) for kind in ('kernel', 'bias')}
  assert [var.aval.shape for var in g.trunk.outputs] == [(4, 5)]  # the representation


def test_a_parameter_that_heads_read_too_gets_both_shares():
  """The kernel of the trunk is read again by the head of task 2, past the representation."""
  p = problem('mlp')

  def objective(params, batch, rng, step):
    losses = p(params, batch, rng, step)
    again = jnp.sum(params['trunk']['fc1']['kernel'] ** 3)
    return losses.replace(sums=jnp.stack([losses.sums[0], losses.sums[1], losses.sums[2] + 4 * again]))

  jac = tree.flatten(jax.jacrev(lambda params: objective(params, p.batch, None, 0).values)(p.params))
  gram = p.gram(jac)
  for plan in ('tape', 'probe', 'jacobian'):
    engine = losses_and_grads(objective, zoo.toy(), num_tasks=3, plan=plan)
    step = jax.jit(engine)(p.params, engine.init(p.params), p.batch, jax.random.key(0), 0)
    assert zoo.worst(step.gradient, p.expected(zoo.toy_weights(gram), jac)) < 5 * EXACT


def test_losses_that_cannot_be_taken_apart_make_every_parameter_shared():
  """Heads computed as one array: all tasks reach all of it as far as the graph tells; the result is still exact."""
  p = problem('mlp')

  def objective(params, batch, rng, step):
    z = p.trunk.apply({'params': params['trunk']}, batch['x'])
    kernel = jnp.stack([params['heads'][f't{t}'] for t in range(3)], 1)
    return zoo.Losses(jnp.sum((jnp.tanh(z @ kernel) - batch['y']) ** 2, 0), jnp.full(3, 4.0))

  jac = tree.flatten(jax.jacrev(lambda params: objective(params, p.batch, None, 0).values)(p.params))
  gram = p.gram(jac, '')
  expected = {path: jnp.tensordot(zoo.toy_weights(gram), x, 1) for path, x in jac.items()}
  engine = losses_and_grads(objective, zoo.toy(), num_tasks=3)
  step = jax.jit(engine)(p.params, engine.init(p.params), p.batch, jax.random.key(0), 0)
  assert zoo.worst(step.gradient, expected) < 5 * EXACT


def test_bfloat16_activations_keep_the_gramian_in_float32():
  p = problem('mlp')

  def objective(params, batch, rng, step):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (params['trunk'], batch['x']))
    z = p.trunk.apply({'params': half[0]}, half[1]).astype(jnp.float32)
    sums = [jnp.sum((jnp.tanh(z @ params['heads'][f't{t}']) - batch['y'][:, t]) ** 2) for t in range(3)]
    return zoo.Losses(jnp.stack(sums), jnp.full(3, 4.0))

  leaves = tree.flatten(p.params)
  for run in (plans.by_tape, plans.by_probe):
    seen = {}

    def both(leaves, run=run, seen=seen):
      g, inputs = graph.trace(lambda leaves, batch: objective(tree.unflatten(leaves), batch, None, 0), leaves, p.batch)
      forms = dict.fromkeys(g.shared, 'inner')
      found = run(g, passes.prepare(g, leaves, inputs), leaves, lambda f: f.scale(g, 1 / f.normalisers), 8, forms=forms)
      seen.update(uses=plans.tape_uses(g))
      return found.gramian()

    gram = jax.jit(both)(leaves)
    assert gram.dtype == jnp.float32 and len(seen['uses']) == 2
    jac = tree.flatten(jax.jacrev(lambda params: objective(params, p.batch, None, 0).values)(p.params))
    exact = p.gram(jac)
    np.testing.assert_allclose(gram, exact, rtol=0.02, atol=0.01 * float(jnp.abs(exact).max()))  # bf16 has 8 bits


def test_the_tape_keeps_less_memory_than_the_jacobian():
  trunk = zoo.nn.Sequential([zoo.nn.Dense(256), zoo.nn.tanh, zoo.nn.Dense(256), zoo.nn.tanh])
  p = zoo.Problem(trunk)
  size = {}
  for plan in ('tape', 'probe', 'jacobian'):
    engine = losses_and_grads(p, zoo.toy(), num_tasks=3, plan=plan)
    args = p.params, engine.init(p.params), p.batch, jax.random.key(0), 0
    memory = jax.jit(engine).lower(*args).compile().memory_analysis()
    size[plan] = memory.temp_size_in_bytes
  assert size['tape'] < 0.5 * size['jacobian'] and size['probe'] < 0.5 * size['jacobian']


def test_costs_are_counted_right_on_a_small_network():
  p = problem('mlp')  # x [4, 4] -> 6 -> 5, 3 tasks
  leaves = tree.flatten(p.params)
  g, _ = graph.trace(lambda leaves, batch: p(tree.unflatten(leaves), batch, None, 0), leaves, p.batch)
  forward, activations, weights = cost.counts(g)
  assert forward == 2 * 4 * (4 * 6 + 6 * 5)
  assert activations == 2 * 4 * 6 * 5  # the input of the first layer needs none
  assert weights == {'trunk/fc1/kernel': 2 * 4 * 4 * 6, 'trunk/fc2/kernel': 2 * 4 * 6 * 5}
  plain = cost.predict(g, leaves, 'losses', {})
  assert plain.flops == forward + activations + sum(weights.values()) and plain.memory == 0
  numbers = 4 * 6 + 6 + 6 * 5 + 5
  stacks = cost.predict(g, leaves, 'jacobian', {})
  assert stacks.flops == forward + 3 * (activations + sum(weights.values())) + (2 * 9 + 2 * 3) * numbers
  assert stacks.memory == 4 * 3 * numbers
  use = plans.tape_uses(g)['trunk/fc1/kernel']
  inner = cost.inner_form(use, 3)
  assert inner.flops == 2 * 4 * 4 * 4 + 2 * 3 * 4 * 4 * 6 + 2 * 9 * 4 * 6 + 2 * 4 * 4 * 6 + 2 * 3 * 4 * 6
  assert inner.memory == 4 * 3 * 4 * 6
