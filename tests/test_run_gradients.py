"""Runs whose update is made of task gradients: by config, resumed, on several devices, in all three regimes."""
import json

import jax
import numpy as np
import pytest
import toy
from test_run import HEADS, StopAfter, assert_same, lines, train

from mtjax import experiment
from mtjax.training import loop

# One of each kind: stateless, with state, all of J, losses after the step, validation losses, two batches, at z, flat;
# and one that looks ahead.
METHODS = {
  'upgrad': dict(aggregator=dict(name='upgrad', preference={'digit': 2.0, 'ink': 1.0})),
  'moco': dict(aggregator=dict(name='moco')),
  'graddrop': dict(aggregator=dict(name='graddrop')),
  'famo': dict(aggregator=dict(name='famo')),
  'coba': dict(aggregator=dict(name='coba', warmup=2, window=4)),
  'sdmgrad': dict(aggregator=dict(name='sdmgrad')),
  'mgda_ub': dict(aggregator=dict(name='mgda_ub')),
  'cr_mogm': dict(aggregator=dict(name='cr_mogm', aggregator=dict(name='pcgrad')), gradients=dict(every_k=2, ema=0.5)),
  'affinity': dict(aggregator=dict(name='pcgrad'), gradients=dict(affinity_every=2)),
  'ftl': dict(aggregator=dict(name='cagrad'), sharpness=dict(name='ftl', rho=0.05, every_k=3)),
  'looksam': dict(sharpness=dict(name='looksam', rho=0.05, every_k=3)),
}


SLOW = ('moco', 'graddrop', 'mgda_ub', 'looksam')


@pytest.mark.parametrize('name', [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
                                  for name in METHODS])
def test_a_stopped_run_ends_as_an_uninterrupted_one_and_compiles_once(name, tmp_path, monkeypatch):
  config = toy.config(**METHODS[name])
  run, whole, metrics = train(config, tmp_path / 'whole')
  assert [stage.update._cache_size() for stage in run.stages] == [1]
  assert all(np.isfinite(value) for value in metrics.values())
  with monkeypatch.context() as patch:
    StopAfter.steps = 5
    patch.setattr(loop, 'StopRequest', StopAfter)
    train(config, tmp_path / 'parts')
  _, state, _ = train(config, tmp_path / 'parts')
  assert_same(whole, state)
  assert lines(tmp_path / 'whole') == lines(tmp_path / 'parts')


def test_the_log_says_how_the_tasks_conflict(tmp_path):
  run, _, _ = train(toy.config(aggregator=dict(name='pcgrad')), tmp_path)
  found = [line for line in lines(tmp_path) if line['split'] == 'train']
  assert len(found) == 4
  for line in found:
    assert -1 <= line['gradients/cosine/digit/ink'] <= 1
    assert 0 <= line['gradients/conflicts'] <= 1 and line['gradients/norm_spread'] >= 1
    assert {'gradients/norm/digit', 'gradients/weight/ink', 'gradients/weight_entropy', 'gradients/worst_progress',
            'gradients/stationarity'} <= line.keys()
  text = run.describe()
  assert 'pcgrad over 2 tasks, from the gramian' in text and 'tape (chosen)' in text
  assert '2 shared parameters hold 1,040 numbers, 4 task-owned ones 187.' in text


@pytest.mark.parametrize('regime', ['multi-label', 'streams', 'mixture'])
def test_the_result_does_not_depend_on_the_number_of_devices(regime):
  if regime == 'multi-label':
    fields = {}
  elif regime == 'streams':
    streams = {name: dict(name='toy:Toy', batch_size=16) for name in ('digit', 'grade')}
    fields = dict(data=dict(streams=streams), tasks={name: HEADS[name] for name in streams})
  else:
    mixture = {'digit': dict(name='toy:Toy', weight=1.0), 'grade': dict(name='toy:Toy', weight=1.0)}
    fields = dict(data=dict(mixture=mixture, batch_size=32, block_size=8), tasks={name: HEADS[name] for name in mixture})
  results, text = [], ''
  for devices in (1, 8):
    run, state, metrics = train(toy.config(mesh=dict(data=devices), aggregator=dict(name='upgrad'), **fields))
    results.append((jax.device_get(state.params), metrics))
    text = run.describe()
  assert ('disjoint (chosen)' in text) == (regime != 'multi-label')
  for a, b in zip(jax.tree.leaves(results[0][0]), jax.tree.leaves(results[1][0])):
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)  # Adam divides by small second moments
  assert results[0][1]['eval/loss'] == pytest.approx(results[1][1]['eval/loss'], rel=1e-4)


