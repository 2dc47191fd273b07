r"""Sentiment of texts in four domains on a pretrained encoder: the upper half of all-MiniLM-L6-v2, a head a domain.

python -m mtjax.data.fetch minilm_l6
python -m mtjax.train --config=experiments/sentiment/minilm.py --workdir=runs/sentiment_minilm
  variants: minilm.py:smoke   minilm.py:seed=1   minilm.py:frozen (heads alone are trained)
"""
from experiments.common import parse_arg
from experiments.sentiment import domains

MODEL, LENGTH = 'fetched:minilm_l6', 32
LOWER_HALF = (r'^encoder/(embed|pos_embed|type_embed|embed_norm|block_[0-2])(/|$)',)


def get_config(arg=None):
  """The streams and tasks of `domains.py`."""
  arg = parse_arg(arg, smoke=False, seed=0, frozen=False)
  config = domains.get_config(f'smoke={arg.smoke},seed={arg.seed}')
  config.data.inputs = 'tokens'
  for stream in config.data.streams.values():
    stream.batch_size = 16
  config.data.format = {'tokens': dict(name='tokens', column='text', path=MODEL, length=LENGTH)}
  config.encoder = dict(name='hf', directory=MODEL, pool='mean')
  config.optimizer.lr = 2e-3 if arg.frozen else 2e-4
  config.frozen = (r'^encoder/',) if arg.frozen else LOWER_HALF
  config.steps = 4 if arg.smoke else 200
  config.log_every, config.eval_every, config.checkpoint_every = (2, 4, 4) if arg.smoke else (20, 200, 200)
  return config
