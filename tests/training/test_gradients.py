"""The engine: absent tasks, gradients that are not finite, accumulation, cheaper statistics, the representation."""
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo

from mtjax import tree
from mtjax.objective import Losses
from mtjax.optim import base, stacked
from mtjax.training.gradients import losses_and_grads

KEY = jax.random.key(0)
EXACT = 5e-6  # relative, float32: sums in another order


@functools.cache
def problem():
  return zoo.Problem(zoo.TRUNKS['mlp'])


def run(engine, batch=None, state=None, params=None, jit=True, step=0):
  params = problem().params if params is None else params
  batch = problem().batch if batch is None else batch
  state = engine.init(params, batch) if state is None else state
  return (jax.jit(engine) if jit else engine)(params, state, batch, KEY, step)


def engine_of(method=None, objective=None, **options):
  return losses_and_grads(objective or problem(), method or zoo.toy(), num_tasks=3, **options)


def with_mask(mask):
  return problem().batch | {'mask': jnp.asarray(mask)}


# --- tasks that are not there


@pytest.mark.parametrize('needs', ['losses', 'gramian', 'jacobian'])
def test_an_absent_task_is_as_if_it_were_not_there_and_nothing_is_compiled_again(needs):
  engine = engine_of(zoo.toy(needs))
  step = jax.jit(engine)
  args = problem().params, engine.init(problem().params, problem().batch)
  whole = step(*args, problem().batch, KEY, 0)
  mask = np.ones((4, 3), bool)
  mask[:, 1] = False
  part = step(*args, with_mask(mask), KEY, 0)
  assert step._cache_size() == 1
  assert part.losses.weights.tolist() == [4, 0, 4] and whole.losses.weights.tolist() == [4, 4, 4]
  jac = {path: x.at[1].set(0) for path, x in problem().jacobian().items()}
  w = problem()(problem().params, problem().batch, None, 0).values.at[1].set(0)
  w = w if needs == 'losses' else zoo.toy_weights(problem().gram(jac))
  assert zoo.worst(part.gradient, problem().expected(w, jac)) < EXACT
  assert not part.gradient['heads']['t1'].any()


@pytest.mark.parametrize('plan', ['jacobian', 'tape', 'probe'])
def test_a_loss_that_is_not_finite_is_left_out_and_counted(plan):
  batch = problem().batch | {'y': problem().batch['y'].at[2, 0].set(jnp.nan)}
  step = run(engine_of(plan=plan), batch)
  jac = {path: x.at[0].set(0) for path, x in problem().jacobian().items()}
  assert zoo.worst(step.gradient, problem().expected(zoo.toy_weights(problem().gram(jac)), jac)) < EXACT
  assert step.state.bad.tolist() == [1, 0, 0] and step.diagnostics.masked.tolist() == [1, 0, 0]
  assert step.losses.weights.tolist() == [0, 4, 4] and np.isfinite(step.losses.sums).all()


@pytest.mark.parametrize('plan', ['jacobian', 'tape', 'probe'])
def test_a_gradient_that_is_not_finite_only_in_the_trunk_is_left_out(plan):
  """Only task 2's gradient overflows, and only within the trunk: 1e30 at z, times 1e10."""
  p = problem()

  def objective(params, batch, rng, step):
    z = 1e10 * p.trunk.apply({'params': params['trunk']}, batch['x'])
    heads = [jnp.tanh(1e-10 * z @ params['heads'][f't{t}']) for t in range(3)]
    sums = [jnp.sum((h - batch['y'][:, t]) ** 2) for t, h in enumerate(heads)]
    return Losses(jnp.stack([sums[0], sums[1], sums[2] + 1e20 * jnp.sum(z)]), jnp.full(3, 4.0))

  step = run(engine_of(objective=objective, plan=plan))
  assert step.state.bad.tolist() == [0, 0, 1]
  jac = {path: x.at[2].set(0) for path, x in problem_without_factors().items()}
  assert zoo.worst(step.gradient, p.expected(zoo.toy_weights(p.gram(jac)), jac)) < 10 * EXACT


