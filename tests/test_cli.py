"""The entry points, as they are called from a shell."""
import json
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

import mtjax.optim
from mtjax import cli, experiment, prediction_io

ROOT = pathlib.Path(__file__).resolve().parents[1]


def call(module, *arguments, check=True):
  command = [sys.executable, '-m', f'mtjax.{module}', *map(str, arguments)]
  return subprocess.run(command, capture_output=True, text=True, check=check, cwd=ROOT)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  """A finished run of the quickstart's config, for a few steps."""
  folder = tmp_path_factory.mktemp('cli') / 'run'
  result = call('train', '--config=experiments/multimnist/joint.py:smoke', f'--workdir={folder}')
  (folder / 'stdout').write_text(result.stdout)
  return folder


def test_train_leaves_everything_that_was_promised(workdir):
  for name in ('config.json', 'data.json', 'metrics.jsonl', 'checkpoints/20', 'report.html', 'run.json', 'tensorboard'):
    assert (workdir / name).exists(), name
  lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert all('step' in line for line in lines)
  assert {line['split'] for line in lines} == {'train', 'validation', 'test'}
  assert 0 <= lines[-1]['eval/left/accuracy'] <= 1 and lines[-1]['eval/left/n'] == 4000
  run = json.loads((workdir / 'run.json').read_text())
  assert run['command'].startswith('python -m mtjax.train --config=experiments/multimnist/joint.py:smoke --workdir=')
  assert run['status'] == 'finished'
  data = json.loads((workdir / 'data.json').read_text())
  assert data['multimnist']['splits']['train']['rows'] == 30_000
  stdout = (workdir / 'stdout').read_text()
  assert 'left/accuracy' in stdout and 'report.html' in stdout


def test_train_again_has_nothing_left_to_do(workdir):
  before = (workdir / 'metrics.jsonl').read_text()
  result = call('train', '--config=experiments/multimnist/joint.py:smoke', f'--workdir={workdir}', '--noreport')
  assert 'Restored step 20' in result.stderr
  assert (workdir / 'metrics.jsonl').read_text() == before


def test_fields_that_a_component_leaves_out_can_be_set_and_a_misspelt_one_is_named(tmp_path):
  config = '--config=experiments/multimnist/joint.py:smoke', f'--workdir={tmp_path}', '--config.aggregator.name=cagrad'
  for field in ('aggregator.cc', 'gradients.every_kk', 'optimizer.b3', 'stepz'):
    result = call('train', *config, '--config.aggregator.c=0.3', '--config.gradients.every_k=2', f'--config.{field}=2',
                  check=False)
    assert result.returncode == 1 and f"Unknown config key '{field}'. Did you mean" in result.stderr


def test_evaluate_prints_and_writes_what_training_recorded(workdir, tmp_path):
  result = call('evaluate', f'--workdir={workdir}', f'--json={tmp_path}/m.json')
  written = json.loads((tmp_path / 'm.json').read_text())
  recorded = json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])
  assert {k: v for k, v in written.items() if k.startswith('eval/')} == (
    {k: v for k, v in recorded.items() if k.startswith('eval/')})
  assert re.search(r'left/n +4,000', result.stdout)
  best = call('evaluate', f'--workdir={workdir}', '--split=validation', '--checkpoint=best')
  assert 'validation, step 20' in best.stdout
  wrong = call('evaluate', f'--workdir={workdir}', '--checkpoint=7', check=False)
  assert wrong.returncode == 1 and "checkpoint must be 'last', 'best' or one of [10, 20], got '7'" in wrong.stderr
  nowhere = call('evaluate', f'--workdir={tmp_path}', check=False)
  assert 'is no run folder: it has no config.json' in nowhere.stderr


def test_the_mesh_of_a_command_line():
  assert cli.mesh(None) is None and cli.mesh(['data=-1', 'fsdp=4']) == {'data': -1, 'fsdp': 4}
  with pytest.raises(ValueError, match="--mesh is a list of AXIS=SIZE .* got 'fsdp'"):
    cli.mesh(['fsdp'])


def test_predict_from_npz_pngs_and_jsonl_agree(workdir, tmp_path):
  from PIL import Image

  run = experiment.load_run(workdir)
  images = run.streams['multimnist'].sources['multimnist']['test'].columns['image'][:3]
  np.savez(tmp_path / 'in.npz', images)
  (tmp_path / 'pngs').mkdir()
  for i, image in enumerate(images):
    Image.fromarray(image[..., 0]).save(tmp_path / 'pngs' / f'{i}.png')
  (tmp_path / 'in.jsonl').write_text(''.join(json.dumps({'id': f'r{i}', 'image': x.tolist()}) + '\n'
                                              for i, x in enumerate(images)))
  call('predict', f'--workdir={workdir}', f'--input={tmp_path}/in.npz', f'--output={tmp_path}/a.jsonl')
  call('predict', f'--workdir={workdir}', f'--input={tmp_path}/pngs', f'--output={tmp_path}/b.npz')
  call('predict', f'--workdir={workdir}', f'--input={tmp_path}/in.jsonl', f'--output={tmp_path}/c.jsonl')
  a, c = ([json.loads(line) for line in (tmp_path / f'{x}.jsonl').read_text().splitlines()] for x in 'ac')
  with np.load(tmp_path / 'b.npz') as b:
    np.testing.assert_allclose([row['left']['probabilities'] for row in a], b['left/probabilities'], rtol=1e-5)
    assert b['names'].tolist() == ['0.png', '1.png', '2.png']
  assert [row['input'] for row in c] == ['r0', 'r1', 'r2']
  assert [row['right'] for row in a] == [row['right'] for row in c]
  assert all(sum(row['left']['probabilities']) == pytest.approx(1, abs=1e-5) for row in a)


