"""A sweep: does a Bayesian search over three fields beat what the config was written with? Four domains of sentiment.

python -m mtjax.study --study=experiments/studies/tuning_sentiment.py --workdir=runs/tuning_sentiment

Twelve arms of six seeds are tried; the one with the least error on validation is compared with the config on test.
Needs the extra `sweep`.
"""
from experiments.sentiment import words
from mtjax.study import Search, Study, Uniform, better


def get_study() -> Study:
  """See the top of the file."""
  config = words.get_config()
  for task in config.tasks.values():
    task.metrics = ('rmse', 'pearson', 'spearman')
  space = {'optimizer.lr': Uniform(3e-4, 3e-2, log=True), 'optimizer.weight_decay': Uniform(1e-3, 1.0, log=True),
           'encoder.dropout_rate': Uniform(0.0, 0.7)}
  return Study(
    title='A search over three fields',
    claim='Learning rate, weight decay and dropout found by twelve trials on validation beat those that the config was '
          'written with (root mean squared error on test).',
    config=config, arms={'as written': {}}, search=Search(space, num_arms=12, method='bayesian'), seeds=6,
    metric='rmse', baseline='as written', verdict=better('(chosen)', 'as written'))