def problem_without_factors():
  """The Jacobian of the same losses without the overflow."""
  p = problem()

  def plain(params):
    z = p.trunk.apply({'params': params['trunk']}, p.batch['x'])
    heads = [jnp.tanh(z @ params['heads'][f't{t}']) for t in range(3)]
    return jnp.stack([jnp.mean((h - p.batch['y'][:, t]) ** 2) for t, h in enumerate(heads)])

  return tree.flatten(jax.jacrev(plain)(p.params))


# --- accumulation


@pytest.mark.parametrize('needs', ['losses', 'gramian', 'jacobian'])
def test_micro_batches_give_the_large_batch_whatever_labels_they_hold(needs):
  mask = np.ones((4, 3), bool)
  mask[0, 1] = mask[2, 1] = mask[3, 0] = mask[1, 2] = mask[3, 2] = False  # micro-batch 0 of 2 has no row of task 1
  batch = with_mask(mask)
  whole = run(engine_of(zoo.toy(needs)), batch)
  for parts in (2, 4):
    step = run(engine_of(zoo.toy(needs), accumulate=parts), batch)
    assert zoo.worst(step.gradient, whole.gradient) < EXACT
    np.testing.assert_allclose(step.losses.values, whole.losses.values, rtol=1e-6)


# --- cheaper statistics


