"""A run as a user has it: from a config to metrics, resumed, evaluated, with every regime and kind of head."""
import json

import flax.linen as nn
import jax
import numpy as np
import pytest
import toy

import mtjax
from mtjax import experiment
from mtjax.training import loop


def train(config, workdir=None):
  run = experiment.build(config, workdir)
  state, metrics = run.train(run.init())
  return run, state, metrics


def lines(workdir):
  """metrics.jsonl without what depends on the clock."""
  text = (workdir / 'metrics.jsonl').read_text()
  return [{k: v for k, v in json.loads(line).items() if not k.startswith('time/')} for line in text.splitlines()]


def assert_same(one, other):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


class StopAfter(loop.StopRequest):
  """SIGTERM after a number of steps."""

  steps = 0

  def __bool__(self):
    StopAfter.steps -= 1
    return StopAfter.steps <= 0


def test_six_lines_in_a_notebook():
  run = mtjax.experiment.build(toy.config(steps=60))
  state = run.init()
  state, metrics = run.train(state)
  test = run.evaluate(state)
  assert metrics['eval/digit/n'] == 300 and test['eval/digit/n'] == 497
  assert test['eval/ink/n'] == 497 - 100  # every fifth label is missing: rows 1300, 1305, … 1795
  assert test['eval/digit/accuracy'] > 0.5
  assert test['eval/loss'] == pytest.approx(test['eval/digit/loss'] + 0.1 * test['eval/ink/loss'], rel=1e-5)


@pytest.mark.parametrize('stop', [2, 6, 11])
def test_a_stopped_run_ends_as_an_uninterrupted_one(stop, tmp_path, monkeypatch):
  config = toy.config(ema=0.9)
  _, whole, _ = train(config, tmp_path / 'whole')
  with monkeypatch.context() as patch:
    StopAfter.steps = stop
    patch.setattr(loop, 'StopRequest', StopAfter)
    run, state, _ = train(config, tmp_path / 'parts')
    assert run.stopped and int(state.step) == stop
  run, state, _ = train(config, tmp_path / 'parts')
  assert not run.stopped
  assert_same(whole, state)
  assert lines(tmp_path / 'whole') == lines(tmp_path / 'parts')
  run, again, metrics = train(config, tmp_path / 'parts')  # a finished run: nothing left to do, the same answer
  assert_same(whole, again)
  assert metrics['eval/digit/n'] == 300 and lines(tmp_path / 'whole') == lines(tmp_path / 'parts')


def test_nothing_is_compiled_after_the_first_step(tmp_path):
  run, state, _ = train(toy.config(), tmp_path)
  run.evaluate(state)
  assert [stage.update._cache_size() for stage in run.stages] == [1]
  assert run._evaluator._step._cache_size() == 1
  state = run.stages[0].step(run.init(), run.batch(0))
  assert run.stages[0].update._cache_size() == 1, 'a restored state must not compile again'


def test_only_trainable_parameters_are_differentiated_and_have_state():
  run = experiment.build(toy.config(frozen=('encoder/',), ema=0.5, data=dict(name='toy:Toy', batch_size=48)))
  state = run.init()
  before = jax.device_get(state.params)
  moments = [x.shape for x in jax.tree.leaves(state.opt_state) if x.ndim]
  heads = [x.shape for x in jax.tree.leaves(state.params['heads'])]
  assert sorted(moments) == sorted(heads * 2)  # Adam's two moments
  assert set(state.ema) == {'heads'}
  jaxpr = str(jax.make_jaxpr(run.stages[0].step)(state, run.batch(0)))
  state, _ = run.train(state)
  assert_same(before['encoder'], state.params['encoder'])
  assert not np.array_equal(before['heads']['digit']['out']['kernel'], state.params['heads']['digit']['out']['kernel'])
  assert 'f32[64,16] = dot_general' not in jaxpr  # no gradient of encoder/fc1/kernel


def test_the_result_does_not_depend_on_the_number_of_devices():
  results = []
  for devices in (1, 8):
    _, state, metrics = train(toy.config(mesh=dict(data=devices)))
    results.append((jax.device_get(state.params), metrics))
  for a, b in zip(jax.tree.leaves(results[0][0]), jax.tree.leaves(results[1][0])):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # Adam divides by small second moments
  assert results[0][1]['eval/loss'] == pytest.approx(results[1][1]['eval/loss'], rel=1e-4)


