"""What every weighting owes: its entry ticket is a line in METHODS."""
import doctest
import functools
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtjax.optim
from mtjax.optim import Info, weightings

METHODS = {
  'ew': mtjax.optim.ew,
  'linear_scalarisation': functools.partial(mtjax.optim.linear_scalarisation, reduction='mean'),
  'si': mtjax.optim.si,
  'gls': mtjax.optim.gls,
  'rlw': functools.partial(mtjax.optim.rlw, seed=3),
  'rlw dirichlet': functools.partial(mtjax.optim.rlw, kind='dirichlet'),
  'rlw one_task': functools.partial(mtjax.optim.rlw, kind='one_task'),
  'uw': functools.partial(mtjax.optim.uw, learning_rate=optax.linear_schedule(0.2, 0.1, 4)),
  'imtl_l': functools.partial(mtjax.optim.imtl_l, learning_rate=0.1),
  'dwa': functools.partial(mtjax.optim.dwa, steps_per_epoch=2),
  'gradnorm': mtjax.optim.gradnorm,
  'gradnorm libmtl': functools.partial(mtjax.optim.gradnorm, variant='libmtl', steps_per_epoch=2),
  'famo': mtjax.optim.famo,
  'famo next': functools.partial(mtjax.optim.famo, after='next'),
  'famo validation': functools.partial(mtjax.optim.famo, after='validation'),
  'stch': functools.partial(mtjax.optim.stch, mu=0.5),
  'stch recipe': functools.partial(mtjax.optim.stch, mu=0.5, warmup_steps=2, nadir_steps=2),
  'tchebycheff': mtjax.optim.tchebycheff,
  'cosmos': mtjax.optim.cosmos,
  'pbi': mtjax.optim.pbi,
  'self_paced': functools.partial(mtjax.optim.self_paced, history=4),
  'coba': functools.partial(mtjax.optim.coba, window=5, warmup=2, memory=4),
  'coba code': functools.partial(mtjax.optim.coba, window=5, warmup=2, memory=4, official_code=True),
}
STEPS = 8
make = functools.cache(lambda name: METHODS[name]())


def params():
  return {'w': jnp.zeros(4)}


def stream(factor=1.0):
  """Losses, validation losses [S, T], Gramians [S, T, T], of gradients times `factor`, and a mask [S, T] of all."""
  rng = np.random.default_rng(0)
  losses, validation = rng.uniform(0.5, 4, (2, STEPS, 3)).astype(np.float32)
  jac = rng.normal(size=(STEPS, 3, 4)).astype(np.float32) * np.float32(factor)
  return losses, validation, np.einsum('sip,sjp->sij', jac, jac), np.ones((STEPS, 3), bool)


@functools.cache
def compiled(name):
  """A scan over a stream: the weights of each step, the gradient of `scalarise`, and the states after each step."""
  tx = make(name)

  def step(state, xs):
    losses, validation, gram, active = xs
    info = Info(gram, losses, active, validation_losses=validation)
    w, new = tx.weights(state, info)
    if tx.observe is not None:
      new = tx.observe(new, losses * jnp.linspace(0.5, 1.0, losses.shape[0], dtype=losses.dtype), active)
    at = new if tx.observes == 'validation_losses' else state
    return new, (w, jax.grad(tx.scalarise)(losses, at, active), new)

  return jax.jit(lambda state, xs: jax.lax.scan(step, state, xs))


def run(name, xs):
  state = make(name).init(params(), num_tasks=xs[0].shape[1])
  _, (w, slopes, states) = compiled(name)(state, tuple(map(jnp.asarray, xs)))
  return np.asarray(w), np.asarray(slopes), states


@pytest.mark.parametrize('name', METHODS)
def test_the_gradient_of_scalarise_is_w(name):
  w, slopes, _ = run(name, stream())
  assert np.isfinite(w).all() and w.shape == (STEPS, 3) and w.dtype == np.float32
  np.testing.assert_allclose(slopes, w, rtol=2e-6, atol=1e-7)    # float32, two orders of the same few operations
  assert (w != w[0]).any() == (name not in ('ew', 'linear_scalarisation')), 'it does something'


@pytest.mark.parametrize('name', METHODS)
def test_masking_a_task_is_deleting_it(name):
  losses, validation, gram, active = (x.copy() for x in stream())
  rest = np.array([0, 2])
  losses[:, 1], validation[:, 1], gram[:, 1], gram[:, :, 1], active[:, 1] = np.nan, np.nan, np.nan, np.nan, False
  w, slopes, _ = run(name, (losses, validation, gram, active))
  deleted, _, _ = run(name, (losses[:, rest], validation[:, rest], gram[:, rest][:, :, rest], active[:, rest]))
  # Equal up to the order in which float32 sums over three or two entries are taken, amplified by Adam's first steps.
  np.testing.assert_allclose(w[:, rest], deleted, rtol=3e-5, atol=1e-6)
  assert (w[:, 1] == 0).all() and (slopes[:, 1] == 0).all()


