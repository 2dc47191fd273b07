"""The same arm twice, with other seeds: what a study says where there is nothing to find.

python -m mtjax.study --study=experiments/studies/null.py --workdir=runs/null
python -m experiments.null_rates       how often that would be said to be better, simulated from the stored scores
"""
from experiments.multimnist import joint
from mtjax.study import Study


def get_study() -> Study:
  """See the top of the file."""
  config = joint.get_config()
  config.steps, config.log_every, config.eval_every, config.checkpoint_every = 300, 50, 150, 300
  return Study(
    title='Null study: an arm against itself',
    claim='MultiMNIST, trained for 300 steps, is learnt better than by the same config with other seeds.',
    config=config, arms={'once': {}, 'again': lambda seed: {'seed': 1000 + seed}}, seeds=20, metric='accuracy',
    verdict='once > again')
