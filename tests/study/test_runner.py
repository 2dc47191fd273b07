"""A study from its file to its verdict: cells, resume, failures, sweeps, processes, the command line."""
import json
import subprocess
import sys

import pytest
import toy

from mtjax import study as studies
from mtjax.studies.score_frame import ScoreFrame
from mtjax.study import Runner, Search, Study, not_worse, single_task
from mtjax.study.__main__ import main, parse, publish


def small(**fields):
  config = toy.config(steps=8, log_every=4, eval_every=4, checkpoint_every=8)
  return Study(**{'claim': 'Sharing helps.', 'config': config, 'seeds': 2, 'metric': 'delta_m',
                  'arms': {'joint': {}, 'single': single_task()}, 'verdict': 'joint > single', **fields})


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  runner = Runner(small(), tmp_path_factory.mktemp('study') / 'toy', command='python -m mtjax.study …')
  return runner, runner.run()


def test_the_verdict_says_all_that_a_reader_needs(finished):
  runner, verdict = finished
  stored = json.loads((runner.folder / 'verdict.json').read_text())
  assert stored['holds'] in (True, False, None) and stored['claim'] == 'Sharing helps.'
  joint, single = stored['arms']['joint'], stored['arms']['single']
  assert joint['status'] == 'finished' and joint['n'] == 2 and joint['steps'] == 8 and joint['seconds'] > 0
  assert single['params'] > joint['params']  # an encoder for each task
  assert joint['delta_m']['mean'] == pytest.approx(joint['mean']) and single['mean'] == 0
  assert joint['mean_rank']['mean'] + single['mean_rank']['mean'] == pytest.approx(3)
  pair = stored['comparisons'][0]
  assert (pair['a'], pair['b'], pair['task'], pair['n']) == ('joint', 'single', None, 2)
  assert pair['difference'] == pytest.approx(joint['mean']) and len(pair['interval']) == 2
  assert {entry['task'] for entry in stored['comparisons'][1:]} == {'digit', 'ink'}
  assert any('fewer than five' in text for text in stored['warnings'])
  assert any('Unequal parameters' in text for text in stored['warnings'])
  assert len(stored['cells']) == 2 + 4 and stored['selection'] == 'last' and stored['versions']['jax']
  assert 'Sharing helps.' in (runner.folder / 'report.html').read_text()
  assert 'Sharing helps.' in (runner.folder / 'report.md').read_text()
  frame = ScoreFrame.read(runner.folder / 'scores.jsonl')
  assert set(frame.unique('split')) == {'validation', 'test'} and len(frame.where(split='validation').unique('step')) == 2


def test_a_finished_cell_is_not_run_again(finished, monkeypatch):
  runner, verdict = finished
  monkeypatch.setattr('mtjax.study.runner.train_together', lambda *_, **__: pytest.fail('nothing was to be done'))
  again = Runner(small(), runner.folder).run()
  assert again['arms'] == verdict['arms'] and again['comparisons'] == verdict['comparisons']
  assert again['commit'] == verdict['commit'] and again['command'] == verdict['command']  # of what ran


def test_another_config_in_the_folder_is_refused(finished):
  runner, _ = finished
  changed = small(arms={'joint': {'optimizer.lr': 0.5}, 'single': single_task()})
  with pytest.raises(ValueError, match=r'joint, seed 0 was run before with another config.*\n  optimizer.lr: 0.003 -> 0.5'):
    Runner(changed, runner.folder).run()


def test_a_broken_config_is_said_before_anything_runs(tmp_path):
  with pytest.raises(ValueError, match="Arm 'typo': Unknown config key 'optimiser'"):
    Runner(small(arms={'good': {}, 'typo': {'optimiser': {}}}, verdict=None, metric='digit/accuracy'), tmp_path).run()
  assert not (tmp_path / 'cells').exists()


def test_a_failed_cell_is_shown_and_tried_again(tmp_path):
  bad = {'tasks.digit.loss': 'toy:nan_loss'}
  study = small(arms={'good': {}, 'bad': bad}, verdict='good > bad', metric='digit/accuracy')
  verdict = Runner(study, tmp_path).run()
  assert verdict['arms']['bad']['status'] == 'failed' and verdict['arms']['good']['status'] == 'finished'
  assert verdict['holds'] is None and 'Not yet run: bad' in verdict['sentence']
  assert '2 of 4 runs are not finished, 2 of them failed.' in verdict['warnings']
  cell = next(cell for cell in verdict['cells'] if cell['arm'] == 'bad')
  assert cell['status'] == 'failed' and 'not finite' in cell['message']
  page = (tmp_path / 'report.html').read_text()
  assert 'failed' in page and 'bad' in page


def test_the_best_checkpoint_is_that_of_validation(tmp_path):
  study = small(arms={'a': {'optimizer.lr': 0.003}, 'b': {}}, verdict='a > b', metric='digit/accuracy', selection='best', seeds=1)
  verdict = Runner(study, tmp_path).run()
  assert verdict['selection'] == 'best:eval/loss'
  assert verdict['comparisons'][0]['difference'] == 0 and verdict['holds'] is None  # the same arm


