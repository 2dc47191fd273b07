"""Does one encoder for four domains of sentiment beat one for each? Tweets, films, products, editorials.

python -m mtjax.study --study=experiments/studies/sharing_sentiment.py --workdir=runs/sharing_sentiment
"""
from experiments.sentiment import words
from mtjax.study import Study, single_task


def get_study() -> Study:
  """See the top of the file.

  Δm is of the root mean squared error: correlations near 0 have no relative change. Each run is tested at its best
  validation loss, since a single task has few texts and overfits long before the last step.
  """
  config = words.get_config()
  config.eval_every = 50
  for task in config.tasks.values():
    task.metrics = ('rmse', 'pearson', 'spearman')
  return Study(
    title='One encoder for four domains of sentiment',
    claim='A text encoder that four domains of sentiment share does better than an encoder for each (Δm > 0).',
    config=config, arms={'joint': {}, 'single-task': single_task()}, seeds=10, metric='delta_m', selection='best',
    verdict='joint > single-task')
