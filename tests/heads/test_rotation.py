"""Rotated heads: the head itself at first, whose gradient goes where, and training by RotoGrad to the end."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtjax import heads, optim, tree
from mtjax.context import Features
from mtjax.optim.aggregators.rotograd import rotate

RNG = np.random.default_rng(0)
POOLED = jnp.asarray(RNG.normal(size=(4, 6)), jnp.float32)
PLAIN = heads.Regression(dims=2, hidden=(5,))
ROTATED = heads.Rotated(PLAIN, size=3)


def init(head, key=0):
  return head.init(jax.random.key(key), Features(pooled=POOLED))['params']


def test_it_is_the_head_until_it_turns():
  params = init(ROTATED)
  shapes = {path: leaf.shape for path, leaf in tree.flatten(params).items()}
  own = {path: leaf.shape for path, leaf in tree.flatten(init(PLAIN)).items()}
  assert shapes == own | {'rotation': (3, 3)}                                   # the head's names stay
  inner = {name: leaf for name, leaf in params.items() if name != 'rotation'}
  plain = PLAIN.apply({'params': inner}, Features(pooled=POOLED))
  np.testing.assert_array_equal(ROTATED.apply({'params': params}, Features(pooled=POOLED)), plain)
  params['rotation'] = jnp.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 0]])          # a quarter turn of the first two
  turned = POOLED.at[:, 0].set(-POOLED[:, 1]).at[:, 1].set(POOLED[:, 0])
  np.testing.assert_allclose(ROTATED.apply({'params': params}, Features(pooled=POOLED)),
                             PLAIN.apply({'params': inner}, Features(pooled=turned)), atol=1e-6)


def test_it_passes_for_its_head():
  head = heads.Rotated(heads.Classification(classes=3), size=2)
  assert (head.kind, head.default_loss) == ('softmax', 'softmax_xent')
  assert head.default_metrics == heads.Classification.default_metrics
  with pytest.raises(ValueError, match=r"Label column 'left' holds 5"):
    head.check_label(np.array([5]), 'left')


def test_gradients_of_the_task_go_to_trunk_and_head_but_not_to_the_rotation():
  params = init(ROTATED)
  params['rotation'] = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)
  rotation = optim.cayley(params['rotation'])
  inner = {name: leaf for name, leaf in params.items() if name != 'rotation'}
  loss = lambda head, params, x: jnp.sum(head.apply({'params': params}, Features(pooled=x)) ** 2)
  grads, dz = jax.grad(functools.partial(loss, ROTATED), (0, 1))(params, POOLED)
  own, cotangent = jax.grad(functools.partial(loss, PLAIN), (0, 1))(inner, rotate(rotation, POOLED))
  np.testing.assert_array_equal(grads['rotation'], 0)
  np.testing.assert_allclose(dz, rotate(rotation.T, cotangent), rtol=1e-4, atol=1e-5)       # float32
  for path, leaf in tree.flatten(own).items():
    np.testing.assert_allclose(tree.flatten(grads)[path], leaf, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('act, words', [
  (lambda: heads.Rotated(PLAIN, size=0), 'Rotated has size=0; allowed is an integer >= 1'),
  (lambda: init(heads.Rotated(PLAIN, size=7)), 'Rotated has size=7, but there are 6 features to turn'),
  (lambda: ROTATED.init(jax.random.key(0), Features(tokens=POOLED[None])), 'Rotated reads features.pooled'),
])
def test_wrong_sizes_are_named(act, words):
  with pytest.raises(ValueError, match=words):
    act()


@functools.partial(jax.jit, static_argnames='turn')
def train(seed, turn):
  """Two regressions on a linear trunk, in opposition but for a rotation. Returns cosines, losses and parameters."""
  names, tx, aggregator = ('right', 'left'), optax.adam(3e-3), optim.rotograd()
  head = heads.Rotated(heads.Regression(dims=4), size=4)
  x = jax.random.normal(jax.random.key(seed), (64, 4))
  targets = {'left': x, 'right': -x}
  # The two heads begin equal, so that what the tasks want of the features is opposite.
  same = head.init(jax.random.key(1), Features(pooled=x))['params']
  params = {'trunk': 0.1 * jnp.eye(4), 'heads': {name: same for name in names}}

  def step(carry, _):
    params, opt_state, state = carry
    z, trunk_vjp = jax.vjp(lambda trunk: x @ trunk, params['trunk'])
    grads, cotangents, losses = {}, [], []
    for name in names:
      loss = lambda p, z, name=name: jnp.mean((head.apply({'params': p}, Features(pooled=z)) - targets[name]) ** 2)
      value, (grads[name], dz) = jax.value_and_grad(loss, (0, 1))(params['heads'][name], z)
      cotangents.append(dz)
      losses.append(value)
    u = jnp.stack(cotangents)
    d, state = aggregator.update(u, state, z)
    if turn:
      grads = heads.with_rotation_gradients(grads, params['heads'], names, u, d)
    grads = {'trunk': trunk_vjp(d)[0], 'heads': grads}
    updates, opt_state = tx.update(grads, opt_state)
    cosine = jnp.vdot(u[0], u[1]) / jnp.linalg.norm(u[0]) / jnp.linalg.norm(u[1])
    return (optax.apply_updates(params, updates), opt_state, state), (cosine, sum(losses))

  start = params, tx.init(params), aggregator.init(x, 2)
  (params, _, _), (cosines, losses) = jax.lax.scan(step, start, None, 100)
  return cosines, losses, params


def test_rotations_train_beside_the_model_and_bring_the_gradients_together():
  cosines, losses, params = train(0, turn=True)
  plain_cosines, plain_losses, plain = train(0, turn=False)
  for name in ('left', 'right'):
    np.testing.assert_array_equal(plain['heads'][name]['rotation'], 0)          # nothing else moves them
    assert np.abs(params['heads'][name]['rotation']).max() > 0.01
    rotation = np.asarray(optim.cayley(params['heads'][name]['rotation']), np.float64)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(4), atol=1e-6)     # after 100 steps
  assert losses[-1] < losses[0] and plain_losses[-1] < plain_losses[0]
  assert cosines[0] == plain_cosines[0] and cosines[-1] > plain_cosines[-1]


def test_rows_belong_to_the_named_tasks_and_an_absent_one_rests():
  params = {name: init(ROTATED, key) for key, name in enumerate(('left', 'right'))}
  for own in params.values():
    own['rotation'] = jnp.asarray(RNG.normal(size=(3, 3)), jnp.float32)
  grads = jax.tree.map(jnp.ones_like, params)
  u, d = jnp.asarray(RNG.normal(size=(2, 4, 6)), jnp.float32), POOLED
  new = jax.jit(functools.partial(heads.with_rotation_gradients, tasks=('right', 'left')))(
    grads, params, cotangents=u, update=d, active=jnp.array([False, True]))
  a = params['left']['rotation']
  expected = jax.grad(optim.rotation_loss)(a, d, rotate(optim.cayley(a), u[1]))      # of one task the mean is the sum
  np.testing.assert_allclose(new['left']['rotation'], expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(new['right']['rotation'], 0)
  for name in params:
    assert (np.asarray(new[name]['out']['kernel']) == 1).all()                  # the rest is as it came
