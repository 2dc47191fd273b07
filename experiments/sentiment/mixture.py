r"""Sentiment of texts in four domains as one mixture: each row carries the id of its task.

python -m mtjax.train --config=experiments/sentiment/mixture.py --workdir=runs/sentiment_mixture
  variants: mixture.py:smoke   mixture.py:temperature=2   mixture.py:unit=tokens
The label is soft: the share of the raters who gave -4, -3, … 4. Sources are drawn in proportion to
size^(1/temperature), counted in examples or in tokens.
Expected: test cross-entropy tweets 1.77, amazon 1.89, movies 2.01, nyt 1.52 (seed 0), about 13 minutes on two busy CPU
cores; experiments/results/sentiment_mixture.json.
"""
from experiments.common import parse_arg
from experiments.sentiment import domains


def get_config(arg=None):
  """The config of `domains.py` with another stream and other heads."""
  arg = parse_arg(arg, smoke=False, seed=0, temperature=1.0, unit='examples')
  config = domains.get_config(f'smoke={arg.smoke},seed={arg.seed}')
  config.data = dict(
    mixture={domain: dict(name='sentiment', config=domain) for domain in domains.DOMAINS},
    temperature=arg.temperature, unit=arg.unit, block_size=256, batch_size=128, seed=arg.seed,
    inputs='tokens', format={'tokens': dict(name='bytes', column='text', length=128)})
  config.tasks = {
    domain: dict(label='rating_distribution', head=dict(name='soft_classification', classes=9), loss='soft_xent',
                 metrics=('accuracy', 'log_loss'), weight=1.0, rows=domain)
    for domain in domains.DOMAINS
  }
  return config
