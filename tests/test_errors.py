"""What users get wrong, and what they are told."""
import json
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest
import toy

from mtjax import experiment
from mtjax.training.loop import NonFiniteLoss

TASKS = {'digit': dict(label='digit', head=dict(name='classification', classes=10))}


def build(**fields):
  return experiment.build(toy.config(**fields))


@pytest.mark.parametrize('fields, words', [
  (dict(optimzer=dict(name='sgd')), "Unknown config key 'optimzer'. Did you mean 'optimizer'?"),
  (dict(encoder=dict(name='mlp', widhts=(3,))), "Unknown config key 'encoder.widhts'. Did you mean 'widths'?"),
  (dict(encoder=dict(name='vitt')), "Unknown encoder 'vitt'. Did you mean 'vit'?"),
  (dict(encoder=dict(name='no.such:Thing')), "The encoder 'no.such:Thing' cannot be imported"),
  (dict(optimizer=dict(name='adamm', lr=1e-3)), "Unknown optimizer 'adamm' in 'optimizer.name'. Did you mean 'adam'?"),
  (dict(optimizer=dict(name='adam', lr=1e-3, b11=0.5)), "Unknown config key 'optimizer.b11'. Did you mean 'b1'?"),
  (dict(optimizer=dict(name='adam', lr=-1.0)), "'optimizer.lr' must be a number > 0, got -1.0"),
  (dict(optimizer=dict(name='adam', lr=1e-3, schedule=dict(name='cosin'))), "Unknown schedule 'cosin'"),
  (dict(optimizer=dict(name='adam', lr=1e-3, weight_decay=0.1)), "optimizer 'adam' has no decoupled weight decay"),
  (dict(data=dict(name='toyy:Toy', batch_size=8)), "The data set 'toyy:Toy' cannot be imported"),
  (dict(data=dict(name='tfds:no_such_set', batch_size=8)), "TFDS knows no data set 'no_such_set'"),
  (dict(data=dict(name='toy:Toy', config='half', batch_size=8)), "Data set 'toy:Toy' has no config 'half'"),
  (dict(data=dict(name='multimnits', batch_size=8)), "Unknown data set 'multimnits'. Did you mean 'multimnist'?"),
  (dict(data=dict(batch_size=8)), "'data' needs either a name"),
  (dict(data=dict(name='toy:Toy', batchsize=8)), "Unknown config key 'data.batchsize'. Did you mean 'batch_size'?"),
  (dict(data=dict(name='toy:Toy', batch_size=0)), "must be a whole number >= 1, got 0"),
  (dict(data=dict(name='toy:Toy', batch_size=12), mesh=dict(data=8)),
   'which is not a multiple of the 8 devices on mesh axis \'data\'; the nearest are 8 and 16'),
  (dict(data=dict(name='toy:Toy', splits=dict(test='train[:10]'))), 'share rows'),
  (dict(data=dict(name='toy:Toy', splits=dict(test='tset'))), "no split 'tset'"),
  (dict(data=dict(name='toy:Toy', splits=dict(test='test[:0]'))), "the test split 'test[:0]' is empty"),
  (dict(data=dict(name='toy:Toy', inputs='text')), "column 'text' is text or ragged"),
  (dict(data=dict(mixture=dict(a=dict(name='toy:Toy', weight=1.0), b=dict(name='toy:Toy', weight=0.0)))),
   'Mixture weights must be finite and > 0'),
  (dict(data=dict(streams=dict(a=dict(name='toy:Toy'), b=dict(name='toy:Toy')))),
   "'tasks.digit.stream' is None. Known: a, b."),
  (dict(data=dict(streams=dict(digit=dict(name='toy:Toy'), b=dict(name='toy:Toy')))), "No task reads the stream 'b'"),
  (dict(data=dict(mixture=dict(digit=dict(name='toy:Toy'), b=dict(name='toy:Toy')))),
   "No task reads the rows of 'b' in the mixture 'mixture'"),
  (dict(data=dict(mixture=dict(digit=dict(name='toy:Toy'), b=dict(name='toy:Toy', weight=1.0)))),
   'give every source a weight, or none'),
  (dict(data=dict(mixture=dict(digit=dict(name='toy:Toy')), unit='words')), "must be 'examples' or 'tokens', got 'words'"),
  (dict(mesh=dict(data=3000)), 'asks for 3000 devices'),
  (dict(mesh=dict(dta=1)), "Unknown config key 'mesh.dta'. Did you mean 'data'?"),
  (dict(tasks={}), "'tasks' is empty"),
  (dict(tasks={'d': dict(label='digt', head=TASKS['digit']['head'])}), "no label column 'digt'. Did you mean 'digit'?"),
  (dict(tasks={'d': dict(label='digit', head=dict(name='classification', classes=8))}),
   "Task 'd', train split of 'Toy': Label column 'digit' holds"),
  (dict(tasks={'d': TASKS['digit'] | dict(loss='softmax_xnet')}), "Unknown loss 'softmax_xnet'. Did you mean 'softmax_xent'?"),
  (dict(tasks={'d': TASKS['digit'] | dict(metrics=('acuracy',))}), "Unknown metric 'acuracy'. Did you mean 'accuracy'?"),
  (dict(tasks={'d': TASKS['digit'] | dict(weight=0.0)}), "'tasks.d.weight' must be a finite number > 0, got 0.0"),
  (dict(tasks={'d': TASKS['digit'] | dict(weight=-1)}), "'tasks.d.weight' must be a finite number > 0, got -1"),
  (dict(tasks={'d': TASKS['digit'] | dict(stream='toy')}), "'tasks.d.stream' is 'toy'. Did you mean 'Toy'?"),
  (dict(tasks={'d': TASKS['digit'] | dict(rows='x')}), "'tasks.d.rows' is 'x', no source of a mixture"),
  (dict(frozen=('nothing',)), "Pattern 'nothing' matches no parameter"),
  (dict(frozen=('(',)), "Pattern '(' is not a regular expression"),
  (dict(frozen=('.*',)), 'nothing is left to train'),
  (dict(steps=0), "'steps' must be a whole number >= 1, got 0"),
  (dict(steps=-5), "'steps' must be a whole number >= 1, got -5"),
  (dict(stages=(dict(steps=0),)), "'stages.0.steps' must be a whole number >= 1, got 0"),
  (dict(stages=(dict(steps=2, optimiser=dict()),)), "Unknown config key 'stages.0.optimiser'. Did you mean 'optimizer'?"),
  (dict(ema=1.5), "'ema' must be in 0 … 1"),
  (dict(best=dict(metric='test/digit/accuracy')), 'the best checkpoint is chosen on the validation split'),
  (dict(best=dict(metric='eval/digit/acuracy')), "Did you mean 'eval/digit/accuracy'?"),
], ids=lambda x: x[:40] if isinstance(x, str) else '')
def test_config_errors_say_what_is_wrong_and_what_is_allowed(fields, words):
  fields.setdefault('tasks', TASKS)
  if fields['tasks'] == TASKS and 'best' in fields:
    fields['tasks'] = {'digit': TASKS['digit'] | dict(metrics=('accuracy',))}
  config = {**toy.config().to_dict(), **fields}
  with pytest.raises((ValueError, TypeError)) as error:
    experiment.build(config)
  assert words in str(error.value), str(error.value)


