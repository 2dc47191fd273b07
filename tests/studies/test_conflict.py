"""What a report says of conflict: sentences by hand-made logs, every figure with its numbers, and a real run."""
import json
import math

import numpy as np
import pytest
import toy
from test_run_report import report

from mtjax import experiment
from mtjax.studies import conflict, run_record
from mtjax.training import writers

pytest.importorskip('matplotlib')

# Cosines of a and b, a and c, b and c at steps 10 … 50. Means: -.1, .04, and .2 over the three lines that have it.
COSINES = [(-0.3, 0.0, None), (0.1, 0.2, 0.1), (-0.2, -0.1, 0.2), (0.1, 0.0, 0.3), (-0.2, 0.1, None)]


def lines(names=('a', 'b', 'c'), progress=(0.5, 0.4, -0.25, 0.3, -0.1)):
  """Five lines; the norms are 4, 2, 1 all along."""
  for n, cosines in enumerate(COSINES):
    values = {f'train/{name}/loss': 1.0 for name in names} | {'train/loss': 3.0}
    values |= {f'gradients/weight/{name}': 0.5 for name in names}
    values |= {f'gradients/norm/{name}': 4.0 / 2**i for i, name in enumerate(names)}
    values |= {'gradients/weight_entropy': 0.9, 'gradients/conflicts': n / 10, 'gradients/norm_spread': 4.0,
               'gradients/worst_progress': progress[n], 'gradients/stationarity': 0.8}
    pairs = [(i, j) for i in range(len(names)) for j in range(i + 1, len(names))]
    values |= {f'gradients/cosine/{names[i]}/{names[j]}': cosine
               for (i, j), cosine in zip(pairs, cosines) if cosine is not None}
    yield 10 * (n + 1), values


def write(workdir, written, config=None, **run):
  with writers.MetricWriter(workdir, tensorboard=False) as writer:
    for step, values in written:
      writer.write(step, 'train', values)
  (workdir / 'config.json').write_text(json.dumps(config or {}))
  (workdir / 'run.json').write_text(json.dumps({'status': 'finished', **run}))
  return run_record.Record.read(workdir)


def test_cosines_of_a_log(tmp_path):
  found = conflict.Cosines(write(tmp_path, lines()))
  assert found.names == ['a', 'b', 'c'] and found.steps == [10, 20, 30, 40, 50]
  mean = found.mean()
  np.testing.assert_allclose([mean[0, 1], mean[0, 2], mean[1, 2]], [-0.1, 0.04, 0.2], atol=1e-12)
  np.testing.assert_array_equal(mean, mean.T)
  assert np.isnan(np.diag(mean)).all()
  late = found.mean(found.last_quarter)                     # 5 // 4 = 1: the last line alone
  assert late[0, 1] == -0.2 and late[0, 2] == 0.1 and np.isnan(late[1, 2])
  assert found.pairs() == [(0, 1), (0, 2), (1, 2)]
  assert found.below_zero(0, 1) == (3, 5) and found.below_zero(1, 2) == (0, 3)


def test_what_is_seen_in_words(tmp_path):
  record = write(tmp_path, lines())
  text = ' '.join(conflict.sentences(record, conflict.Cosines(record)))
  assert text == (
    '20 % of the pairs of gradients conflict (their cosine is below 0), 40 % in the last quarter. Most at odds are a '
    'and b: mean cosine −0.100, below 0 in 3 of 5 log lines. The worst-off task is set back in 2 of 5 log lines, its '
    'progress falling to −0.250 at step 30 (1 = a step along its own gradient). The gradient of a is the longest, on '
    'average 4.00 times that of c.')


def test_two_tasks_of_which_none_is_set_back(tmp_path):
  record = write(tmp_path, lines(('<b>', 'x'), progress=(0.5, 0.4, 0.25, 0.3, 0.1)))
  text = ' '.join(conflict.sentences(record, conflict.Cosines(record)))
  assert 'The gradients of <b> and x conflict (their cosine is below 0) at 20 % of the steps, 40 % in the last' in text
  assert 'mean cosine is −0.100' in text
  assert 'gains in every log line: its least progress is 0.100 at step 50' in text
  report(tmp_path).assert_says('The gradients of <b> and x conflict')


def test_the_section_has_every_figure_with_its_numbers_and_training_has_none_of_it(tmp_path):
  method = {'name': 'cr_mogm', 'decay': 0.9, 'aggregator': {'name': 'pcgrad'}}
  config = {'tasks': dict.fromkeys('abc', {}), 'aggregator': method, 'gradients': {'every_k': 4}}
  write(tmp_path, lines(), config, gradients={'train': {
    'method': 'cr_mogm', 'needs': 'gramian', 'plan': 'tape', 'description': 'cr_mogm over 3 tasks'}})
  page = report(tmp_path)
  page.assert_says(
    'Method cr_mogm(decay=0.9, aggregator=pcgrad) Computed from the Gramian Gradients of the shared parameters '
    'Plan tape (cheapest) Options every_k=4', 'cr_mogm over 3 tasks',
    'Mean over the run', 'Last quarter, from step 50', 'task task cosine last quarter lines below 0',
    'a b −0.100 −0.200 3 of 5 a c 0.04 0.100 1 of 5 b c 0.200 – 0 of 3',
    'Conflicting pairs', 'step conflicting pairs', 'Progress of the worst-off task', 'step worst progress',
    'Stationarity gap', 'step stationarity gap', 'Norm of the gradients', 'step a b c longest / shortest',
    'Weights', 'step a b c entropy')
  text = ' '.join(page.text)
  training = text[text.rindex('Training'):text.rindex('Config')]
  assert 'gradients' not in training and 'stationarity' not in training
  assert ('a', 'href', '#conflict') in page.attributes