def test_stages_have_their_own_optimizer_parameters_data_and_weights(tmp_path):
  stages = (
    dict(name='heads', steps=4, frozen=('encoder/',), optimizer=dict(name='sgd', lr=0.1)),
    dict(name='all', steps=5, weights=dict(ink=2.0)),
    dict(name='other data', steps=3, data=dict(seed=5, batch_size=32)),
  )
  run = experiment.build(toy.config(stages=stages, checkpoint_every=2), tmp_path / 'whole')
  start = run.init()
  first = jax.device_get(start.params)
  state, _ = run.train(start)
  assert int(state.step) == 12
  assert not np.array_equal(first['encoder']['fc1']['kernel'], state.params['encoder']['fc1']['kernel'])
  assert run.stages[2].streams['Toy'].batch_size == 32
  # Stop at a border, within a stage, and right after one: each time the same end.
  for stop in (4, 6, 10):
    workdir = tmp_path / f'stop{stop}'
    StopAfter.steps = stop
    run = experiment.build(toy.config(stages=stages, checkpoint_every=2), workdir)
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(loop, 'StopRequest', StopAfter)
      run.train(run.init())
    _, again, _ = train(toy.config(stages=stages, checkpoint_every=2), workdir)
    assert_same(state, again)


def test_the_best_checkpoint_stays_beside_the_last(tmp_path):
  # Losses fall, so the highest validation loss is the first: step 6 stays though only one of the last is kept.
  run, state, _ = train(toy.config(best=dict(metric='eval/loss', mode='max'), keep_checkpoints=1), tmp_path)
  assert run.checkpoints.steps == [6, 12]
  assert int(run.restore('best').step) == 6 and int(run.restore('last').step) == 12 and int(run.restore(6).step) == 6
  assert run.evaluate(run.restore('best'), 'validation', record=False)['eval/loss'] > (
    run.evaluate(state, 'validation', record=False)['eval/loss'])


def test_ema_is_the_recursion_written_out():
  plain = experiment.build(toy.config(steps=3, ema=0.0))
  average = experiment.build(toy.config(steps=3, ema=0.9))
  state, ema = plain.init(), None
  for step in range(3):
    params = jax.device_get(state.params)
    ema = params if ema is None else ema
    state = plain.stages[0].step(state, plain.batch(step))
    ema = jax.tree.map(lambda m, p: 0.9 * m + 0.1 * np.asarray(p), ema, jax.device_get(state.params))
  state, _ = average.train(average.init())
  for a, b in zip(jax.tree.leaves(ema), jax.tree.leaves(state.ema)):
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


HEADS = {
  'digit': dict(label='digit', head=dict(name='classification', classes=10)),
  'ink': dict(label='ink', head=dict(name='regression', mean=4.9, std=1.0)),
  'bits': dict(label='bits', head=dict(name='multilabel', labels=4)),
  'grade': dict(label='grade', head=dict(name='ordinal', classes=5)),
  'soft': dict(label='soft', head=dict(name='soft_classification', classes=10)),
}


def test_every_head_learns_on_one_image():
  run = experiment.build(toy.config(tasks=HEADS, steps=200, eval_every=200))
  state = run.init()
  before = run.evaluate(state, 'validation')
  state, after = run.train(state)
  for task in HEADS:
    assert after[f'eval/{task}/loss'] < 0.9 * before[f'eval/{task}/loss'], task
  assert all(np.isfinite(value) for value in after.values())