def test_labels_outside_the_classes_name_task_split_value_and_row():
  grade = {'grade': dict(label='grade', head=dict(name='ordinal', classes=5))}
  with pytest.raises(ValueError, match=r"Task 'grade', train split of 'Bad': Label column 'grade' holds 6 \(first at row 3\)"):
    build(data=dict(name='toy:Bad', batch_size=8), tasks=grade)


def test_data_that_were_not_fetched_name_the_command(monkeypatch, tmp_path):
  monkeypatch.setenv('MTJAX_DATA', str(tmp_path))
  with pytest.raises(FileNotFoundError, match='python -m mtjax.data.fetch fashion_mnist'):
    build(data=dict(name='fashion_mnist', batch_size=8), tasks={'c': dict(label='label', head=dict(name='linear', classes=10))})


def test_another_config_in_the_same_workdir_is_refused_field_by_field(tmp_path):
  experiment.build(toy.config(), tmp_path)
  with pytest.raises(ValueError, match='made with another config') as error:
    experiment.build(toy.config(steps=13, optimizer=dict(name='adam', lr=0.1)), tmp_path)
  assert '\n  optimizer.lr: 0.003 -> 0.1\n  steps: 12 -> 13' in str(error.value)


def test_changed_data_are_refused(tmp_path):
  run = experiment.build(toy.config(), tmp_path)
  run.train(run.init())
  run = experiment.build(toy.config(), tmp_path)
  run.streams['Toy'].sources['Toy']['train'].columns['ink'][0] = 77
  with pytest.raises(ValueError, match="training data of stream 'Toy' changed"):
    run.init()


