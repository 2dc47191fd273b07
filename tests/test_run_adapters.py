"""Runs whose encoder is frozen and adapted: what is trained, mixed rows, predictions with a task a row."""
import json
import pathlib
import re

import jax
import numpy as np
import pytest
import toy
from adapters import table

from mtjax import experiment, prediction_io, tree
from mtjax.adapters import Spec
from mtjax.context import Ctx

LORA = dict(site='output', match=r'fc1$', method=dict(name='lora', rank=2), bank=dict(per='task'))


def config(**fields):
  return toy.config(**{'adapters': [LORA], 'steps': 6, 'ema': 0.5, **fields})


def trained(run):
  before = run.init(quiet=True)
  base = jax.device_get(before.params['encoder'])
  state, metrics = run.train(before)
  return base, state, metrics


def test_only_adapters_and_heads_are_trained(tmp_path):
  run = experiment.build(config(), tmp_path)
  base, state, metrics = trained(run)
  jax.tree.map(np.testing.assert_array_equal, base, jax.device_get(state.params['encoder']))
  adapters = state.params['adapters']['adapters']['fc1']['@lora']
  assert adapters['a'].shape == (2, 64, 2) and np.any(adapters['b'][0]) and np.any(adapters['b'][1])
  learnt = tree.count(state.params['adapters']) + tree.count(state.params['heads'])
  big = [x for x in jax.tree.leaves(state.opt_state) if x.ndim]
  assert sum(x.size for x in big) == 2 * learnt and tree.count(state.ema) == learnt  # Adam's two moments
  assert metrics['eval/digit/accuracy'] >= 0
  again = experiment.load_run(tmp_path)  # resumed, and its config is plain data
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.init().params), jax.device_get(state.params))


def test_a_step_differentiates_nothing_else():
  run = experiment.build(config(aggregator=dict(name='pcgrad')))
  stage, state = run.stages[0], run.init(quiet=True)
  assert [path for path, trained in stage.trainable.items() if trained and path.startswith('encoder/')] == []
  learnt, _ = tree.partition(state.params, stage.trainable)
  assert {path.split('/')[0] for path in tree.flatten(learnt)} == {'adapters', 'heads'}
  state = stage.step(state, run.batch(0))  # conflict between tasks is resolved on the adapters
  assert int(state.step) == 1 and np.isfinite(state.window.grad_norm)


def test_rows_of_several_tasks_in_one_prediction():
  run = experiment.build(config())
  _, state, _ = trained(run)
  images = np.random.default_rng(0).integers(0, 255, (5, 8, 8, 1), dtype=np.uint8)
  each = run.predict(state, images)
  mixed = run.predict(state, images, task=['ink', 'digit', 'ink', 'ink', 'digit'])
  for name, rows in {'ink': [0, 2, 3], 'digit': [1, 4]}.items():
    assert mixed[name]['rows'].tolist() == rows
    np.testing.assert_allclose(mixed[name]['prediction'], each[name]['prediction'][rows], rtol=1e-5)  # float32
  with pytest.raises(ValueError, match="Unknown task 'inks' in 'task'. Did you mean 'ink'"):
    run.predict(state, images, task=['inks'] * 5)
  with pytest.raises(ValueError, match='a task for each of the 5 rows'):
    run.predict(state, images, task=['ink'])


def test_predictions_with_a_column_that_names_the_task(tmp_path):
  file, out = tmp_path / 'rows.jsonl', tmp_path / 'out.jsonl'
  file.write_text('{"x": 1, "task": "ink"}\n{"x": 2, "task": "digit"}\n')
  assert prediction_io.read_column(str(file), 'task') == ['ink', 'digit']
  np.savez(tmp_path / 'rows.npz', x=np.zeros(2), task=np.array(['ink', 'digit']))
  assert prediction_io.read_column(str(tmp_path / 'rows.npz'), 'task') == ['ink', 'digit']
  outputs = {'ink': {'rows': np.array([0]), 'prediction': np.array([4.5])}, 'digit': {'rows': np.array([1]), 'prediction': np.array([7])}}
  prediction_io.write_outputs(str(out), outputs, ['0', '1'])
  assert [json.loads(line) for line in out.read_text().splitlines()] == [
    {'input': '0', 'ink': {'prediction': 4.5}}, {'input': '1', 'digit': {'prediction': 7}}]
  with pytest.raises(ValueError, match="has no 'tusk'. Did you mean 'task'"):
    prediction_io.read_column(str(tmp_path / 'rows.npz'), 'tusk')


def test_streams_of_a_task_each_go_through_the_encoder_together():
  streams = {name: dict(name='toy:Toy', batch_size=8) for name in ('digit', 'ink')}
  run = experiment.build(config(data=dict(streams=streams, seed=0)))
  state = run.init(quiet=True)
  state = state.replace(params={**state.params, 'adapters': jax.tree.map(lambda x: x + 0.1, state.params['adapters'])})
  outputs = run.objective.outputs(state.params, run.batch(0))
  for name in ('digit', 'ink'):
    alone = run.objective.outputs(state.params, {name: run.batch(0)[name]})[name]
    np.testing.assert_allclose(outputs[name], alone, rtol=1e-5, atol=1e-5)  # float32, other tiles of the product
  state, _ = run.train(state)
  assert int(state.step) == 6


def test_four_devices_train_the_adapters_that_one_trains():
  found = []
  for devices in (1, 4):
    run = experiment.build(config(mesh=dict(data=devices), steps=2))
    state, _ = run.train(run.init(quiet=True))
    found.append(jax.device_get(state.params['adapters']))
  # Sums over rows in another order; Adam's first steps divide small gradients by their size.
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), *found)


def test_trainable_base_is_trained_as_a_copy():
  run = experiment.build(config(adapters=dict(rules=[LORA], trainable_base=[r'fc1/bias$'])))
  base, state, _ = trained(run)
  jax.tree.map(np.testing.assert_array_equal, base, jax.device_get(state.params['encoder']))
  assert not np.array_equal(state.params['adapters']['base']['fc1']['bias'], base['fc1']['bias'])


@pytest.mark.parametrize('change, message', [
  (dict(match=r'fcc'), 'finds no module to adapt'),
  (dict(method=dict(name='lroa')), "'adapters.0': Unknown adapter method 'lroa'. Did you mean 'lora'"),
  (dict(method=dict(name='lora', rnk=2)), "Unknown config key 'method.rnk'"),
  (dict(mach='x'), "Unknown config key 'adapters.0.mach'. Did you mean 'match'"),
  (dict(site='outptu'), "site='outptu'. Did you mean 'output'"),
])
def test_what_is_wrong_with_a_config_is_said(change, message):
  with pytest.raises(ValueError, match=message):
    experiment.build(config(adapters=[{**LORA, **change}]))


def test_the_readme_on_adapters_runs():
  readme = (pathlib.Path(__file__).resolve().parents[1] / 'README.md').read_text(encoding='utf-8')
  made = toy.config()
  exec(re.search(r'```python\n(config\.encoder = .*?adapters.*?)```', readme, re.S).group(1), {'config': made})
  assert Spec.from_json(made.adapters).with_tasks(['a', 'b']).rules[0].bank.tasks == ('a', 'b')
  base = table.base_params()
  names = dict(key=jax.random.key(0), encoder=table.ENCODER, base=base, tokens=table.TOKENS, ids=table.IDS % 2, Ctx=Ctx)
  exec(re.search(r'```python\n(from mtjax import adapters\n.*?)```', readme, re.S).group(1), names)
  assert names['features'].tokens.shape == (5, 4, 8) and jax.tree.structure(names['alone']) == jax.tree.structure(base)