@pytest.mark.parametrize('name, content, words', [
  ('bad.jsonl', '{"imag": 1}', "row 1 has no 'image'. Did you mean 'imag'?"),
  ('torn.jsonl', '{"image": [[', 'line 1 is not JSON'),
  ('short.jsonl', '{"image": ["a"]}', "column 'image' must hold numbers of shape [36, 36, 1]"),
  ('empty.jsonl', '', 'has no rows'),
  ('in.txt', '', 'must be a .npz, a .jsonl or a folder of PNGs'),
  ('folder', None, 'holds no *.png'),
  ('nothing.npz', None, 'There is no input'),
])
def test_inputs_that_cannot_be_read_say_why(workdir, tmp_path, name, content, words):
  streams = experiment.load_run(workdir).streams
  if content is not None:
    (tmp_path / name).write_text(content)
  elif name == 'folder':
    (tmp_path / name).mkdir()
  with pytest.raises((ValueError, FileNotFoundError)) as error:
    prediction_io.read_inputs(str(tmp_path / name), streams)
  assert words in str(error.value)


def test_predict_shows_one_line_for_an_input_of_the_wrong_shape(workdir, tmp_path):
  np.savez(tmp_path / 'small.npz', image=np.zeros((2, 28, 28, 1), np.uint8))
  arguments = ('predict', f'--workdir={workdir}', f'--input={tmp_path}/small.npz')
  result = call(*arguments, f'--output={tmp_path}/o.jsonl', check=False)
  assert result.returncode == 1 and 'Traceback' not in result.stderr
  assert 'Inputs of the wrong shape or type: got image [2, 28, 28, 1] uint8; but' in result.stderr
  assert '--output must end in .jsonl or .npz' in call(*arguments, '--output=o.csv', check=False).stderr


def test_predict_text_through_its_format(tmp_path):
  data = dict(name='toy:Toy', batch_size=32, inputs='tokens', format={'tokens': dict(name='bytes', column='text', length=16)})
  tasks = {'odd': dict(label='odd', head=dict(name='classification', classes=2))}
  encoder = dict(name='byte_transformer', width=16, depth=1, heads=2, max_length=16)
  run = experiment.build(toy.config(data=data, tasks=tasks, encoder=encoder, steps=60,
                                    optimizer=dict(name='adam', lr=1e-2)))
  state, _ = run.train(run.init())
  file = tmp_path / 'texts.jsonl'
  file.write_text('{"text": "3 is odd"}\n{"text": "4 is even"}\n')
  inputs, names = prediction_io.read_inputs(str(file), run.streams)
  outputs = run.predict(state, inputs)
  assert names == ['0', '1'] and outputs['odd']['prediction'].tolist() == [1, 0]


def test_the_readme_example_runs():
  readme = (ROOT / 'README.md').read_text(encoding='utf-8')
  code = re.search(r'```python\n(import mtjax\n.*?)```', readme, re.S).group(1)
  code = code.replace('run = mtjax', 'config.steps = 150\nrun = mtjax').replace('…', '...')
  names = {'images': np.zeros((2, 36, 36, 1), np.uint8)}
  exec(compile(code, 'README.md', 'exec'), names)
  assert names['outputs']['left']['probabilities'].shape == (2, 10)
  assert set(names['test']) >= {'eval/left/accuracy', 'eval/right/accuracy'}


def test_the_readme_on_conflict_runs():
  readme = (ROOT / 'README.md').read_text(encoding='utf-8')
  config = toy.config()
  exec(re.search(r'```python\n(config\.aggregator.*?)```', readme, re.S).group(1), {'config': config})
  engine = experiment.build(config).stages[0].engine
  assert engine.aggregator.name == 'upgrad' and engine.options.every_k == 4
  names = {'mtjax': mtjax, 'optax': optax, 'jax': jax, 'params': jnp.array([1.0, 2.0]),
           'losses': lambda x: jnp.stack([jnp.sum(x**2), jnp.sum((x - 3) ** 2)])}
  exec(re.search(r'```python\n(tx = .*?)```', readme, re.S).group(1), names)
  assert names['updates'].shape == (2,) and np.isfinite(names['updates']).all()