@pytest.mark.parametrize('regime', ['streams', 'mixture'])
def test_the_disjoint_plan_is_the_explicit_jacobian(regime):
  """Tasks with rows of their own, kept apart by sinks, against every task's gradient on the whole batch."""
  if regime == 'streams':
    streams = {'digit': dict(name='toy:Toy', batch_size=16), 'grade': dict(name='toy:Toy', batch_size=16),
               'odd': dict(name='toy:Toy', batch_size=8)}  # two alike, one of another size
    tasks = {name: HEADS.get(name, dict(label=name, head=dict(name='classification', classes=2))) for name in streams}
    data = dict(streams=streams)
  else:
    tasks = {name: HEADS[name] for name in ('digit', 'grade')}
    data = dict(mixture={'digit': dict(name='toy:Toy', weight=3.0), 'grade': dict(name='toy:Toy', weight=1.0)},
                batch_size=20, block_size=8)  # blocks do not fit batches, so the counts vary
  steps = []
  for plan in ('disjoint', 'jacobian'):
    run = experiment.build(toy.config(data=data, tasks=tasks, aggregator=dict(name='cagrad'), gradients=dict(plan=plan)))
    state = run.init()
    engine = run.stages[0].engine
    steps.append(jax.jit(engine)(state.params, state.gradients, run.batch(1), jax.random.key(0), 0))
  np.testing.assert_allclose(steps[0].losses.sums, steps[1].losses.sums, rtol=1e-5)
  assert steps[0].losses.weights.tolist() == steps[1].losses.weights.tolist()
  for a, b in zip(jax.tree.leaves(steps[0].gradient), jax.tree.leaves(steps[1].gradient)):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_unmixed_batches_hold_one_task_each_and_tbgn_is_told_which():
  mixture = {'digit': dict(name='toy:Toy', weight=3.0), 'grade': dict(name='toy:Toy', weight=1.0)}
  sampling = {'digit': 0.75, 'grade': 0.25}
  config = toy.config(
    data=dict(mixture=mixture, batch_size=16, block_size=4, unmixed=True),
    tasks={name: HEADS[name] for name in mixture}, aggregator=dict(name='linear_scalarisation'),
    optimizer=dict(name='tbgn', lr=1e-3, sampling=list(sampling.values())))
  run = experiment.build(config)
  sizes = [run.objective(run.init().params, run.batch(step), jax.random.key(0), step).weights.tolist()
           for step in range(8)]
  assert sorted(map(tuple, sizes)) == [(0, 16)] * 2 + [(16, 0)] * 6
  _, metrics = run.train(run.init())
  assert all(np.isfinite(value) for value in metrics.values())


def test_accumulation_gives_the_large_batch():
  for fields in ({}, dict(aggregator=dict(name='upgrad'))):
    states = [train(toy.config(gradients=dict(accumulate=parts), **fields))[1] for parts in (1, 4)]
    for a, b in zip(jax.tree.leaves(states[0].params), jax.tree.leaves(states[1].params)):
      np.testing.assert_allclose(a, b, rtol=1e-3, atol=2e-5)  # Adam divides by small second moments


def test_rotations_are_trained_by_their_own_loss():
  tasks = {name: dict(HEADS[name], head=dict(name='rotated', size=8, head=HEADS[name]['head']))
           for name in ('digit', 'grade')}
  run, state, _ = train(toy.config(tasks=tasks, aggregator=dict(name='rotograd')))
  for name in tasks:
    a = np.asarray(state.params['heads'][name]['rotation'])
    assert a.shape == (8, 8) and np.abs(a).max() > 1e-3  # it began as zeros
  run, state, _ = train(toy.config(tasks=tasks, aggregator=dict(name='mgda_ub')))
  assert not np.asarray(state.params['heads']['digit']['rotation']).any(), 'the task losses do not move it'


