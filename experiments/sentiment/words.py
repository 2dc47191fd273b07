r"""Sentiment of texts in four domains, by their words: `domains.py` with hashed n-grams and an MLP.

python -m mtjax.train --config=experiments/sentiment/words.py --workdir=runs/sentiment_words
  variants: words.py:smoke   words.py:seed=1
Learns more in half a minute than the byte transformer of `domains.py` does in ten.
"""
from experiments.common import parse_arg
from experiments.sentiment import domains


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0)
  config = domains.get_config(f'smoke={arg.smoke},seed={arg.seed}')
  config.data.inputs = 'words'
  config.data.format = {'words': dict(name='hashed_words', column='text', features=4096, ngrams=2)}
  config.encoder = dict(name='mlp', widths=(128, 64), dropout_rate=0.3)
  return config
