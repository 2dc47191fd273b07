"""The report of a run says what the folder holds, whatever state the run is in."""
import json
import math
import subprocess
import sys
from html import parser

import numpy as np
import pytest

from mtjax.studies import figures, run_record, run_report
from mtjax.training import writers

pytest.importorskip('matplotlib')

VOID = {'meta', 'img', 'br', 'hr', 'wbr'}


class Page(parser.HTMLParser):
  """Parses a page, checks that its elements nest, and keeps text, attributes and ids."""

  def __init__(self, text):
    super().__init__()
    self.open, self.text, self.tags, self.attributes = [], [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, *attr) for attr in attrs]
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)
    self.attributes += [(tag, *attr) for attr in attrs]

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if 'style' not in self.open[-1:]:
      self.text.append(data)

  def assert_says(self, *parts):
    text = ' '.join(' '.join(self.text).split())
    missing = [part for part in parts if part not in text]
    assert not missing, (missing, text)


def write_run(workdir, tasks=('left', 'right'), steps=60, test=True, **run):
  with writers.MetricWriter(workdir, tensorboard=False) as writer:
    for step in range(10, steps + 1, 10):
      losses = {f'train/{task}/loss': 2 / step for task in tasks}
      writer.write(step, 'train', losses | {'train/loss': sum(losses.values()), 'time/steps_per_second': 20.0})
      for split in ('validation', 'test') if test and step == steps else ('validation',):
        # validation accuracy peaks at step 40 with 0.9
        accuracy = 0.7777 if split == 'test' else 0.9 - abs(step - 40) / 100
        writer.write(step, split, {f'eval/{task}/{name}': value for task in tasks for name, value in
                                   [('loss', 0.5), ('accuracy', accuracy), ('n', 1234)]})
  config = {'seed': 3, 'tasks': {task: {'head': {'name': 'classification'}} for task in tasks}}
  (workdir / 'config.json').write_text(json.dumps(config))
  run = {'command': 'python -m mtjax.train --config=experiments/suite/first.py:smoke --workdir=runs/first',
         'started': '2026-03-05T14:03:21+00:00', 'versions': {'jax': '0.10.2'}, 'device': 'cpu x 1',
         'parameters': 123456, 'trainable': 1000, 'seconds': 101.2, 'status': 'finished', 'message': ''} | run
  (workdir / 'run.json').write_text(json.dumps(run))
  splits = {'train': {'rows': 30000, 'fingerprint': 'ab12'}}
  (workdir / 'data.json').write_text(json.dumps({'digits': {'source': 'mnist', 'version': '1.0.0', 'splits': splits}}))


def report(workdir, **kwargs):
  path = run_report.write_run_report(workdir, **kwargs)
  assert path == workdir / 'report.html'
  return Page(path.read_text(encoding='utf-8'))


def test_a_finished_run_is_told_in_full(tmp_path):
  write_run(tmp_path)
  page = report(tmp_path)
  page.assert_says('suite/first:smoke', '✓ Finished', 'at step 60', '--workdir=runs/first', '1 min 41 s',
            '123,456, 1,000 trained', 'cpu x 1', '2026-03-05 14:03 UTC', 'accuracy ↑', 'loss ↓',
            'mnist 1.0.0', '30,000', 'ab12', 'jax', '0.10.2', 'classification', 'Steps per second, median 20.00')
  page.assert_says('left 0.778 test accuracy validation 0.700 n = 1,234')     # the headline of a task
  page.assert_says('0.7777 0.7000 0.5000 0.5000 1,234 1,234 40 0.9000')      # its row: test over validation, n, the best step
  assert page.tags.count('svg') == 2 * 2 + 2                          # two panels a task; loss and speed of the run
  assert page.tags.count('details') >= 4                              # the numbers of each figure


def test_speed_is_a_table_of_stages(tmp_path):
  warm = {'compile_seconds': 12.34, 'step_ms': 41.5, 'examples_per_second': 1542.0, 'flops_per_step': 3_210_000_000,
          'compiled_flops_per_step': 3.4e9, 'peak_flops_per_device': None, 'peak_memory_bytes': 3 << 30,
          'peak_memory_of': 'compiled step'}
  main = warm | {'tokens_per_second': 98_765.0, 'tokens_counted': 'tokens without padding', 'mfu': 0.5123,
                 'peak_flops_per_device': 9.9e14, 'peak_memory_of': 'device'}
  write_run(tmp_path, performance={'warm_up': warm, 'main': main})
  with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write(70, 'train', {'time/step_ms': 41.5, 'memory/peak_bytes': 3 << 30, 'time/mfu': 0.51})
  page = report(tmp_path)
  page.assert_says('warm_ up 12.34 41.50 1,542 – 3.21 G – 3.00 GiB', 'main 12.34 41.50 1,542 98,765 3.21 G 51.2 % 3.00 GiB',
                   'Tokens: tokens without padding.', 'Memory: what the compiled step needs, since the device keeps no '
                   'account, the most in use at once, by the account of the device.')
  assert page.tags.count('svg') == 2 * 2 + 3  # MFU is a curve as well; what the table says is not
  write_run(tmp_path / 'older')
  assert 'Speed' not in report(tmp_path / 'older').text