def test_another_selection_in_the_same_folder_tests_again(tmp_path):
  def run(selection):
    return Runner(small(arms={'a': {'optimizer.lr': 0.3}, 'b': {}}, verdict='b > a', metric='digit/accuracy', seeds=1,
                        selection=selection), tmp_path).run()
  last, best = run('last'), run('best')
  lines = [json.loads(line) for line in (tmp_path / 'cells/a/0/metrics.jsonl').read_text().splitlines()]
  loss = {line['step']: line['eval/loss'] for line in lines if line['split'] == 'validation'}
  tested = {line['step']: line['eval/digit/accuracy'] for line in lines if line['split'] == 'test'}
  assert last['arms']['a']['mean'] == pytest.approx(tested[8])
  assert best['arms']['a']['mean'] == pytest.approx(tested[min(loss, key=loss.get)])
  assert best['arms']['a']['steps'] == min(loss, key=loss.get)
  assert run('last')['arms']['a'] == last['arms']['a']


def test_arms_and_seeds_can_be_chosen(tmp_path):
  verdict = Runner(small(), tmp_path, arms=['joint'], seeds=[7]).run()
  assert verdict['arms']['joint']['seeds'] == [7] or verdict['arms']['joint']['n'] == 0  # Δm waits for its baseline
  assert verdict['arms']['single']['status'] == 'missing' and verdict['holds'] is None
  with pytest.raises(ValueError, match="Unknown arm 'jiont'. Did you mean 'joint'"):
    Runner(small(), tmp_path, arms=['jiont'])


def test_a_sweep_is_judged_on_validation_and_goes_on(tmp_path):
  search = Search({'optimizer.lr': [1e-5, 3e-2]}, method='grid')
  study = small(arms={'given': {}}, search=search, verdict=not_worse('(chosen)', 'given', margin=1.0), metric='digit/accuracy', seeds=2)
  verdict = Runner(study, tmp_path).run()
  found = verdict['search']
  assert found['chosen'] == 'lr=0.03' and found['validation']['lr=0.03'] > found['validation']['lr=1e-05']
  assert set(verdict['arms']) == {'given', 'lr=1e-05', 'lr=0.03'}
  pair = verdict['comparisons'][0]
  assert (pair['a'], pair['b'], pair['role']) == ('lr=0.03', 'given', 'not worse') and verdict['holds'] is True
  again = Runner(study, tmp_path).run()
  assert again['arms'] == verdict['arms'] and again['search'] == verdict['search']
  told = Runner(study, tmp_path).write()  # the report alone finds what was tried
  assert told['arms'] == verdict['arms'] and told['search'] == verdict['search']


def test_a_verdict_may_be_a_function(tmp_path, finished):
  runner, _ = finished
  seen = []
  verdict = Runner(small(verdict=lambda frame: seen.append(frame.unique('arm')) or False), runner.folder).write()
  assert verdict['holds'] is False and seen == [['joint', 'single']] and verdict['comparisons'] == []
  Runner(small(), runner.folder).write()


FILE = '''
import toy
from mtjax.study import Study, single_task
def get_study(arg='8'):
  config = toy.config(steps=int(arg), log_every=4, eval_every=8, checkpoint_every=8)
  return Study(claim='Sharing helps.', config=config, arms={'joint': {}, 'single': single_task()}, seeds=2,
               metric='digit/accuracy', verdict='joint > single')
'''


def test_the_command_line(tmp_path, capsys):
  (tmp_path / 'mine.py').write_text(FILE)
  arguments = [f'--study={tmp_path / "mine.py"}:8', f'--workdir={tmp_path / "out"}', '--smoke']
  main(['study', *arguments])
  printed = capsys.readouterr().out
  assert 'Claim: Sharing helps.' in printed and 'Report:' in printed and 'Warning: A smoke run' in printed
  stored = json.loads((tmp_path / 'out' / 'smoke' / 'verdict.json').read_text())
  assert stored['smoke'] and stored['study'] == 'mine_8' and stored['command'].startswith('python -m mtjax.study --study=')
  target = publish(tmp_path / 'out' / 'smoke', tmp_path / 'results', 'mine')
  assert sorted(path.name for path in target.iterdir()) == ['report.html', 'report.md', 'scores.jsonl', 'verdict.json']
  assert 'Sharing helps.' in (tmp_path / 'results' / 'index.html').read_text()


def test_arms_in_processes(tmp_path):
  (tmp_path / 'mine.py').write_text(FILE)
  command = [sys.executable, '-m', 'mtjax.study', f'--study={tmp_path / "mine.py"}', f'--workdir={tmp_path / "out"}', '--jobs=2']
  done = subprocess.run([*command, '--seeds=0,'], capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  assert sorted(path.name for path in (tmp_path / 'out' / 'logs').iterdir()) == ['joint.log', 'single.log']
  stored = json.loads((tmp_path / 'out' / 'verdict.json').read_text())
  assert [arm['status'] for arm in stored['arms'].values()] == ['finished', 'finished'] and stored['seeds'] == [0]


def test_bad_files_and_options(tmp_path, capsys):
  with pytest.raises(FileNotFoundError, match='There is no file'):
    studies.load_study(str(tmp_path / 'none.py'))
  (tmp_path / 'empty.py').write_text('')
  with pytest.raises(ValueError, match='has no get_study'):
    studies.load_study(str(tmp_path / 'empty.py'))
  (tmp_path / 'wrong.py').write_text('get_study = dict')
  with pytest.raises(ValueError, match='must give an mtjax.study.Study, got dict'):
    studies.load_study(str(tmp_path / 'wrong.py'))
  for wrong in (['--jobs=0'], ['--seeds=a']):
    with pytest.raises(SystemExit):
      parse(['--study=x.py', '--workdir=y', *wrong])
  assert parse(['--study=x.py', '--workdir=y', '--seeds=3']).seeds == [0, 1, 2]
  assert parse(['--study=x.py', '--workdir=y', '--arms=a; b, c']).arms == ['a', 'b, c']
