"""What runs in bfloat16 and what stays float32: by config, by the operations of a step, and by what is learnt."""
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from mtjax import experiment, heads, tree
from mtjax.autodiff.graph import open_jaxpr
from mtjax.context import Features
from mtjax.precision import Precision, cast_floats, narrow_like, round_by_chance, widen

ENCODERS = {'vit': dict(name='vit', patch=4, width=16, depth=1, heads=2, hidden=32),
            'convnet': dict(name='convnet', width=8, depths=(1,), groups=4)}
AGGREGATORS = {'joint': {}, 'per task': dict(name='upgrad')}
HALF = dict(compute='bfloat16')
# A product is off by 2^-8 at most, on average by far less; over thirty steps of Adam that may add up to a few per cent of
# a batch's loss, of which training takes a third.
CLOSE = dict(rtol=0.05)


def config(encoder='vit', aggregator='joint', **fields):
  return toy.config(encoder=ENCODERS[encoder], aggregator=AGGREGATORS[aggregator], **fields)


# --- the field


@pytest.mark.parametrize('precision, text', [
  (dict(compute='float16'), "'precision.compute' must be 'float32' or 'bfloat16', got 'float16'. .* underflow without loss"),
  (dict(params='float16'), "'precision.params' must be .* got 'float16'"),
  (dict(reductions='bfloat16'), "'precision.reductions' must be 'float32', got 'bfloat16'"),
  (dict(comput='bfloat16'), "Unknown config key 'precision.comput'. Did you mean 'compute'"),
])
def test_mistakes_are_said(precision, text):
  with pytest.raises(ValueError, match=text):
    experiment.build(toy.config(precision=precision))


class Plain(nn.Module):
  """A user's encoder without a dtype."""

  @nn.compact
  def __call__(self, inputs, *, ctx=None, train=False):
    return Features(pooled=nn.Dense(4, name='fc')(inputs.reshape(len(inputs), -1) / 255.0))


class PlainHead(nn.Module):
  """A user's head without a dtype."""
  kind, default_loss, default_metrics = 'identity', 'mse', ('rmse',)

  @nn.compact
  def __call__(self, features, batch=None, *, train=False):
    return nn.Dense(1, name='out')(features.pooled)[:, 0]


def test_a_component_that_cannot_be_told_is_named(caplog):
  own = dict(label='ink', head=dict(name='test_precision:PlainHead'))
  with caplog.at_level(logging.WARNING, 'mtjax'):
    experiment.build(toy.config(tasks={'ink': own}, precision=HALF))
  assert "PlainHead ('tasks.ink.head') has no field `dtype`" in caplog.text
  with pytest.raises(ValueError, match=r"Plain \('encoder'\) has no field `dtype` by which it could be told"):
    experiment.build(toy.config(encoder=dict(name='test_precision:Plain'), precision=HALF))


def test_encoder_and_heads_are_told_and_a_dtype_of_their_own_has_the_last_word():
  tasks = {'digit': dict(label='digit', head=dict(name='classification', classes=10, hidden=(8,))),
           'ink': dict(label='ink', head=dict(name='regression', dtype='float32'))}
  objective = experiment.build(config(tasks=tasks, precision=HALF)).objective
  assert objective.encoder.dtype == jnp.bfloat16 and objective.tasks['digit'].head.dtype == jnp.bfloat16
  assert objective.tasks['ink'].head.dtype == 'float32'
  head = heads.MultiScale(heads.Segmentation(classes=2))
  assert Precision(**HALF).apply(head, {}, 'head').dtype == jnp.bfloat16
  plain = experiment.build(config()).objective
  assert plain.encoder.dtype == jnp.float32 and Precision().apply(head, {}, 'head') is head


# --- the operations of a step


def operations(jaxpr, scope=''):
  """Every operation, nested ones too, with the modules that it stands in."""
  for eqn in jaxpr.eqns:
    here = f'{scope}/{eqn.source_info.name_stack}'
    yield eqn, here
    for value in eqn.params.values():
      for item in value if isinstance(value, (tuple, list)) else (value,):
        inner, _ = open_jaxpr(item)
        if hasattr(inner, 'eqns'):
          yield from operations(inner, here)


def low_precision(run):
  """{operation: [(modules, shape of the result)]} of what a step does in bfloat16."""
  stage, found = run.stages[0], {}
  jaxpr = jax.make_jaxpr(stage.update)(jax.eval_shape(run.init), run.batch(1), stage.rng)
  for eqn, scope in operations(jaxpr.jaxpr):
    if any(getattr(var.aval, 'dtype', None) == jnp.bfloat16 for var in (*eqn.invars, *eqn.outvars)):
      found.setdefault(eqn.primitive.name, []).append((scope, eqn.outvars[0].aval.shape))
  return found


REDUCTIONS = {'reduce_max', 'reduce_min', 'reduce_prod', 'argmax', 'argmin', 'cumsum', 'cummax', 'cumlogsumexp',
              'reduce_window_sum', 'scatter-add', 'log', 'log1p', 'expm1', 'logistic', 'rsqrt', 'sqrt', 'exp2', 'sort'}


@pytest.mark.parametrize('aggregator', AGGREGATORS)
@pytest.mark.parametrize('encoder', ENCODERS)
def test_softmax_norms_losses_and_gramians_are_float32(encoder, aggregator):
  run = experiment.build(config(encoder, aggregator, precision=HALF))
  found = low_precision(run)
  assert 'dot_general' in found or 'conv_general_dilated' in found
  assert not REDUCTIONS & set(found)
  # The one exponential is that of GELU's slope; the sums are gradients of biases and of what is added to every row.
  assert len(found.get('exp', ())) == len(found.get('erfc', ())) == (encoder == 'vit')
  flat = tree.flatten(jax.eval_shape(run.init).params['encoder'])
  added = {leaf.shape for path, leaf in flat.items() if path.endswith(('bias', 'cls', 'pos_embed'))}
  sums = [shape for _, shape in found.get('reduce_sum', ())]
  assert all(any(tuple(n for n in shape if n > 1) == own for own in added) for shape in sums)
  if aggregator == 'joint' and encoder == 'vit':
    assert all('transpose' in scope for scope, _ in found['reduce_sum']) and sums
    assert all('/mlp' in scope for scope, _ in found['exp'])


