"""What the aggregators with a state promise: absent tasks, awkward inputs, dtypes, jit, states of constant shape."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import stateful

from mtjax import optim


def of_tasks(values, keep):
  """The entries of some tasks, scaled to sum 1."""
  chosen = np.asarray(values)[list(keep)]
  return tuple(chosen / chosen.sum())


# Each factory gets the tasks that there are, out of three, for what it is told about each.
METHODS = {
  'sdmgrad': lambda keep: optim.sdmgrad(),
  'sdmgrad_preference': lambda keep: optim.sdmgrad(preference=of_tasks((0.5, 0.3, 0.2), keep), lambda_=2.0),
  'modo': lambda keep: optim.modo(gamma=0.1),
  'moco': lambda keep: optim.moco(),
  'moco_libmtl': lambda keep: optim.moco(variant='libmtl', rho=0.1),
  'db_mtl': lambda keep: optim.db_mtl(),
  'db_mtl_average': lambda keep: optim.db_mtl(beta=0.5, sigma=0.5),
  'excess_mtl': lambda keep: optim.excess_mtl(eta=0.5),
  'excess_mtl_raw': lambda keep: optim.excess_mtl(eta=0.5, first='raw', total='tasks'),
  'excess_mtl_leaf': lambda keep: optim.excess_mtl(eta=0.5, per='leaf', warmup_steps=2),
  'graddrop': lambda keep: optim.graddrop(leak=tuple(np.array([0.0, 0.5, 0.2])[list(keep)])),
  'graddrop_feature': lambda keep: optim.graddrop(per='feature'),
  'rotograd': lambda keep: optim.rotograd(burn_in=2),
  'unmixed': lambda keep: optim.unmixed(of_tasks((0.5, 0.3, 0.2), keep)),
}
ALL = (0, 1, 2)
RNG = np.random.default_rng(0)
STEPS = RNG.normal(size=(4, 3, 6)) * [[[1.0], [3.0], [0.5]]]
LOSSES = RNG.uniform(0.5, 3.0, size=(4, 3))
PARAMS = RNG.normal(size=6)


class Runner:
  """One method, with its update compiled once per shape and dtype."""

  def __init__(self, name, keep=ALL):
    self.tx, self.keep = METHODS[name](keep), list(keep)
    self.step = jax.jit(lambda jac, state, params, losses, active: self.tx.aggregate(
      jac, state, params, losses=losses, active=active))

  def __call__(self, steps, dtype=jnp.float32, active=None, losses=LOSSES, state=None):
    """[(d [6], w [T] or None, state)] over the steps."""
    params, out = stateful.as_tree(PARAMS, dtype), []
    state = self.tx.init(params, len(steps[0])) if state is None else state
    for jac, loss in zip(steps, losses):
      mask = jnp.ones(len(jac), bool) if active is None else jnp.asarray(active)
      d, w, state = self.step(stateful.as_tree(jac, dtype), state, params, jnp.asarray(loss, dtype), mask)
      out.append((stateful.as_matrix(d), None if w is None else np.asarray(w), state))
    return out


@pytest.fixture(scope='module')
def runners():
  return {name: Runner(name) for name in METHODS}


@pytest.mark.parametrize('name', METHODS)
def test_masking_a_task_is_deleting_its_row(runners, name):
  gone, rest = 1, [0, 2]
  jac, losses = STEPS.copy(), LOSSES.copy()
  jac[:, gone], losses[:, gone] = np.nan, np.nan
  masked = runners[name](jac, active=np.arange(3) != gone, losses=losses)
  deleted = Runner(name, rest)(STEPS[:, rest], losses=LOSSES[:, rest])
  for (d, w, _), (d_rest, w_rest, _) in zip(masked, deleted):
    # float32: sums over three and over two rows round differently
    np.testing.assert_allclose(d, d_rest, rtol=1e-5, atol=1e-6)
    if w is not None:
      assert w[gone] == 0
      np.testing.assert_allclose(w[rest], w_rest, rtol=1e-5, atol=1e-6)
  assert not any(np.isnan(x).any() for x in jax.tree.leaves(masked[-1][2]))


@pytest.mark.parametrize('name', METHODS)
def test_a_task_that_returns_finds_the_others_unharmed(runners, name):
  run = runners[name]
  state = run(STEPS[:1], active=[True, False, True])[-1][2]
  for d, w, _ in run(STEPS[1:], state=state):
    assert np.isfinite(d).all() and (w is None or np.isfinite(w).all())
  d, w, _ = run(STEPS[:1], active=[False] * 3)[-1]
  assert not d.any() and (w is None or not w.any())


@pytest.mark.parametrize('name', METHODS)
def test_awkward_inputs_are_finite_in_float32(runners, name):
  zero_row, same = STEPS.copy(), STEPS.copy()
  zero_row[:, 1], same[:, 2] = 0, same[:, 0]
  flat = STEPS * [1, 1, 0, 0, 0, 0]                                  # three tasks in two dimensions
  for steps in (zero_row, same, flat, 0 * STEPS, 1e-10 * STEPS, 1e10 * STEPS, np.concatenate([STEPS[:2], 0 * STEPS[:2]])):
    for d, w, state in runners[name](steps):
      assert np.isfinite(d).all() and (w is None or np.isfinite(w).all())
      assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
  for d, _, _ in runners[name](0 * STEPS):
    assert not d.any()


@pytest.mark.parametrize('name', METHODS)
def test_one_task(name):
  alone = Runner(name, [0])(STEPS[:, :1], losses=LOSSES[:, :1])
  for (d, w, _), jac, loss in zip(alone, STEPS[:, 0], LOSSES[:, 0]):
    if w is not None and name not in ('db_mtl', 'db_mtl_average'):  # whose weight is that of log(l)
      np.testing.assert_allclose(w, [1.0], rtol=1e-6)
    if name in ('sdmgrad', 'sdmgrad_preference', 'modo', 'excess_mtl', 'excess_mtl_raw', 'excess_mtl_leaf', 'graddrop',
                'rotograd', 'unmixed'):
      np.testing.assert_allclose(d, jac, rtol=1e-5)                  # the gradient itself
    elif name == 'db_mtl':
      np.testing.assert_allclose(d, jac / loss, rtol=1e-5)           # that of log(l)


@pytest.mark.parametrize('name', [name for name in METHODS if name not in ('unmixed', 'sdmgrad_preference', 'graddrop')])
def test_order_of_the_tasks_does_not_matter(runners, name):
  order = [2, 0, 1]
  for (d, _, _), (other, _, _) in zip(runners[name](STEPS), runners[name](STEPS[:, order], losses=LOSSES[:, order])):
    np.testing.assert_allclose(d, other, rtol=1e-4, atol=1e-5)       # float32


def shapes(state):
  return jax.tree.map(lambda x: (x.shape, str(x.dtype)), state)


@pytest.mark.parametrize('name', METHODS)
def test_float64_and_states_of_constant_shape(runners, name):
  run = runners[name]
  single = run(STEPS)
  assert all(shapes(state) == shapes(run.tx.init(stateful.as_tree(PARAMS), 3)) for _, _, state in single)
  with jax.enable_x64(True):
    double = run(STEPS, jnp.float64)
    assert all(shapes(state) == shapes(run.tx.init(stateful.as_tree(PARAMS, jnp.float64), 3)) for _, _, state in double)
  if name not in ('graddrop', 'graddrop_feature', 'unmixed'):        # whose draws differ between the dtypes
    for (d, w, _), (double_d, double_w, _) in zip(single, double):
      assert w.dtype == np.float32 and double_w.dtype == np.float64
      np.testing.assert_allclose(d, double_d, rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize('name', METHODS)
def test_jit_is_eager_and_an_unknown_number_of_tasks_is_learnt(runners, name):
  run = runners[name]
  params, jac, losses = stateful.as_tree(PARAMS), stateful.as_tree(STEPS[0]), jnp.asarray(LOSSES[0], jnp.float32)
  d, state = run.tx.update(jac, run.tx.init(params), params, losses=losses)
  compiled, w, compiled_state = run(STEPS[:1])[0]                    # where the number was given to init
  assert shapes(state) == shapes(compiled_state)
  np.testing.assert_allclose(stateful.as_matrix(d), compiled, rtol=1e-5, atol=1e-6)  # float32, fused differently
  for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(compiled_state)):
    np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
  assert hasattr(run.tx, 'weights') == (run.tx.needs != 'jacobian')
  if hasattr(run.tx, 'weights'):
    info = optim.Info(gramian=optim.gramian(jac), losses=losses)
    again, _ = run.tx.weights(run.tx.init(params), info)
    np.testing.assert_allclose(again, w, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(w @ STEPS[0], compiled, rtol=1e-4, atol=1e-5)          # d = J^T w
  head_weights = run.tx.head_weights(None if w is None else jnp.asarray(w), optim.Info(losses=losses))
  assert head_weights.shape == (3,) and np.isfinite(head_weights).all()


def test_bfloat16_gradients_keep_a_float32_state_and_give_bfloat16_updates():
  for name in ('moco', 'db_mtl_average', 'excess_mtl', 'graddrop'):
    tx, params = METHODS[name](ALL), stateful.as_tree(PARAMS, jnp.bfloat16)
    d, state = tx.update(stateful.as_tree(STEPS[0], jnp.bfloat16), tx.init(params), params,
                         losses=jnp.asarray(LOSSES[0], jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves(d)} == {jnp.dtype('bfloat16')}
    assert jnp.dtype('bfloat16') not in {leaf.dtype for leaf in jax.tree.leaves(state)}


def test_they_chain_with_optax_inside_scan():
  tx = optax.chain(optim.moco(), optim.tbgn(0.1))
  params = stateful.as_tree(PARAMS)
  first = optim.moco().init(params, 3), *tx.init(params)[1:]

  def step(carry, jac):
    params, state = carry
    updates, state = tx.update(jac, state, params)
    return (optax.apply_updates(params, updates), state), None

  (moved, _), _ = jax.lax.scan(step, (params, first), stateful.as_tree(STEPS))
  assert np.isfinite(stateful.as_matrix(moved)).all() and (stateful.as_matrix(moved) != PARAMS).all()


@pytest.mark.parametrize('make, words', [
  (lambda: optim.sdmgrad(lambda_=-1.0), r'sdmgrad: lambda_ must be a finite number in \[0, inf\], got -1.0'),
  (lambda: optim.sdmgrad(learning_rate=0), r'sdmgrad: learning_rate must be a finite number in \(0, inf\], got 0'),
  (lambda: optim.sdmgrad(momentum=1.0), r'sdmgrad: momentum must be a finite number in \[0, 1\), got 1.0'),
  (lambda: optim.sdmgrad(num_iters=0), 'sdmgrad: num_iters must be a whole number >= 1, got 0'),
  (lambda: optim.sdmgrad(preference=(1, -1)), 'sdmgrad: preference must hold finite numbers >= 0'),
  (lambda: optim.modo(gamma=-1), 'modo: gamma must be'),
  (lambda: optim.modo(rho=-1), 'modo: rho must be'),
  (lambda: optim.moco(beta=0), r'moco: beta must be a finite number in \(0, 1\], got 0'),
  (lambda: optim.moco(gamma=-1), 'moco: gamma must be'),
  (lambda: optim.moco(sigma=-1), 'moco: sigma must be'),
  (lambda: optim.moco(rho=-1), 'moco: rho must be'),
  (lambda: optim.moco(variant='papers'), "moco: unknown variant 'papers'. Did you mean 'paper'"),
  (lambda: optim.db_mtl(beta=1.0), r'db_mtl: beta must be a finite number in \[0, 1\), got 1.0'),
  (lambda: optim.db_mtl(sigma=-1), 'db_mtl: sigma must be'),
  (lambda: optim.excess_mtl(eta=-1), 'excess_mtl: eta must be'),
  (lambda: optim.excess_mtl(total='two'), "excess_mtl: unknown total 'two'"),
  (lambda: optim.excess_mtl(first='last'), "excess_mtl: unknown first 'last'"),
  (lambda: optim.excess_mtl(warmup_steps=-1), 'excess_mtl: warmup_steps must be a whole number >= 0, got -1'),
  (lambda: optim.excess_mtl(per='row'), "excess_mtl: unknown per 'row'"),
  (lambda: optim.excess_mtl(first='raw', warmup_steps=3), 'Give one of the two'),
  (lambda: optim.graddrop(leak=1.5), r'graddrop: leak must be a finite number in \[0, 1\], got 1.5'),
  (lambda: optim.graddrop(leak=(0.5, -1)), 'graddrop: leak must be'),
  (lambda: optim.graddrop(per='row'), "graddrop: unknown per 'row'"),
  (lambda: optim.rotograd(burn_in=-1), 'rotograd: burn_in must be a whole number >= 0, got -1'),
  (lambda: optim.unmixed((0.5, 0.6)), r'unmixed: sampling must hold a ratio > 0 a task, summing to 1, got \[0.5, 0.6\]'),
  (lambda: optim.unmixed((1.0, 0.0)), 'unmixed: sampling must hold'),
])
def test_wrong_settings_are_named(make, words):
  with pytest.raises(ValueError, match=words):
    make()


@pytest.mark.parametrize('tx, words', [
  (optim.sdmgrad(preference=(1, 1)), r'sdmgrad: preference has 2 entries \[1.0, 1.0\], but there are 3 tasks'),
  (optim.unmixed((0.5, 0.5)), r'unmixed: sampling has 2 entries \[0.5, 0.5\], but there are 3 tasks'),
  (optim.graddrop(leak=(0.5, 0.5)), r'graddrop: leak has 2 entries \[0.5, 0.5\], but there are 3 tasks'),
])
def test_settings_of_other_numbers_of_tasks_are_refused(tx, words):
  params = stateful.as_tree(PARAMS)
  with pytest.raises(ValueError, match=words):
    tx.update(stateful.as_tree(STEPS[0]), tx.init(params), params, losses=jnp.ones(3))


@pytest.mark.parametrize('tx, words', [
  (optim.moco(variant='libmtl'), 'moco needs the losses too: pass losses='),
  (optim.db_mtl(), 'db_mtl needs the losses too'),
  (optim.db_mtl(beta=0.5), 'db_mtl needs the losses too'),
  (optim.unmixed((0.5, 0.3, 0.2)), 'unmixed weighs losses: pass losses='),
  (optim.graddrop(per='feature'), 'reads the signs of the representation: pass it as params'),
])
def test_what_a_method_needs_besides_is_asked_for(tx, words):
  params = stateful.as_tree(PARAMS)
  with pytest.raises(ValueError, match=words):
    tx.update(stateful.as_tree(STEPS[0]), tx.init(params))
