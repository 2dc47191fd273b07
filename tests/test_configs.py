"""Every config under experiments/ runs in its smoke variant; the quickstart reaches what the README says."""
import importlib
import pathlib

import pytest

from mtjax import experiment
from mtjax.config import to_dict
from mtjax.data import fetch

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / 'experiments').glob('*/*.py')
                 if path.stem != '__init__' and 'def get_config' in path.read_text())


def get_config(path, arg):
  return importlib.import_module('.'.join(path.with_suffix('').parts)).get_config(arg)


@pytest.mark.parametrize('path', CONFIGS, ids=str)
def test_it_is_plain_data_and_knows_its_arguments(path):
  config = to_dict(get_config(path, None))
  assert set(config) <= set(experiment.default_config())
  assert to_dict(get_config(path, 'seed=3'))['seed'] == 3
  with pytest.raises(ValueError, match="Unknown config argument 'smoky'. Did you mean 'smoke'?"):
    get_config(path, 'smoky')


@pytest.mark.slow
@pytest.mark.parametrize('path', CONFIGS, ids=str)
def test_its_smoke_variant_trains(path, tmp_path):
  config = get_config(path, 'smoke')
  needed = [{'multifashion': 'fashion_mnist'}.get(config.data.get('name'), config.data.get('name'))]
  if str(config.encoder.get('directory', '')).startswith('fetched:'):
    needed.append(config.encoder.directory.partition(':')[2])
  for name in needed:
    if name in fetch.PACKAGES:
      try:
        fetch.require(name)
      except FileNotFoundError as error:
        pytest.skip(str(error))
  run = experiment.build(config, tmp_path)
  state, metrics = run.train(run.init())
  assert int(state.step) == config.steps and all(metrics[f'eval/{task}/n'] > 0 for task in config.tasks)
  assert run.report(state).exists()


@pytest.mark.slow
def test_the_quickstart_reads_both_digits():
  run = experiment.build(get_config(pathlib.Path('experiments/multimnist/joint.py'), None))
  state, _ = run.train(run.init())
  test = run.evaluate(state)
  assert test['eval/left/accuracy'] > 0.88 and test['eval/right/accuracy'] > 0.88, test