def test_a_stage_has_its_own_method(tmp_path):
  stages = (dict(name='sum', steps=4), dict(name='nash', steps=4, aggregator=dict(name='nash_mtl')),
            dict(name='flat', steps=4, sharpness=dict(name='sam')))
  config = toy.config(stages=stages)
  run, whole, _ = train(config, tmp_path / 'whole')
  assert [stage.engine.aggregator.name if stage.engine else None for stage in run.stages] == [
    None, 'nash_mtl', 'linear_scalarisation']
  for stop in (4, 6):
    StopAfter.steps = stop
    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(loop, 'StopRequest', StopAfter)
      train(config, tmp_path / f'stop{stop}')
    assert_same(whole, train(config, tmp_path / f'stop{stop}')[1])


def test_gradients_that_are_not_finite_stop_the_run_after_a_limit(tmp_path, caplog):
  tasks = {'digit': HEADS['digit'], 'ink': dict(HEADS['ink'], loss='toy:nan_loss')}
  config = toy.config(tasks=tasks, aggregator=dict(name='pcgrad'), gradients=dict(max_bad=20))
  _, state, _ = train(config, tmp_path / 'tolerated')
  assert state.gradients.bad.tolist() == [0, 12]
  assert [line['gradients/masked/ink'] for line in lines(tmp_path / 'tolerated') if line['split'] == 'train'] == [3] * 4
  config = toy.config(tasks=tasks, aggregator=dict(name='pcgrad'), gradients=dict(max_bad=4))
  with pytest.raises(loop.NonFiniteLoss, match="gradient of task 'ink' was not finite at 6 steps; "
                                              "'gradients.max_bad' allows 4"):
    train(config, tmp_path / 'stopped')
  assert json.loads((tmp_path / 'stopped' / 'run.json').read_text())['status'] == 'failed'


ERRORS = [
  (dict(aggregator=dict(name='pcgard')), "Unknown aggregator 'pcgard'. Did you mean 'pcgrad'?"),
  (dict(aggregator=dict(name='cagrad', d=0.4)), "Unknown config key 'aggregator.d'. "),
  (dict(aggregator=dict(name='cagrad', c=-1)), 'cagrad: c must be'),
  (dict(aggregator=dict(name='upgrad', preference={'digit': 1.0})), "'aggregator.preference' has no entry for task 'ink'"),
  (dict(aggregator=dict(name='upgrad', preference={'digit': 1.0, 'inc': 1.0})),
   "Unknown config key 'aggregator.preference.inc'. Did you mean 'ink'?"),
  (dict(aggregator=dict(name='upgrad', preference=[1.0, -1.0])), 'preference must hold finite numbers >= 0, not all 0'),
  (dict(aggregator=dict(name='upgrad', preference=[0.0, 0.0])), 'preference must hold finite numbers >= 0, not all 0'),
  (dict(aggregator=dict(name='upgrad', preference=[1.0])), "'aggregator.preference' has 1 entries, but there are 2 tasks"),
  (dict(aggregator=dict(name='mgda', solver='slsqp')), "solver"),
  (dict(aggregator=dict(name='pcgrad'), gradients=dict(everyk=8)),
   "Unknown config key 'gradients.everyk'. Did you mean 'every_k'?"),
  (dict(gradients=dict(every_k=8)), "'gradients.every_k' says how task gradients are resolved, but no 'aggregator'"),
  (dict(sharpness=dict(name='ftl')), "'sharpness' is ftl, which aggregates; name an 'aggregator'"),
  (dict(sharpness=dict(name='sma')), "Unknown sharpness 'sma'. Did you mean 'sam'?"),
  (dict(sharpness=dict(name='ftl'), aggregator=dict(name='mgda'), gradients=dict(every_k=2)),
   "has no use for 'gradients.every_k'"),
  (dict(aggregator=dict(name='pcgrad'), tasks={'digit': HEADS['digit']}),
   'pcgrad resolves conflict between tasks, but there is only one task'),
  (dict(optimizer=dict(name='tbgn', lr=1e-3, sampling=[0.5, 0.4])), 'sampling'),
]


@pytest.mark.parametrize('fields,text', ERRORS, ids=[text[:40] for _, text in ERRORS])
def test_mistakes_are_said_before_anything_is_compiled(fields, text):
  with pytest.raises(ValueError, match=text):
    experiment.build(toy.config(**fields))
