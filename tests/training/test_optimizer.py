import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mtjax.training.optimizer import make_optimizer, make_schedule

PARAMS = {'fc1': {'kernel': jnp.full((2, 2), 2.0), 'bias': jnp.full(2, 2.0)}}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def update(spec, gradient=ZERO, steps=10):
  tx, _ = make_optimizer(spec, PARAMS, steps)
  updates, _ = tx.update(gradient, tx.init(PARAMS), PARAMS)
  return jax.tree.map(np.asarray, updates)


def test_any_optimizer_of_optax_by_name():
  gradient = jax.tree.map(jnp.ones_like, PARAMS)
  for name in ('sgd', 'adam', 'adamw', 'lion', 'lamb', 'adafactor', 'rmsprop', 'radam', 'optax.contrib:muon'):
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(update(dict(name=name, lr=0.1), gradient))), name
  ours = update(dict(name='sgd', lr=0.1, momentum=0.9), gradient)
  tx = optax.sgd(0.1, momentum=0.9)
  theirs, _ = tx.update(gradient, tx.init(PARAMS), PARAMS)
  np.testing.assert_array_equal(ours['fc1']['kernel'], theirs['fc1']['kernel'])


@pytest.mark.parametrize('name', ['adamw', 'sgd', 'lion'])
def test_weight_decay_by_path_patterns(name):
  # With a zero gradient only the decay is left: -lr * decay * parameter = -0.1 * 0.5 * 2 = -0.1.
  spec = dict(name=name, lr=0.1, weight_decay=0.5)
  decayed = update(spec)
  np.testing.assert_allclose(decayed['fc1']['kernel'], -0.1, rtol=1e-6)
  np.testing.assert_array_equal(decayed['fc1']['bias'], 0.0)
  np.testing.assert_allclose(update(spec | dict(decay=['bias$']))['fc1']['bias'], -0.1, rtol=1e-6)
  np.testing.assert_array_equal(update(dict(name=name, lr=0.1))['fc1']['kernel'], 0.0)  # nothing decays unasked


def test_clipping_is_by_the_global_norm():
  gradient = jax.tree.map(lambda x: 3.0 * jnp.ones_like(x), PARAMS)  # norm 3 * sqrt(6)
  clipped = update(dict(name='sgd', lr=1.0, clip_norm=1.0), gradient)
  np.testing.assert_allclose(clipped['fc1']['bias'], -1 / np.sqrt(6), rtol=1e-6)


@pytest.mark.parametrize('spec, expected', [
  (dict(name='constant'), [1, 1, 1]),
  (dict(name='linear'), [1, 0.5, 0]),
  (dict(name='cosine', final=0.1), [1, 0.55, 0.1]),
  (dict(name='exponential', rate=0.25), [1, 0.5, 0.25]),
  (dict(name='inverse_sqrt', warmup_steps=4), [0, 1 * (4 / 5) ** 0.5, 0.5]),
  (dict(name='piecewise', boundaries={'4': 0.1, '8': 0.1}), [1, 0.1, 0.01]),
])
def test_schedules_by_hand(spec, expected):
  steps, at = (16, [0, 5, 16]) if spec['name'] == 'inverse_sqrt' else (10, [0, 5, 10])
  schedule = make_schedule(1.0, steps, **spec)
  np.testing.assert_allclose([float(schedule(t)) for t in at], expected, rtol=1e-5, atol=1e-7)


def test_warm_up_is_linear_and_then_the_decay_runs_to_the_end():
  schedule = make_schedule(1.0, 10, name='linear', warmup_steps=4)
  np.testing.assert_allclose([float(schedule(t)) for t in (0, 2, 4, 7, 10)], [0, 0.5, 1, 0.5, 0], atol=1e-6)
  share = make_schedule(1.0, 10, name='linear', warmup_steps=0.4)
  assert [float(share(t)) for t in range(11)] == [float(schedule(t)) for t in range(11)]


@pytest.mark.parametrize('spec, words', [
  (dict(name='adm', lr=1.0), "Unknown optimizer 'adm' in 'optimizer.name'. Did you mean 'adam'?"),
  (dict(name='adam'), "'optimizer.lr' must be a number > 0, got None"),
  (dict(name='adam', lr=0), "'optimizer.lr' must be a number > 0, got 0"),
  (dict(name='adam', lr=1.0, beta=0.9), "Unknown config key 'optimizer.beta'"),
  (dict(name='adam', lr=1.0, clip_norm=0), "'optimizer.clip_norm' must be > 0, got 0"),
  (dict(name='adamw', lr=1.0, weight_decay=-1), "'optimizer.weight_decay' must be >= 0, got -1"),
  (dict(name='adamw', lr=1.0, decay=['kernel']), "'optimizer.weight_decay' is not given"),
  (dict(name='adamw', lr=1.0, weight_decay=1.0, decay=['krnel']), "'krnel' matches no parameter"),
  (dict(name='adam', lr=1.0, schedule=dict(name='cos')), "Unknown schedule 'cos'"),
  (dict(name='adam', lr=1.0, schedule=dict(name='cosine', warmup=3)), "Did you mean 'warmup_steps'?"),
  (dict(name='adam', lr=1.0, schedule=dict(warmup_steps=10)), 'must be in 0 … steps - 1 = 9 (or a share of the steps, below 1), got 10'),
  (dict(name='adam', lr=1.0, schedule='exponential'), "'optimizer.schedule.rate' must be > 0, got None"),
])
def test_errors(spec, words):
  with pytest.raises(ValueError) as error:
    make_optimizer(spec, PARAMS, 10)
  assert words in str(error.value)