def test_metrics_do_not_depend_on_the_batch_size():
  whole = []
  for size in (8, 64, 304):
    run = experiment.build(toy.config(tasks=HEADS, data=dict(name='toy:Toy', batch_size=64, eval_batch_size=size)))
    whole.append(run.evaluate(run.init(), 'validation'))
  for other in whole[1:]:
    assert whole[0].keys() == other.keys()
    for name, value in whole[0].items():
      assert other[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def test_heterogeneous_streams_one_task_each():
  streams = {'digit': dict(name='toy:Toy', batch_size=16), 'grade': dict(name='toy:Toy', batch_size=32)}
  tasks = {name: HEADS[name] for name in streams}
  run = experiment.build(toy.config(data=dict(streams=streams), tasks=tasks))
  assert {t.name: t.stream for t in run.objective.tasks.values()} == {'digit': 'digit', 'grade': 'grade'}
  state = run.init()
  losses = run.objective(state.params, run.batch(0), jax.random.key(0), 0)
  assert losses.weights.tolist() == [16, 32]
  apart = [run.objective(state.params, {name: run.batch(0)[name]}, jax.random.key(0), 0) for name in streams]
  np.testing.assert_allclose(losses.sums, (apart[0] + apart[1]).sums, rtol=1e-5)
  assert apart[0].active.tolist() == [True, False]
  _, metrics = run.train(state)
  assert metrics['eval/digit/n'] == metrics['eval/grade/n'] == 300


def test_a_mixture_tells_its_tasks_apart_by_task_id():
  mixture = {'digit': dict(name='toy:Toy', weight=3.0), 'grade': dict(name='toy:Toy', weight=1.0)}
  tasks = {name: HEADS[name] for name in mixture}
  run = experiment.build(toy.config(data=dict(mixture=mixture, batch_size=32, block_size=8), tasks=tasks))
  losses = run.objective(run.init().params, run.batch(0), jax.random.key(0), 0)
  assert losses.weights.tolist() == [24, 8]
  state, metrics = run.train(run.init())
  assert metrics['eval/digit/n'] == metrics['eval/grade/n'] == 300
  samples = run.predictor.samples(state.params, per_task=5)  # of both, though the test split holds one after the other
  assert {name: len(entry['rows']) for name, entry in samples.items()} == {'digit': 5, 'grade': 5}
  outputs = run.predict(state, run.streams['mixture'].sources['grade']['test'].columns['image'][:5])
  assert [row['prediction'] for row in samples['grade']['rows']] == [str(c) for c in outputs['grade']['prediction']]


def test_predictions_take_whole_numbers_of_any_width_but_no_floats():
  run = experiment.build(toy.config(tasks={'digit': HEADS['digit']}))
  state = run.init()
  images = run.streams['Toy'].sources['Toy']['test'].columns['image'][:3]
  plain = run.predict(state, images)['digit']['probabilities']
  np.testing.assert_array_equal(plain, run.predict(state, {'image': images.astype(np.int64)})['digit']['probabilities'])
  for wrong in (images / 255, images.astype(np.int64) + 300):  # a scale that the model was not trained on
    with pytest.raises(ValueError, match='Inputs of the wrong shape or type'):
      run.predict(state, wrong)


def test_weights_in_tokens_count_tokens():
  mixture = {'short': dict(name='toy:Toy', weight=1.0), 'long': dict(name='toy:Long', weight=1.0)}
  data = dict(mixture=mixture, unit='tokens', batch_size=8, inputs='tokens', block_size=64,
              format={'tokens': dict(name='bytes', column='text', length=48)})
  tasks = {name: dict(label='odd', head=dict(name='classification', classes=2)) for name in mixture}
  encoder = dict(name='byte_transformer', width=8, depth=1, heads=2, max_length=48)
  run = experiment.build(toy.config(data=data, tasks=tasks, encoder=encoder))
  stream = run.streams['mixture']
  length = {name: (tables['train'].columns['tokens'] > 0).sum(1).mean() for name, tables in stream.sources.items()}
  slots = dict(zip(stream.sources, stream.sampler.slots.tolist()))
  assert sum(slots.values()) == 64 and slots['short'] > 2 * slots['long']
  assert slots['short'] * length['short'] == pytest.approx(slots['long'] * length['long'], rel=0.1)  # as many tokens
  assert int(run.train(run.init())[0].step) == 12


def test_the_batch_is_divided_over_streams_that_claim_no_size():
  streams = {'digit': dict(name='toy:Toy'), 'grade': dict(name='toy:Toy'), 'odd': dict(name='toy:Toy', batch_size=8)}
  tasks = {name: dict(label=name, head=dict(name='classification', classes=10)) for name in streams}
  run = experiment.build(toy.config(data=dict(streams=streams, batch_size=32), tasks=tasks))
  assert {name: stream.batch_size for name, stream in run.streams.items()} == {'digit': 16, 'grade': 16, 'odd': 8}
  with pytest.raises(ValueError, match="'data.batch_size' is 33, which is not a multiple of the 2 streams; the nearest"):
    experiment.build(toy.config(data=dict(streams=streams, batch_size=33), tasks=tasks))


def test_any_name_that_tfds_knows_with_parts_of_splits():
  data = dict(name='tfds:toy', inputs='image', batch_size=16,
              splits=dict(train='train[:80%]', validation='train[80%:]', test='validation+test'))
  run = experiment.build(toy.config(data=data))
  assert [run.streams['toy'].num_rows(split) for split in ('train', 'validation', 'test')] == [800, 200, 797]
  assert int(run.train(run.init())[0].step) == 12


def test_a_component_of_ones_own_is_named_by_import_path():
  config = toy.config(encoder=dict(name='mtjax.encoders.mlp:MLP', widths=(8,)))
  assert experiment.build(config).objective.encoder.widths == (8,)


class PlainHead(nn.Module):
  """A head that knows nothing of mtjax."""

  @nn.compact
  def __call__(self, features, batch=None, *, train=False):
    return nn.Dense(1, name='out')(features.pooled)[:, 0]


def test_any_module_is_a_head_when_the_task_says_loss_and_metrics():
  head = dict(name=f'{__name__}:PlainHead')
  tasks = {'ink': dict(label='ink', head=head, loss='mse', metrics=('rmse',))}
  run = experiment.build(toy.config(tasks=tasks))
  state, metrics = run.train(run.init())
  assert metrics['eval/ink/rmse'] > 0
  assert run.predict(state, np.zeros((2, 8, 8, 1), np.uint8))['ink']['prediction'].shape == (2,)
  with pytest.raises(ValueError, match="'tasks.ink.loss' must be given: PlainHead has no default_loss"):
    experiment.build(toy.config(tasks={'ink': dict(label='ink', head=head)}))
