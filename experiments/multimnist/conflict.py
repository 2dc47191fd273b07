r"""MultiMNIST with conflict resolved: `joint.py`, one update made of the two tasks' gradients by a method.

python -m mtjax.train --config=experiments/multimnist/conflict.py --workdir=runs/multimnist_upgrad
  variants: conflict.py:aggregator=pcgrad   conflict.py:aggregator=mgda,seed=1   conflict.py:smoke
Expected: test accuracy left / right in %, mean ± sd over seeds 0, 1, 2, with the share of steps at which the gradients
conflict; 30 to 70 s a run on one busy CPU core:
  upgrad 96.26 ± .06 / 94.95 ± .09  .40    pcgrad   96.22 ± .04 / 94.92 ± .09  .40
  mgda   96.42 ± .08 / 94.53 ± .18  .40    nash_mtl 96.44 ± .26 / 94.97 ± .28  .40
The plain sum has 96.31 ± .04 / 94.91 ± .10 (`joint.py`): the gradients are nearly at right angles here (mean cosine
.02), and no method gains what three seeds can tell; mgda, which favours the shorter gradient, loses on the right digit.
experiments/results/multimnist_<aggregator>.json.
"""
from experiments.common import parse_arg
from experiments.multimnist import joint


def get_config(arg=None):
  """The config of `joint.py` with an aggregator."""
  arg = parse_arg(arg, smoke=False, seed=0, aggregator='upgrad')
  config = joint.get_config(f'smoke={arg.smoke},seed={arg.seed}')
  config.aggregator = dict(name=arg.aggregator)
  return config
