r"""Sentiment in four domains with conflict resolved: `domains.py`, one update made of the four domains' gradients.

python -m mtjax.train --config=experiments/sentiment/conflict.py --workdir=runs/sentiment_upgrad
  variants: conflict.py:aggregator=nash_mtl   conflict.py:smoke   conflict.py:seed=1
Every domain has rows of its own, so all four gradients take no more products than their sum (plan 'disjoint').
Expected: test Pearson correlation tweets .49, amazon .26, movies .16, nyt .02 (seed 0; plain sum .48, .26, .16, .01).
Half of the pairs of gradients conflict, as those at right angles do by chance (mean cosines within ±.01); the longest
of a step is six times the shortest. About 14 minutes on one busy CPU core; experiments/results/sentiment_upgrad.json.
"""
from experiments.common import parse_arg
from experiments.sentiment import domains


def get_config(arg=None):
  """The config of `domains.py` with an aggregator."""
  arg = parse_arg(arg, smoke=False, seed=0, aggregator='upgrad')
  config = domains.get_config(f'smoke={arg.smoke},seed={arg.seed}')
  config.aggregator = dict(name=arg.aggregator)
  config.gradients = dict(plan='disjoint')
  return config