def test_such_a_sum_is_added_up_in_float32_by_the_compiler():
  total = jax.jit(lambda x: jax.lax.reduce(x, jnp.bfloat16(0), jax.lax.add, (0,)))(jnp.ones(4096, jnp.bfloat16))
  assert total == 4096                                     # added up in bfloat16 it would end at 256 = 256 + 1


@pytest.mark.parametrize('name, extra', [
  ('byte_transformer', dict(heads=2, max_length=16)), ('gpt2', dict(vocab_size=259, heads=2, max_length=16)),
  ('llama', dict(vocab_size=259, heads=2)), ('bert', dict(vocab_size=259, heads=2, max_length=16)),
  ('mamba', dict(vocab_size=259, chunk=8))])
def test_text_encoders_add_up_their_tables_in_float32(name, extra):
  data = dict(name='toy:Toy', batch_size=16, inputs='tokens',
              format={'tokens': dict(name='bytes', column='text', length=16)})
  encoder = dict(name=name, width=16, depth=1, **extra)
  found = low_precision(experiment.build(toy.config(data=data, encoder=encoder, precision=HALF)))
  # silu's logistic and the gate's are activation functions, not reductions.
  assert not (REDUCTIONS - {'logistic'}) & set(found) and 'dot_general' in found


# --- a run


def steps(config, num=30):
  """[num, T] losses of a run; its last state."""
  run = experiment.build(config)
  stage, state, found = run.stages[0], run.init(), []
  for step in range(num):
    before = np.asarray(state.window.losses.sums), np.asarray(state.window.losses.weights)
    state = stage.step(state, run.batch(step))
    after = np.asarray(state.window.losses.sums), np.asarray(state.window.losses.weights)
    found.append((after[0] - before[0]) / (after[1] - before[1]))
  assert stage.update._cache_size() == 1
  return np.array(found), state


@pytest.mark.parametrize('aggregator', AGGREGATORS)
@pytest.mark.parametrize('encoder', ENCODERS)
def test_a_run_in_bfloat16_learns_as_one_in_float32(encoder, aggregator):
  exact, _ = steps(config(encoder, aggregator))
  rough, state = steps(config(encoder, aggregator, precision=HALF))
  assert exact[-5:].sum(1).mean() < exact[:3].sum(1).mean() - 0.1
  assert np.abs(rough - exact).max() > 1e-6
  np.testing.assert_allclose(rough, exact, **CLOSE)
  kept = {leaf.dtype for leaf in jax.tree.leaves((state.params, state.opt_state, state.ema))}
  assert kept <= {jnp.dtype('float32'), jnp.dtype('int32')}


def test_parameters_in_bfloat16_with_moments_and_averages_in_float32():
  exact, _ = steps(toy.config())
  rough, state = steps(toy.config(ema=0.9, precision=dict(HALF, params='bfloat16')))
  assert rough[-5:].sum(1).mean() < rough[:3].sum(1).mean() - 0.1
  # Every step rounds every parameter, up or down by 2^-7 of it at most: a walk around the exact one.
  np.testing.assert_allclose(rough, exact, rtol=0.2)
  assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype('bfloat16')}
  assert {leaf.dtype for leaf in jax.tree.leaves((state.opt_state, state.ema)) if leaf.ndim} == {jnp.dtype('float32')}
  with pytest.raises(ValueError, match="'precision.params' must be 'float32'"):
    experiment.build(config(precision=dict(params='bfloat16'), sharpness=dict(name='sam')))


# --- rounding


def test_small_updates_are_not_lost():
  """A thousand steps of 1/8 of the distance to the next number: rounded to the nearest, none would leave 1."""
  key, step = jax.random.key(0), 2.0**-10

  def body(i, x):
    return round_by_chance(x.astype(jnp.float32) + step, jax.random.fold_in(key, i))

  x = jax.jit(lambda: jax.lax.fori_loop(0, 1000, body, jnp.ones(500, jnp.bfloat16)))()
  assert jnp.bfloat16(1 + step) == 1
  mean = float(x.astype(jnp.float32).mean())
  # A step's error is at most 2^-7 (2^-6 beyond 2): over 1000 steps 0.25 at most, the mean of 500 has 0.25 / 22.
  assert abs(mean - (1 + 1000 * step)) < 4 * 0.25 / np.sqrt(500)


def test_what_is_exact_or_not_finite_stays():
  x = jnp.array([0.0, -1.5, 3.0, jnp.inf, -jnp.inf, jnp.nan])
  np.testing.assert_array_equal(round_by_chance(x, jax.random.key(1)).astype(jnp.float32), x)


def test_widen_and_narrow():
  params = {'a': jnp.ones(3), 'b': jnp.ones(3, jnp.bfloat16), 'n': jnp.arange(3)}
  wide = widen(params)
  assert wide['a'] is params['a'] and wide['b'].dtype == jnp.float32 and wide['n'].dtype == jnp.int32
  back = narrow_like(wide, params, jax.random.key(0))
  assert jax.tree.map(lambda x: x.dtype, back) == jax.tree.map(lambda x: x.dtype, params)
  assert cast_floats(params, 'bfloat16')['n'].dtype == jnp.int32