def test_every_k_uses_the_weights_again_in_between():
  p, engine = problem(), engine_of(every_k=3)
  step, state = jax.jit(engine), engine.init(p.params)
  other = p.batch | {'x': p.batch['x'][::-1] * 0.5}
  first = step(p.params, state, p.batch, KEY, 0)
  second = step(p.params, first.state, other, KEY, 1)
  w = zoo.toy_weights(p.gram())
  assert zoo.worst(second.gradient, p.expected(w, p.jacobian(other))) < EXACT
  assert second.diagnostics.gramians == 0 and first.diagnostics.gramians == 1
  third = step(p.params, second.state, other, KEY, 2)
  fourth = step(p.params, third.state, other, KEY, 3)
  fresh = zoo.toy_weights(p.gram(p.jacobian(other)))
  np.testing.assert_allclose(third.state.weights, w, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(fourth.state.weights, fresh, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('options', [dict(sub_batch=0.5), dict(layers=('fc2',)), dict(sketch=50), dict(plan='jacobian'),
                                     dict(plan='probe'), dict(ema=0.5)], ids=lambda x: next(iter(x)))
def test_every_k_goes_with_the_other_options(options):
  fresh = run(engine_of(**options))
  p, engine = problem(), engine_of(every_k=2, **options)
  step, state = jax.jit(engine), engine.init(problem().params)
  first = step(p.params, state, p.batch, KEY, 0)
  second = step(p.params, first.state, p.batch, KEY, 0)
  for again in (first, second):
    assert zoo.worst(again.gradient, fresh.gradient) < EXACT
    np.testing.assert_allclose(again.losses.values, fresh.losses.values, rtol=1e-6)


def test_sub_batch_takes_the_gramian_of_some_rows_and_moves_by_all():
  part = jax.tree.map(lambda x: x[::2], problem().batch)
  w = zoo.toy_weights(problem().gram(problem().jacobian(part)))
  assert zoo.worst(run(engine_of(sub_batch=0.5)).gradient, problem().expected(w)) < EXACT


@pytest.mark.parametrize('every_k', [1, 2])
def test_a_task_without_a_row_in_the_sub_batch_keeps_its_loss(every_k):
  mask = np.ones((4, 3), bool)
  mask[::2, 1] = False  # the rows that sub_batch=0.5 takes
  batch = with_mask(mask)
  step, whole = run(engine_of(sub_batch=0.5, every_k=every_k), batch), run(engine_of(), batch)
  np.testing.assert_allclose(step.losses.values, whole.losses.values, rtol=1e-6)
  assert step.state.weights[1] == 0 and step.losses.active.all()


def test_layers_takes_the_gramian_of_some_parameters_and_passes_nothing_further_back():
  engine = engine_of(layers=('fc2',))
  w = zoo.toy_weights(problem().gram(keep='trunk/fc2'))
  assert zoo.worst(run(engine).gradient, problem().expected(w)) < EXACT
  with pytest.raises(ValueError, match=r"Pattern 'fc3' matches no parameter"):
    run(engine_of(layers=('fc3',)), jit=False)


def test_sketch_estimates_the_gramian():
  exact = zoo.toy_weights(problem().gram())
  step = run(engine_of(sketch=4000))
  np.testing.assert_allclose(step.state.weights, exact, atol=0.1)  # relative error sqrt(2 / 4000) = 0.022 an entry
  assert not np.allclose(step.state.weights, exact, atol=1e-6)


def test_ema_averages_the_gramian():
  p, engine = problem(), engine_of(ema=0.75)
  step, state = jax.jit(engine), engine.init(p.params)
  other = p.batch | {'x': p.batch['x'] * 0.5}
  first = step(p.params, state, p.batch, KEY, 0)
  second = step(p.params, first.state, other, KEY, 1)
  average = 0.75 * p.gram() + 0.25 * p.gram(p.jacobian(other))
  np.testing.assert_allclose(first.state.gram, p.gram(), rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(second.state.gram, average, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(second.state.weights, zoo.toy_weights(average), rtol=1e-4, atol=1e-6)


def test_group_merges_tasks_that_agree():
  """Cosines here: tasks 0 and 1 disagree, 2 stands apart. With a threshold below the largest, two become one row."""
  gram = problem().gram()
  norms = jnp.sqrt(jnp.diag(gram))
  cosine = np.array(gram / norms[:, None] / norms[None, :])
  i, j = divmod(int(np.argmax(cosine - 2 * np.eye(3))), 3)
  i, j = min(i, j), max(i, j)
  members = jnp.eye(3).at[i, j].set(1).at[j].set(0)
  merged = members @ gram @ members.T
  expected = zoo.toy_weights(merged)
  expected = jnp.where(jnp.arange(3) == j, 0, expected) @ members
  below = sorted(cosine[np.triu_indices(3, 1)])[-2:]
  step = run(engine_of(group=float(np.mean(below))))
  np.testing.assert_allclose(step.state.weights, expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_allclose(run(engine_of(group=0.999)).state.weights, zoo.toy_weights(gram), rtol=1e-4, atol=1e-5)


# --- the representation


def test_features_uses_the_gramian_of_the_representation_and_one_backward_pass():
  p = problem()

  def of_z(z):
    return jnp.stack([jnp.mean((jnp.tanh(z @ p.params['heads'][f't{t}']) * (1 + t) - p.batch['y'][:, t]) ** 2)
                      for t in range(3)])

  rows = jax.jacrev(of_z)(p.trunk.apply({'params': p.params['trunk']}, p.batch['x']))
  w = zoo.toy_weights(stacked.gramian({'z': rows}))
  step = run(engine_of(at='features'))
  assert zoo.worst(step.gradient, p.expected(w)) < EXACT
  # A method that needs all of J sees dl/dz, and what it makes of it goes back through the trunk.
  step = run(engine_of(zoo.toy('jacobian'), at='features'))
  assert zoo.worst(step.gradient, p.expected(w)) < EXACT
  engine = engine_of(at='features')
  text = str(jax.make_jaxpr(engine)(p.params, engine.init(p.params), p.batch, KEY, 0))
  kernels = [shape for shape in re.findall(r':f32\[([\d,]*)\] = dot_general', text) if {'5', '6'} <= set(shape.split(','))]
  assert len(kernels) == 1 and kernels[0].count(',') == 1, 'one gradient of the second kernel, not three'


# --- tasks with rows of their own


def streams():
  p = problem()
  return {f's{t}': {'x': p.batch['x'] * (1 + t), 'y': p.batch['y'][:, t]} for t in range(3)}


def by_stream(params, batch, rng, step):
  """Task t reads stream t; all rows go through the trunk together."""
  del rng, step
  p = problem()
  names = list(batch)
  z = p.trunk.apply({'params': params['trunk']}, jnp.concatenate([batch[name]['x'] for name in names]))
  pairs = {}
  for i, name in enumerate(names):
    rows = len(batch[name]['x'])
    own = z[rows * i:rows * i + rows] @ params['heads'][f't{name[1]}']
    pairs[name] = jnp.sum((jnp.tanh(own) - batch[name]['y']) ** 2), jnp.array(rows, jnp.float32)
  zero = jnp.zeros(()), jnp.zeros(())
  return Losses(*(jnp.stack(values) for values in zip(*(pairs.get(f's{t}', zero) for t in range(3)))))


def test_tasks_with_rows_of_their_own_cost_what_the_sum_costs():
  p, batch = problem(), streams()
  jac = tree.flatten(jax.jacrev(lambda params: by_stream(params, batch, None, 0).values)(p.params))
  expected = p.expected(zoo.toy_weights(p.gram(jac)), jac)
  for needs in ('gramian', 'jacobian'):
    engine = engine_of(zoo.toy(needs), by_stream)
    ratio = float(re.search(r'disjoint \(chosen\) +([\d.]+)', engine.describe(p.params, batch)).group(1))
    assert 1 <= ratio < 2  # the products of the sum, and those of Gramian and update, not small beside 12 rows
    assert zoo.worst(run(engine, batch).gradient, expected) < EXACT
    assert zoo.worst(run(engine_of(zoo.toy(needs), by_stream, accumulate=2), batch).gradient, expected) < EXACT
  assert zoo.worst(run(engine_of(objective=by_stream, plan='tape'), batch).gradient, expected) < EXACT
  with pytest.raises(ValueError, match="'gradients.plan' is 'disjoint', but the tasks of this batch share rows"):
    run(engine_of(plan='disjoint'), jit=False)


# --- two samples, losses after the step, what is learnt of heads


def test_double_sampling_multiplies_the_gradients_of_two_halves():
  seen = []
  method = base.from_weights(lambda state, info: (info.gramian.sum(1), state), name='double', needs='gramian',
                             double_sampling=True)
  step = run(engine_of(method))
  halves = [problem().jacobian(jax.tree.map(lambda x, k=k: x[k::2], problem().batch)) for k in range(2)]
  one, other = ({path: x for path, x in jac.items() if path.startswith('trunk/')} for jac in halves)
  w = stacked.cross_gramian(one, other).sum(1)
  assert zoo.worst(step.gradient, problem().expected(w)) < EXACT
  del seen


def test_methods_that_look_at_the_same_batch_again_are_shown_its_losses():
  method = base.from_weights(
    lambda state, info: (jnp.ones(3), state), name='after', needs='losses', init=lambda n: jnp.zeros(n),
    observe=lambda state, losses, active: losses, observes='losses_after')
  engine = losses_and_grads(problem(), method, num_tasks=3, task_weights=[1.0, 2.0, 3.0])
  state = engine.init(problem().params)
  moved = jax.tree.map(lambda x: 0.9 * x, problem().params)
  state = engine.observe(moved, state, problem().batch, KEY, 0)
  expected = problem()(moved, problem().batch, None, 0).values * jnp.array([1.0, 2.0, 3.0])
  np.testing.assert_allclose(state.aggregator.inner, expected, rtol=1e-6)


def test_task_weights_scale_the_losses_before_anything_else():
  weights = jnp.array([1.0, 0.5, 2.0])
  jac = {path: x * weights.reshape(-1, *[1] * (x.ndim - 1)) for path, x in problem().jacobian().items()}
  step = run(engine_of(task_weights=weights))
  assert zoo.worst(step.gradient, problem().expected(zoo.toy_weights(problem().gram(jac)), jac)) < EXACT


def test_heads_are_scaled_where_the_weight_is_said_to_multiply_the_whole_loss():
  method = base.from_weights(lambda state, info: (jnp.array([1.0, 2.0, -1.0]), state), name='w', needs='gramian',
                             scale_heads=True)
  jac = problem().jacobian()
  for plan in ('tape', 'jacobian'):
    step = run(engine_of(method, plan=plan))
    for t, factor in enumerate([1.0, 2.0, -1.0]):
      np.testing.assert_allclose(step.gradient['heads'][f't{t}'], factor * jac[f'heads/t{t}'][t], rtol=1e-5, atol=1e-6)


def test_frozen_parameters_are_not_differentiated():
  frozen = ('trunk/fc1/kernel', 'trunk/fc1/bias')
  trainable = {path: path not in frozen for path in tree.flatten(problem().params)}
  engine = engine_of(trainable=trainable)
  step = run(engine)
  assert set(tree.flatten(step.gradient)) == {path for path, yes in trainable.items() if yes}
  jac = {path: x for path, x in problem().jacobian().items() if trainable[path]}
  assert zoo.worst(step.gradient, problem().expected(zoo.toy_weights(problem().gram(jac)), jac)) < EXACT


# --- errors

ERRORS = [
  (dict(plan='tapes'), 'gramian', "Unknown 'gradients.plan' 'tapes'. Did you mean 'tape'?"),
  (dict(plan='tape'), 'jacobian', "'gradients.plan' is 'tape', which toy cannot use: it needs the jacobian. Allowed: auto"),
  (dict(plan='jacobian'), 'losses', "which toy cannot use: it needs the losses. Allowed: auto, losses"),
  (dict(every_k=0), 'gramian', "'gradients.every_k' must be a whole number >= 1, got 0"),
  (dict(sub_batch=0.0), 'gramian', r"'gradients.sub_batch' must be in \(0, 1\], got 0.0"),
  (dict(sub_batch=0.5), 'jacobian', "'gradients.sub_batch' makes a Gramian cheaper, but toy needs the jacobian"),
  (dict(ema=1.0), 'gramian', r"'gradients.ema' must be in \[0, 1\), got 1.0"),
  (dict(sketch=4, sub_batch=0.5), 'gramian', "are two ways to get the Gramian; choose one"),
  (dict(at='feature'), 'gramian', "Unknown 'gradients.at' 'feature'. Did you mean 'features'?"),
  (dict(at='features'), 'losses', "'gradients.at' is 'features', but toy looks at no representation"),
  (dict(at='features', layers=('a',)), 'gramian', "'gradients.layers' concerns parameters"),
  (dict(plan='probe', layers=('a',)), 'gramian', "'gradients.plan' is 'probe', which 'gradients.layers' does not use"),
]


@pytest.mark.parametrize('options,needs,text', ERRORS, ids=lambda x: str(x)[:30])
def test_options_that_a_method_cannot_use_are_errors(options, needs, text):
  with pytest.raises(ValueError, match=text):
    engine_of(zoo.toy(needs), **options)


def test_one_task_has_no_conflict():
  with pytest.raises(ValueError, match='toy resolves conflict between tasks, but there is only one task'):
    losses_and_grads(problem(), zoo.toy(), num_tasks=1)
  losses_and_grads(problem(), zoo.toy('losses'), num_tasks=1)


def test_micro_batches_must_divide_the_batch():
  with pytest.raises(ValueError, match="'gradients.accumulate': 3 parts do not divide the 4 rows of a batch"):
    run(engine_of(accumulate=3), jit=False)


def test_a_convolution_is_never_put_into_a_loop_over_tasks_unasked():
  """XLA runs convolutions in a loop on a CPU some 30 times slower than outside of one."""
  p = zoo.Problem(zoo.TRUNKS['images'])

  def loops(**options):
    engine = losses_and_grads(p, zoo.toy(), num_tasks=3, **options)
    program = jax.make_jaxpr(engine)(p.params, engine.init(p.params, p.batch), p.batch, KEY, 0)
    return any(eqn.primitive.name == 'scan' and 'conv_general_dilated' in str(eqn.params['jaxpr'])
               for eqn in program.eqns)

  assert not loops() and loops(chunk=1)
