r"""Yeast genes, fourteen functional classes each of which a gene has or has not.

python -m mtjax.data.fetch yeast
python -m mtjax.train --config=experiments/tabular/yeast.py --workdir=runs/yeast
  variants: yeast.py:smoke   yeast.py:seed=1
Elisseeff & Weston, "A kernel method for multi-labelled classification", NeurIPS 2001. 103 numbers a gene; 1,692 genes
train.
Expected: on test, mean over the classes of average precision .487 ± .004, F1 .355 ± .005, AUC .715 ± .007 (mean ± sd of
seeds 0, 1, 2); half a minute to two on two busy CPU cores; experiments/results/yeast.json.
"""
from experiments.common import base_config, parse_arg


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0)
  config = base_config()
  config.seed = arg.seed
  config.data = dict(name='yeast', inputs='features', batch_size=64, eval_batch_size=512, seed=arg.seed)
  config.tasks = {'classes': dict(label='labels', head=dict(name='multilabel', labels=14), loss='sigmoid_xent',
                                  metrics=('average_precision', 'macro_f1', 'auc', 'accuracy'), weight=1.0)}
  config.encoder = dict(name='tabular', widths=(128, 64), dropout_rate=0.4)
  config.optimizer = dict(name='adamw', lr=2e-3, weight_decay=1e-2, decay=(r'kernel$',),
                          schedule=dict(name='cosine', warmup_steps=0.1))
  config.steps = 4 if arg.smoke else 600
  config.log_every, config.eval_every, config.checkpoint_every = (2, 4, 4) if arg.smoke else (50, 100, 600)
  return config
