"""Metric lines survive kills and resumes, and nothing that was measured is lost."""
import json
import math
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from mtjax.training import writers


def write_steps(workdir, steps, **kwargs):
  with writers.MetricWriter(workdir, tensorboard=False, **kwargs) as writer:
    for step in steps:
      writer.write(step, 'train', {'train/loss': 1 / step})


def lines(workdir):
  return (workdir / 'metrics.jsonl').read_text().splitlines()


def test_line_is_step_then_split_then_names(tmp_path):
  with writers.MetricWriter(tmp_path / 'new', tensorboard=False) as writer:
    writer.write(3, 'train', {'train/b': 0.5, 'train/a': np.int32(2)})
  assert lines(tmp_path / 'new') == ['{"step": 3, "split": "train", "train/b": 0.5, "train/a": 2}']


def test_line_is_on_disk_before_close(tmp_path):
  writer = writers.MetricWriter(tmp_path, tensorboard=False)
  writer.write(1, 'train', {'train/loss': jnp.float32(0.5)})
  assert writers.read_metrics(tmp_path) == [{'step': 1, 'split': 'train', 'train/loss': 0.5}]
  writer.close()
  writer.close()


def test_non_finite_values_are_json_and_come_back(tmp_path):
  with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
    writer.write(1, 'test', {'a': math.nan, 'b': math.inf, 'c': -math.inf})

  def refuse(token):
    raise AssertionError(f'{token} is not JSON')

  raw = json.loads(lines(tmp_path)[0], parse_constant=refuse)
  assert raw == {'step': 1, 'split': 'test', 'a': 'NaN', 'b': 'Infinity', 'c': '-Infinity'}
  entry, = writers.read_metrics(tmp_path)
  assert math.isnan(entry['a']) and entry['b'] == math.inf and entry['c'] == -math.inf


def test_reader_takes_null_and_bare_nan(tmp_path):
  (tmp_path / 'metrics.jsonl').write_text('{"step": 1, "split": "train", "a": null, "b": NaN}\n')
  entry, = writers.read_metrics(tmp_path)
  assert math.isnan(entry['a']) and math.isnan(entry['b'])


def test_reader_without_file_and_with_torn_or_foreign_lines(tmp_path):
  assert writers.read_metrics(tmp_path) == []
  (tmp_path / 'metrics.jsonl').write_bytes(b'{"step": 1, "split": "train"}\n\n7\n{"split": "x"}\n{"step": 2, "spl')
  assert writers.read_metrics(tmp_path) == [{'step': 1, 'split': 'train'}]


@pytest.mark.parametrize('cut', [1, 8, 30])
def test_resumed_file_equals_uninterrupted_one(tmp_path, cut):
  """Checkpoint at step 4; killed while writing step 7; resumed at 4."""
  write_steps(tmp_path / 'whole', range(1, 10))
  write_steps(tmp_path / 'killed', range(1, 8))
  path = tmp_path / 'killed' / 'metrics.jsonl'
  path.write_bytes(path.read_bytes()[:-cut])
  write_steps(tmp_path / 'killed', range(5, 10), resume_step=4)
  assert path.read_bytes() == (tmp_path / 'whole' / 'metrics.jsonl').read_bytes()
  assert sorted(p.name for p in path.parent.iterdir()) == ['metrics.jsonl']


def test_every_cut_of_the_file_can_be_appended_to(tmp_path):
  write_steps(tmp_path, [1, 2])
  path = tmp_path / 'metrics.jsonl'
  whole = path.read_bytes()
  first = whole.index(b'\n') + 1
  for cut in range(len(whole) + 1):
    path.write_bytes(whole[:cut])
    write_steps(tmp_path, [3])
    kept = (cut >= first - 1) + (cut >= len(whole) - 1)  # a line without its newline is whole
    assert [entry['step'] for entry in writers.read_metrics(tmp_path)] == [1, 2][:kept] + [3], cut


def test_interrupted_rewrite_leaves_the_old_file(tmp_path, monkeypatch):
  write_steps(tmp_path, range(1, 5))
  before = lines(tmp_path)

  def power_cut(*_):
    raise OSError('power cut')

  monkeypatch.setattr(writers.os, 'replace', power_cut)
  with pytest.raises(OSError, match='power cut'):
    write_steps(tmp_path, [], resume_step=2)
  assert lines(tmp_path) == before


def test_reserved_names_and_arrays_are_refused(tmp_path):
  with writers.MetricWriter(tmp_path, tensorboard=False) as writer:
    with pytest.raises(ValueError, match="'split' is taken"):
      writer.write(1, 'train', {'split': 1.0})
    with pytest.raises(ValueError, match="Metric 'train/losses' is not a number"):
      writer.write(1, 'train', {'train/losses': np.ones(2)})
  assert lines(tmp_path) == []


def read_events(path):
  """A TFRecord file is a sequence of: length (8 bytes), checksum (4), event (length), checksum (4)."""
  event_pb2 = pytest.importorskip('tensorboardX.proto.event_pb2')
  content, at = path.read_bytes(), 0
  while at < len(content):
    length = int.from_bytes(content[at:at + 8], 'little')
    yield event_pb2.Event.FromString(content[at + 12:at + 12 + length])
    at += length + 16


def test_tensorboard_tags_and_purge_on_resume(tmp_path):
  with writers.MetricWriter(tmp_path) as writer:
    writer.write(3, 'train', {'train/loss': 2.0})
    writer.write(3, 'validation', {'eval/left/accuracy': 0.5})
  with writers.MetricWriter(tmp_path, resume_step=2) as writer:
    writer.write(4, 'test', {'eval/left/accuracy': 0.25})
  first, second = (list(read_events(path)) for path in sorted((tmp_path / 'tensorboard').iterdir()))

  def scalars(events):
    return [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]

  assert scalars(first) == [(3, 'train/loss', 2.0), (3, 'validation/left/accuracy', 0.5)]
  assert scalars(second) == [(4, 'test/left/accuracy', 0.25)]
  start = 1  # SessionLog.START: readers drop what earlier files hold from this step on
  assert [e.step for e in second if e.session_log.status == start] == [3]


def test_without_tensorboardx_one_line_in_the_log(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'tensorboardX', None)
  said = []
  monkeypatch.setattr(writers.log, 'info', lambda message, *args: said.append(message % args))
  with writers.MetricWriter(tmp_path) as writer:
    writer.write(1, 'train', {'train/loss': 1.0})
  assert len(said) == 1 and "pip install 'mtjax[tensorboard]'" in said[0]
  assert not (tmp_path / 'tensorboard').exists() and len(lines(tmp_path)) == 1


def test_progress_is_off_without_a_terminal_and_shows_three_digits(capsys):
  with writers.progress(10) as bar:
    bar.update(1)
  assert capsys.readouterr().err == ''
  with writers.progress(10, initial=4, enabled=True) as bar:
    bar.update(1)
    bar.set_postfix({'left': 0.123456})
  assert bar.n == 5 and 'left=0.123' in capsys.readouterr().err