@pytest.mark.parametrize('name', METHODS)
def test_the_state_of_a_resting_task_is_untouched(name):
  losses, validation, gram, active = (x.copy() for x in stream())
  active[6:, 1] = False    # from the beginning of an epoch: the end of one closes its mean for all tasks
  losses[6:, 1], validation[6:, 1], gram[6:, 1], gram[6:, :, 1] = np.nan, np.nan, np.nan, np.nan
  w, _, states = run(name, (losses, validation, gram, active))
  assert np.isfinite(w).all()
  for leaf in jax.tree.leaves(states):
    assert np.isfinite(leaf).all()
    if leaf.shape[1:2] == (3,):
      np.testing.assert_array_equal(leaf[-1, 1], leaf[5, 1])


@pytest.mark.parametrize('name', METHODS)
def test_one_task_and_no_task(name):
  xs = stream()
  w, _, _ = run(name, (*xs[:3], np.ones_like(xs[3]) * [True, False, False]))    # as T = 1, since masking is deleting
  assert np.isfinite(w).all()
  if name not in ('si', 'uw', 'imtl_l', 'stch recipe', 'pbi'):    # those weigh a lone loss too
    np.testing.assert_allclose(w[:, 0], 1, rtol=1e-5)
  w, _, states = run(name, (*xs[:3], np.zeros_like(xs[3])))
  assert (w == 0).all() and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
  alone = jax.eval_shape(lambda: make(name).weights(make(name).init(params()), Info(
    jnp.ones((1, 1)), jnp.ones(1), validation_losses=jnp.ones(1))))
  assert alone[0].shape == (1,)


@pytest.mark.parametrize('name', METHODS)
@pytest.mark.parametrize('kind', ['zero', 'negative', 'tiny', 'huge'])
def test_awkward_losses_and_gradients_stay_finite(name, kind):
  factor = dict(tiny=1e-10, huge=1e10).get(kind, 1.0)
  losses, validation, gram, active = (x.copy() for x in stream(factor))
  if factor == 1:
    losses[2:, 0], validation[2:, 0], gram[2:, 0], gram[2:, :, 0] = (0.0 if kind == 'zero' else -1.0), 0.0, 0.0, 0.0
  w, _, states = run(name, (losses * factor, validation, gram, active))
  assert np.isfinite(w).all() and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(states))
  if name == 'gradnorm' and factor != 1:    # the scale of all losses and gradients changes nothing
    np.testing.assert_allclose(w, run(name, stream())[0], rtol=1e-4)    # epsilon / |gradient| = 1e-6, Adam in float32