def test_a_method_of_losses_shows_its_weights_only(tmp_path):
  kept = [(step, {key: value for key, value in values.items()
                  if not key.startswith('gradients/') or 'weight' in key}) for step, values in lines()]
  write(tmp_path, kept, {'aggregator': {'name': 'famo'}})
  page = report(tmp_path)
  page.assert_says('Method famo', 'This method compares no gradients', 'Weights', 'step a b c entropy')
  assert 'Mean over the run' not in ' '.join(page.text) and 'Norm of the gradients' not in ' '.join(page.text)


def test_masked_gradients_names_of_users_and_values_that_are_not_finite(tmp_path):
  written = list(lines())
  written[1][1]['gradients/masked/b'] = 3
  written[2][1]['gradients/masked/b'] = 2
  written[3][1].update({'gradients/worst_progress': math.nan, 'gradients/cosine/a/c': math.nan, 'gradients/my_own': 7.5})
  write(tmp_path, written)
  report(tmp_path).assert_says('The gradient of b was not finite, and was left out, at 5 steps.', 'my own', 'step my_own',
                               '7.5000', 'a c 0.05 0.100 1 of 4', 'set back in 2 of 4 log lines')


def test_stages_with_methods_of_their_own(tmp_path):
  config = {'stages': [{'name': 'warm', 'steps': 20, 'aggregator': {}}, {'steps': 20, 'gradients': {'plan': 'tape'}},
                       {'name': 'end', 'steps': 10, 'aggregator': {'name': 'mgda_ub'}}],
            'aggregator': {'name': 'upgrad'}}
  known = {'end': {'method': 'mgda_ub', 'needs': 'gramian', 'plan': 'features', 'description': 'z'}}
  write(tmp_path, lines(), config, gradients=known)
  page = report(tmp_path)
  page.assert_says('Stage from 20 Method upgrad Gradients of the shared parameters Plan tape',
                   'Stage end Method mgda_ub Computed from the Gramian Gradients of the shared representation')
  assert 'Stage warm' not in ' '.join(page.text)


def test_twenty_tasks(tmp_path):
  names = [f'task_{i}_with_a_long_name' for i in range(20)]
  values = {f'gradients/cosine/{a}/{b}': -0.1 for i, a in enumerate(names) for b in names[i + 1:]}
  values |= {f'gradients/{what}/{name}': 0.5 for name in names for what in ('norm', 'weight')}
  values |= {f'train/{name}/loss': 1.0 for name in names} | {'gradients/conflicts': 1.0}
  write(tmp_path, [(step, values) for step in (1, 2, 3, 4)])
  page = report(tmp_path)
  page.assert_says('100 % of the pairs of gradients conflict')
  assert page.tags.count('rect') >= 2 * 400


def test_a_run_without_an_aggregator_has_no_such_section(tmp_path):
  write(tmp_path, [(1, {'train/a/loss': 1.0})], {'aggregator': {}})
  assert 'Conflict between tasks' not in ' '.join(report(tmp_path).text)


def test_a_real_run(tmp_path):
  run = experiment.build(toy.config(aggregator={'name': 'pcgrad'}), tmp_path)
  run.train(run.init())
  recorded = json.loads((tmp_path / 'run.json').read_text())['gradients']
  assert recorded == run._engines and recorded['train']['plan'] in ('tape', 'jacobian')
  assert recorded['train']['description'] in run.describe()
  page = report(tmp_path)
  page.assert_says('Method pcgrad Computed from the Gramian Gradients of the shared parameters Plan '
                   f'{recorded["train"]["plan"]} (cheapest)', 'The gradients of digit and ink conflict')
  record = run_record.Record.read(tmp_path)
  assert set(record.gradients()) == {
    'weight/digit', 'weight/ink', 'weight_entropy', 'conflicts', 'norm_spread', 'worst_progress', 'stationarity',
    'norm/digit', 'norm/ink', 'cosine/digit/ink'}


def test_affinity_is_drawn_where_it_was_measured(tmp_path):
  def measured():
    for n, (step, values) in enumerate(lines()):
      if n % 2 == 0:
        values |= {f'gradients/affinity/{a}/{b}': 0.5 if a == b else (0.02 if (a, b) == ('a', 'b') else -0.01)
                   for a in 'abc' for b in 'abc'}
      yield step, values
  record = write(tmp_path, measured())
  body = str(conflict.section(record)[2])
  assert 'Affinity: what a step for the row’s task does to the column’s loss' in body
  assert '0.020' in body and '−0.010' in body and '0.500' in body
  found = conflict.mean_matrices([tmp_path, tmp_path])
  assert found['tasks'] == ['a', 'b', 'c'] and found['cosine'][0][1] == pytest.approx(-0.1) == found['cosine'][1][0]
  assert found['affinity'][0][1] == pytest.approx(0.02) and found['affinity'][2][0] == pytest.approx(-0.01)


def test_there_is_no_affinity_where_none_was_measured(tmp_path):
  record = write(tmp_path, lines())
  assert 'Affinity' not in str(conflict.section(record)[2])
  assert conflict.mean_matrices([tmp_path])['affinity'] is None
  (tmp_path / 'plain').mkdir()
  write(tmp_path / 'plain', [(10, {'train/a/loss': 1.0})])
  assert conflict.mean_matrices([tmp_path / 'plain']) is None
