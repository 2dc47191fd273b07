r"""Census-Income (KDD), the two pairs of tasks of MMoE: a shared bottom with a head a task.

python -m mtjax.data.fetch census_income
python -m mtjax.train --config=experiments/tabular/census.py --workdir=runs/census_income
  variants: census.py:pair=education   census.py:smoke   census.py:seed=1
Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018. `income`:
income above 50,000 dollars, and never married; `education`: college degree, and never married. Each of 32 columns of
categories is embedded in width 4, seven numbers beside them; then 128-64 units; two passes over 199,523 people.
Expected: test AUC income .9457 ± .0004, never married .9943 ± .0000; college .9062 ± .0009, never married .9942 ± .0000
(mean ± sd of seeds 0 and 1); half a minute on two busy CPU cores; experiments/results/census_income.json and
census_education.json.
"""
from experiments.common import base_config, parse_arg
from mtjax.config import did_you_mean
from mtjax.data.sources.census_income import NUM_CODES

LABELS = {'income': ('income', 'never_married'), 'education': ('college', 'never_married')}


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0, pair='income')
  if arg.pair not in LABELS:
    raise ValueError(f'Unknown pair {arg.pair!r}. {did_you_mean(arg.pair, LABELS)}')
  config = base_config()
  config.seed = arg.seed
  config.data = dict(name='census_income', config=arg.pair, inputs=('categorical', 'numeric'), batch_size=1024,
                     eval_batch_size=8192, seed=arg.seed)
  config.tasks = {label: dict(label=label, head=dict(name='classification', classes=2), loss='softmax_xent',
                              metrics=('auc', 'average_precision', 'log_loss'), weight=1.0)
                  for label in LABELS[arg.pair]}
  config.encoder = dict(name='tabular', codes=NUM_CODES[arg.pair], embed_width=4, widths=(128, 64))
  config.optimizer = dict(name='adam', lr=5e-3, schedule=dict(name='cosine', warmup_steps=0.1))
  config.steps = 4 if arg.smoke else 390
  config.log_every, config.eval_every, config.checkpoint_every = (2, 4, 4) if arg.smoke else (30, 130, 390)
  return config