@pytest.mark.parametrize('name', [name for name in METHODS if ' ' not in name])    # variants differ by a line or two
def test_jit_is_eager(name):
  losses, validation, gram, active = map(jnp.asarray, stream())
  w, _, _ = run(name, stream())
  tx, extra = make(name), {}
  state = tx.init(params(), num_tasks=3)
  for k in range(2):
    jac = {'w': jnp.linalg.cholesky(gram[k]) @ jnp.eye(3, 4)}
    if tx.observes == 'losses_after' and k:
      extra = dict(losses_after=losses[k - 1] * jnp.linspace(0.5, 1.0, 3))
    if tx.observes == 'validation_losses':
      extra = dict(validation_losses=validation[k])
    d, eager, state = tx.aggregate(jac, state, params(), losses=losses[k], **extra)
    np.testing.assert_allclose(eager, w[k], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(d['w'], eager @ jac['w'], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('name', METHODS)
def test_the_state_grows_once_and_float64_stays(name):
  tx = make(name)

  def twice(jac, losses):
    extra = dict(losses=losses, validation_losses=losses, epoch_end=jnp.array(True))
    tree = tx.init(params())
    one = tx.update(jac, tree, params(), **extra)[1]
    d, two = tx.update(jac, one, params(), **extra)
    return d, one, two, tx.weights(one, Info(jnp.eye(3, dtype=losses.dtype), **extra))[0]

  for wide in (False, True):
    with jax.enable_x64(wide):
      dtype = np.float64 if wide else np.float32
      d, one, two, w = jax.eval_shape(twice, {'w': np.ones((3, 4), dtype)}, np.ones(3, dtype))
      assert w.dtype == d['w'].dtype == dtype and d['w'].shape == (4,)
      whole = jax.eval_shape(lambda: tx.init(params(), num_tasks=3))
      assert jax.tree.map(lambda x: (x.shape, x.dtype), one) == jax.tree.map(lambda x: (x.shape, x.dtype), two)
      assert jax.tree.map(lambda x: (x.shape, x.dtype), whole) == jax.tree.map(lambda x: (x.shape, x.dtype), two)
      if wide:
        assert all(x.dtype != np.float32 for x in jax.tree.leaves(two))


@pytest.mark.parametrize('name', METHODS)
def test_the_weight_multiplies_the_head_unless_switched_off(name):
  w, info = jnp.array([0.2, 0.3]), Info(losses=jnp.ones(2))
  np.testing.assert_allclose(make(name).head_weights(w, info), w)
  np.testing.assert_allclose(METHODS[name](scale_heads=False).head_weights(w, info), 1)


@pytest.mark.parametrize('name', METHODS)
def test_what_is_missing_is_named(name):
  tx = make(name)
  jac, state = {'w': jnp.ones((2, 4))}, tx.init(params())
  assert tx.needs == ('gramian' if name.startswith('gradnorm') else 'losses')
  with pytest.raises(ValueError, match=r'weighs losses: pass losses=\[T\]'):
    tx.update(jac, state, params(), validation_losses=jnp.ones(2))
  if tx.observes == 'validation_losses':
    with pytest.raises(ValueError, match=r'held-out batches: pass validation_losses=\[T\]'):
      tx.update(jac, state, params(), losses=jnp.ones(2))


@pytest.mark.parametrize('wrong, message', [
  (lambda: weightings.ew(reduction='max'), "reduction must be 'sum' or 'mean', got 'max'"),
  (lambda: weightings.ew([1.0, -1.0]), r'weights must hold finite numbers >= 0, not all 0, got \[1.0, -1.0\]'),
  (lambda: weightings.rlw(kind='cauchy'), "kind must be one of .*, got 'cauchy'"),
  (lambda: weightings.rlw(seed=0.5), 'seed must be a whole number, got 0.5'),
  (lambda: weightings.uw(init=float('nan')), r'uncertainty: init must be a finite number in \[-30, 30\], got nan'),
  (lambda: weightings.uw(learning_rate=-1), 'learning_rate must be a finite number'),
  (lambda: weightings.uw(optimizer='adam'), "optimizer must be an optax transform .*, got 'adam'"),
  (lambda: weightings.uw(kinds=['ranking']), "kinds must hold 'regression', 'classification' or None"),
  (lambda: weightings.imtl_l(init=100), r'imtl_l: init must be a finite number in \[-30, 30\], got 100'),
  (lambda: weightings.dwa(temperature=0), r'dwa: temperature must be a finite number in \(0, inf\]'),
  (lambda: weightings.dwa(steps_per_epoch=0), 'steps_per_epoch must be a whole number >= 1 or None, got 0'),
  (lambda: weightings.gradnorm(alpha=-1), 'gradnorm: alpha must be a finite number'),
  (lambda: weightings.gradnorm(variant='code'), "variant must be one of .*, got 'code'"),
  (lambda: weightings.famo(gamma=-1), 'famo: gamma must be'),
  (lambda: weightings.famo(after='never'), "after must be one of .*, got 'never'"),
  (lambda: weightings.famo(bounds=[0.0, float('inf')]), 'bounds must be a finite number or one a task'),
  (lambda: weightings.stch(mu=0), 'stch: mu must be'),
  (lambda: weightings.stch(warmup_steps=3), 'warmup_steps=3 needs nadir_steps >= 1'),
  (lambda: weightings.stch(nadir_steps=1.5), 'nadir_steps must be a whole number >= 0, got 1.5'),
  (lambda: weightings.stch(nadir_steps=1, preference=[1.0]), 'the recipe .* has no preference and no ideal'),
  (lambda: weightings.cosmos(lam=-1), 'cosmos: lam must be'),
  (lambda: weightings.pbi(theta=-1), 'pbi: theta must be'),
  (lambda: weightings.tchebycheff([0.0, 0.0]), 'tchebycheff: preference must hold'),
  (lambda: weightings.self_paced(history=1), 'history must be a whole number >= 2, got 1'),
  (lambda: weightings.coba(window=1), 'window must be a whole number >= 2, got 1'),
  (lambda: weightings.coba(memory=3), 'memory must be an even number >= 2, got 3'),
])
def test_wrong_settings_are_named(wrong, message):
  with pytest.raises(ValueError, match=message):
    wrong()


@pytest.mark.parametrize('tx, message', [
  (weightings.ew([1.0]), r'weights has 1 entries \[1.0\], but there are 2 tasks'),
  (weightings.uw(kinds=['regression']), r"kinds has 1 entries \['regression'\], but there are 2 tasks"),
  (weightings.famo(bounds=[0.0]), r'bounds has 1 entries \[0.0\], but there are 2 tasks'),
  (weightings.stch(preference=[1.0]), 'preference has 1 entries'),
  (weightings.pbi(ideal=[0.0]), 'ideal has 1 entries'),
  (weightings.dwa(), 'dwa goes by epochs: give steps_per_epoch, or pass epoch_end'),
  (weightings.gradnorm(variant='libmtl'), 'gradnorm goes by epochs'),
])
def test_what_does_not_fit_the_tasks_is_named(tx, message):
  with pytest.raises(ValueError, match=message):
    tx.update({'w': jnp.ones((2, 4))}, tx.init(params()), losses=jnp.ones(2))


@pytest.mark.parametrize('module', sorted(m.name for m in pkgutil.iter_modules(weightings.__path__)))
def test_examples_run(module):
  module = importlib.import_module(f'mtjax.optim.weightings.{module}')
  assert doctest.testmod(module).failed == 0