def test_the_file_stands_alone(tmp_path):
  write_run(tmp_path)
  picture = {'type': 'image', 'png': run_report.encode_image(np.eye(4, dtype=np.uint8))}
  page = report(tmp_path, samples={'left': {'rows': [{'input': picture}]}})
  targets = [value for _, key, value in page.attributes if key in ('src', 'href', 'xlink:href', 'data', 'action')]
  assert targets and all(value.startswith(('#', 'data:image/png;base64,')) for value in targets)
  assert not {'script', 'link', 'iframe', 'object'} & set(page.tags)
  assert 'http' not in (tmp_path / 'report.html').read_text(encoding='utf-8')
  ids = [value for _, key, value in page.attributes if key == 'id']
  assert len(ids) == len(set(ids))
  assert {value[1:] for value in targets if value.startswith('#')} <= set(ids)


def test_names_and_messages_are_escaped(tmp_path):
  hostile = '<script>alert(1)</script>'
  write_run(tmp_path, tasks=('<b>', hostile), status='failed', message=hostile, command=f'--config={hostile}')
  samples = {hostile: {'rows': [{'input': {'type': 'text', 'text': hostile}, 'label': hostile, 'prediction': hostile,
                                 'detail': hostile, 'correct': False},
                                {'input': {'type': 'image', 'png': '"><script>'}}]}}
  page = report(tmp_path, samples=samples)
  assert 'script' not in page.tags
  page.assert_says('<b> 0.778', '✗ Failed')
  assert ' '.join(page.text).count(hostile) >= 8


def test_a_torn_line_and_non_finite_values(tmp_path):
  write_run(tmp_path, test=False, status='failed', message='loss of left is nan at step 70')
  with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write(70, 'train', {'train/left/loss': math.nan, 'train/right/loss': math.inf})
    writer.write(70, 'validation', {'eval/left/accuracy': math.nan})
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write('{"step": 80, "split": "train", "train/left/lo')
  page = report(tmp_path)
  page.assert_says('✗ Failed after step 70. loss of left is nan at step 70', 'not finite', 'left – validation accuracy',
            '– 0.5000 1,234 40 0.9000')
  assert 'nan' not in ' '.join(page.text).replace('is nan at', '').lower()


def test_a_run_without_metrics_or_files(tmp_path):
  report(tmp_path).assert_says(tmp_path.name, 'Status not recorded', 'Nothing has been measured yet')
  (tmp_path / 'run.json').write_text('{"status": "running"}')
  (tmp_path / 'config.json').write_text('{"tasks": {"left"')            # damaged
  report(tmp_path).assert_says('… Running when this page was written')


def test_training_lines_only(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 0, "split": "train", "train/left/loss": 1.5}\n')
  report(tmp_path).assert_says('Nothing has been evaluated yet', 'train loss', '1.5000')


def test_many_tasks_fill_a_grid(tmp_path):
  tasks = [f'task_{i}' for i in range(16)]
  write_run(tmp_path, tasks=tasks, steps=20)
  page = report(tmp_path)
  page.assert_says(*(f'task_ {i} 0.778' for i in range(16)))
  assert page.tags.count('svg') == 2 * 16 + 2


def test_long_runs_show_some_rows_and_say_so(tmp_path):
  with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
    for step in range(1000):
      writer.write(step, 'train', {'train/left/loss': 1.0})
  page = report(tmp_path)
  page.assert_says('of 1,000 steps)')
  assert page.tags.count('tr') < 2 * figures.MAX_ROWS


def test_tasks_with_other_metrics_have_their_own_table(tmp_path):
  with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write(5, 'validation', {'eval/a/accuracy': 0.5, 'eval/b/mse': 0.25, 'eval/b/r2': 0.75})
  report(tmp_path).assert_says('task accuracy ↑ n best step', 'task mse ↓ r2 ↑ n best step')


def test_samples_are_read_from_the_folder_and_marked(tmp_path):
  vector = {'type': 'vector', 'values': list(range(20))}
  samples = {
    'text': {'rows': [
      {'input': {'type': 'text', 'text': 'so_<b>good'}, 'label': 'good', 'prediction': 'bad', 'correct': False},
      {'input': {'type': 'text', 'text': 'x' * 900}, 'label': ['a', 'b'], 'prediction': [], 'correct': True}]},
    'vector': {'rows': [{'input': vector, 'label': 1.5, 'prediction': None, 'detail': 'σ=2'}]},
    'none': {'rows': []},
  }
  (tmp_path / 'samples.json').write_text(json.dumps(samples))
  page = report(tmp_path)
  page.assert_says('1 of these 2 right', '✗ so_<b>good bad good', 'x …', '(none) a, b', '… (20) – 1.500 σ=2')
  assert ('span', 'aria-label', 'wrong') in page.attributes and ('span', 'aria-label', 'right') in page.attributes


def test_many_pictures_are_cut_short(tmp_path):
  picture = {'type': 'image', 'png': run_report.encode_image(np.eye(4, dtype=np.uint8))}
  rows = [{'input': picture, 'label': '1', 'prediction': '1', 'correct': True}] * 50
  page = report(tmp_path, samples={'left': {'rows': rows}})
  page.assert_says('50 of these 50 right; the first 48 of 50 are shown')
  assert page.tags.count('img') == 48


def test_score_takes_validation_at_the_step_of_the_test(tmp_path):
  with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
    for step, mse in ((1, 0.5), (2, 0.25), (3, 0.25), (4, math.nan)):
      writer.write(step, 'validation', {'eval/a/mse': mse})
    writer.write(3, 'test', {'eval/a/mse': 0.125})
  score = run_record.Score.of(run_record.Record.read(tmp_path), 'a', 'mse')
  assert score == run_record.Score(0.125, 3, 0.25, 3, 0.25, 2)


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match='There is no run to report on'):
    run_report.write_run_report(tmp_path / 'nowhere')


def test_importing_brings_no_plotting_library():
  code = 'import sys, mtjax.studies.run_report; sys.exit("matplotlib" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0
