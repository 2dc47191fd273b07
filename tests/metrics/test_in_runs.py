"""Metrics in a run: told of their head, with columns besides the label, on two devices; their directions in the report."""
import json

import jax
import numpy as np
import pytest
import toy

from mtjax import experiment, metrics
from mtjax.studies.run_record import Record, Score
from mtjax.training.state import eval_params

TASKS = {
  'odd': dict(label='odd', head=dict(name='classification', classes=2), metrics=(
    'normalised_entropy', dict(name='gauc', group='grade'), 'mcc')),
  'digit': dict(label='digit', head=dict(name='classification', classes=10), metrics=(
    dict(name='ndcg', k=3), dict(name='ndcg', k=1), dict(name='hit_rate', k=1), 'accuracy', 'miou',
    dict(name='reliability', bins=2))),
  'ink': dict(label='ink', head=dict(name='regression', mean=4.9), metrics=(
    dict(name='concordance_index', event='odd'), 'rmse')),
}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  run = experiment.build(toy.config(tasks=TASKS, steps=1, log_every=1, eval_every=1, mesh=dict(data=2)), workdir)
  state, _ = run.train(run.init())
  return run, state, run.evaluate(state, 'validation')


def test_numbers_are_those_of_the_metrics_on_all_rows(run):
  run, state, found = run
  (batch,) = run.streams['Toy'].eval_batches('validation', 300)

  @jax.jit
  def states(params):
    outputs = run.objective.outputs(params, {'Toy': batch})
    return {name: task.metrics.update(task.metrics.init(), outputs[name], task.view(batch))
            for name, task in run.objective.tasks.items()}

  for task, whole in states(eval_params(state)).items():
    for name, value in run.objective.tasks[task].metrics.compute(jax.device_get(whole)).items():
      # Two devices and batches of 64 multiply matrices in another order.
      np.testing.assert_allclose(found[f'eval/{task}/{name}'], value, rtol=1e-5, err_msg=name)
  assert found['eval/digit/hr@1'] == pytest.approx(found['eval/digit/accuracy'])
  assert found['eval/digit/ndcg@1'] == pytest.approx(found['eval/digit/hr@1']) != found['eval/digit/ndcg@3']
  assert found['eval/digit/reliability/0/n'] + found['eval/digit/reliability/1/n'] == 300


def test_the_report_reads_directions_that_the_run_wrote_down(run):
  run, _, _ = run
  recorded = json.loads((run.workdir / 'run.json').read_text())['metrics']
  assert recorded['odd']['ne'] == {'higher_is_better': False, 'range': [0.0, None], 'primary': True, 'null_value': 1.0}
  record = Record.read(run.workdir)
  assert not record.higher_is_better('odd', 'ne') and record.higher_is_better('ink', 'concordance_index')
  assert record.higher_is_better('digit', 'reliability/0/n') is None and not record.higher_is_better('digit', 'loss')
  assert record.names('digit') == ['ndcg@3', 'ndcg@1', 'hr@1', 'accuracy', 'miou', 'loss']   # bins are no scores
  page = run.report().read_text(encoding='utf-8')
  assert 'ne ↓' in page and 'mcc ↑' in page and 'gauc ↑' in page


def test_the_best_step_is_that_of_the_direction(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(
    json.dumps({'step': step, 'split': 'validation', 'eval/a/ne': value}) for step, value in ((1, 0.9), (2, 0.7), (3, 0.8))))
  assert Score.of(Record.read(tmp_path), 'a', 'ne').best_step == 1                           # told by its name: wrong
  spec = metrics.normalised_entropy().specs[0]
  (tmp_path / 'run.json').write_text(json.dumps({'metrics': {'a': {'ne': spec.to_json()}}}))
  assert Score.of(Record.read(tmp_path), 'a', 'ne').best_step == 2


@pytest.mark.parametrize('task, words', [
  (dict(label='digit', head=dict(name='linear', classes=10), metrics=('bleu',)), "'bleu' is for heads of kind 'text', got 'softmax'"),
  (dict(label='digit', head=dict(name='linear', classes=10), metrics=('accuracy', 'mcc', 'accuracy')), "gives 'accuracy' twice"),
  (dict(label='ink', head=dict(name='regression'), metrics=(dict(name='miou', classes=3),)), "'miou' is for heads of kind"),
  (dict(label='digit', head=dict(name='linear', classes=10), metrics=(dict(name='ndcg', k=0),)), 'k=0; allowed is an integer >= 1'),
  (dict(label='odd', head=dict(name='linear', classes=2), metrics=(dict(name='gauc', group='usr'),)), "no label column 'usr'"),
  (dict(label='odd', head=dict(name='linear', classes=2), metrics=('gauc',)), "missing a required argument: 'group'"),
])
def test_what_does_not_fit_is_said_before_anything_is_compiled(task, words):
  with pytest.raises(ValueError) as error:
    experiment.build(toy.config(tasks={'it': task}))
  assert words in str(error.value)