def test_a_damaged_data_file_says_what_to_do(monkeypatch, tmp_path):
  monkeypatch.setenv('MTJAX_DATA', str(tmp_path))
  build()
  (file,) = tmp_path.rglob('toy-train.array_record*')
  content = bytearray(file.read_bytes())
  content[len(content) // 2] ^= 0xFF
  file.write_bytes(content)
  next(tmp_path.rglob('train.arrays.npz')).unlink()  # the copy that is read instead, where there is one
  with pytest.raises(ValueError, match='train split .* cannot be read: .* delete .*toy/1.0.0 and run again'):
    build()
  file.unlink()
  with pytest.raises(ValueError, match='delete .*toy/1.0.0 and run again'):
    build()


def train(workdir):
  run = experiment.build(toy.config(), workdir)
  return run.train(run.init())[0]


def damage(folder: pathlib.Path):
  """Flips one byte in the largest file, as a bad disk does."""
  largest = max((path for path in folder.rglob('*') if path.is_file()), key=lambda path: path.stat().st_size)
  content = bytearray(largest.read_bytes())
  content[len(content) // 2] ^= 0xFF
  largest.write_bytes(content)


def remove_a_file(folder: pathlib.Path):
  next(folder.rglob('manifest.ocdbt')).unlink()


def empty_meta(folder: pathlib.Path):
  next((folder / 'meta').glob('metadata')).write_bytes(b'')


@pytest.mark.parametrize('harm', [damage, remove_a_file, empty_meta])
def test_a_damaged_checkpoint_falls_back_to_the_last_good_one_and_says_so(harm, tmp_path, caplog):
  whole = train(tmp_path)
  checkpoints = tmp_path / 'checkpoints'
  assert sorted(int(p.name) for p in checkpoints.iterdir() if p.name.isdigit())[-2:] == [8, 12]
  harm(checkpoints / '12' / ('params' if harm is not empty_meta else ''))
  state = experiment.build(toy.config(), tmp_path).init()
  assert int(state.step) == 8
  assert 'The checkpoint of step 12 is damaged' in caplog.text and 'Falling back to step 8' in caplog.text
  assert (tmp_path / 'checkpoints.damaged' / '12').is_dir()
  again = train(tmp_path)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again)):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_only_damaged_checkpoints_stop_the_run(tmp_path):
  train(tmp_path)
  for folder in (tmp_path / 'checkpoints').iterdir():
    damage(folder / 'params')
  with pytest.raises(ValueError, match='All checkpoints in .* are damaged: step 12: .*use another workdir'):
    experiment.build(toy.config(), tmp_path).init()


def test_a_non_finite_loss_stops_the_run_and_names_step_and_task(tmp_path):
  # The label's standard deviation as a unit of 1e20 overflows the squared error of `ink` alone.
  tasks = {**TASKS, 'ink': dict(label='ink', head=dict(name='regression', std=1e25))}
  run = experiment.build(toy.config(tasks=tasks), tmp_path)
  with pytest.raises(NonFiniteLoss, match="The loss of task 'ink' is not finite at step 0"):
    run.train(run.init())
  recorded = json.loads((tmp_path / 'run.json').read_text())
  assert recorded['status'] == 'failed' and "task 'ink'" in recorded['message']


def test_divergence_keeps_the_last_good_checkpoint(tmp_path):
  tasks = {'ink': dict(label='ink', head=dict(name='regression'))}
  config = toy.config(tasks=tasks, optimizer=dict(name='sgd', lr=1.0), steps=400, checkpoint_every=2, log_every=50,
                      encoder=dict(name='mlp', widths=(16,), activation='tanh'))
  run = experiment.build(config, tmp_path)
  with pytest.raises(NonFiniteLoss, match=r'The last good checkpoint is of step \d+'):
    run.train(run.init())
  good = experiment.build(config, tmp_path).init()
  assert int(good.step) >= 2
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(good.params))


def test_a_damaged_best_checkpoint_is_named(tmp_path):
  train(tmp_path)
  run = experiment.build(toy.config(), tmp_path)
  best = run.checkpoints.meta(12)['best']['step']
  damage(tmp_path / 'checkpoints' / str(best) / 'params')
  with pytest.raises(ValueError, match=f'The checkpoint of step {best} is damaged: '):
    run.restore('best')


def test_a_report_needs_a_workdir():
  with pytest.raises(ValueError, match='build\\(config, workdir\\)'):
    build().report()


def test_predictions_of_the_wrong_shape_say_what_is_read():
  run = build()
  state = run.init()
  with pytest.raises(ValueError, match=r"got the input \[3, 7, 7, 1\] uint8; but stream 'Toy' reads image \[N, 8, 8, 1\]"):
    run.predict(state, np.zeros((3, 7, 7, 1), np.uint8))
  with pytest.raises(ValueError, match="Unknown stream 'Tyo'. Did you mean 'Toy'?"):
    run.predict(state, np.zeros((3, 8, 8, 1), np.uint8), stream='Tyo')


def test_the_command_line_shows_one_line_not_a_traceback(tmp_path):
  config = pathlib.Path(__file__).with_name('kill_config.py')
  command = [sys.executable, '-m', 'mtjax.train', f'--config={config}', f'--workdir={tmp_path}/w']
  result = subprocess.run([*command, '--config.optimizr.lr=3'], capture_output=True, text=True)
  assert result.returncode == 1 and 'Traceback' not in result.stderr
  assert 'Did you mean "optimizer" instead of "optimizr"?' in result.stderr
  result = subprocess.run([*command, '--config.optimizer.lr=-3'], capture_output=True, text=True)
  assert result.returncode == 1 and 'Traceback' not in result.stderr
  assert "ValueError: 'optimizer.lr' must be a number > 0, got -3.0." in result.stderr
