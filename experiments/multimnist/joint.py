r"""MultiMNIST: two overlapping digits, one image, two labels; a LeNet shared by two linear heads, equal weights.

python -m mtjax.train --config=experiments/multimnist/joint.py --workdir=runs/multimnist
  variants: joint.py:smoke (a few steps)   joint.py:seed=1   --config.optimizer.lr=3e-4
Expected: test accuracy left 96.3 ± 0.04 %, right 94.9 ± 0.1 % (mean ± sd over seeds 0, 1, 2), about 45 s a run on two
CPU cores with the preparation of the data; experiments/results/multimnist_joint.json.
"""
from experiments.common import base_config, parse_arg


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0)
  config = base_config()
  config.seed = arg.seed
  config.data = dict(name='multimnist', batch_size=128, seed=arg.seed)
  config.tasks = {
    side: dict(label=side, head=dict(name='classification', classes=10), loss='softmax_xent',
               metrics=('accuracy', 'log_loss'), weight=1.0)
    for side in ('left', 'right')
  }
  config.encoder = dict(name='lenet')
  config.optimizer = dict(name='adam', lr=1e-3, schedule=dict(name='cosine', warmup_steps=1 / 15))
  config.steps = 20 if arg.smoke else 1500
  config.log_every, config.eval_every, config.checkpoint_every = (5, 10, 10) if arg.smoke else (50, 250, 250)
  return config
