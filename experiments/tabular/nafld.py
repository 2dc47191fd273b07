r"""Clinic records of 17,549 people: which of ten diseases, or death, within five years, and how long a person lives.

python -m mtjax.data.fetch nafld
python -m mtjax.train --config=experiments/tabular/nafld.py --workdir=runs/nafld
  variants: nafld.py:smoke   nafld.py:seed=1
Allen et al., "Nonalcoholic fatty liver disease incidence and impact on metabolic burden and death", Hepatology 2018.
`outcomes`: eleven yes-or-no questions, masked where the records can't answer (ill before, or followed too short).
`survival`: the hazards of nine intervals up to twenty years (Gensheimer & Narasimhan, 2019), with censoring; its
concordance is of the days themselves. Missing measurements have a learned value and an indicator each.
Expected: on test, mean AUC of the outcomes .766 ± .002 and average precision .187 ± .001, concordance of survival
.874 ± .001 (mean ± sd of seeds 0 and 1); half a minute on two busy CPU cores; experiments/results/nafld.json. Age
alone has the concordance .834 and the mean AUC .704.
"""
from experiments.common import base_config, parse_arg
from mtjax.data.sources.nafld import OUTCOMES

# Mean and deviation of age, male, weight, height, bmi; sbp, dbp, hdl, chol, smoke, fib4, over the training split.
MEAN = (52.7, 0.47, 86.4, 169.4, 30.1, 130.9, 130.9, 53.1, 53.1, 0.31, 3.95)
STD = (14.7, 0.5, 22.2, 10.1, 7.06, 20.0, 20.0, 16.7, 16.7, 0.46, 2.18)
HISTORY = 10  # diagnoses up to the index date, 0 or 1
YEARS = (1, 2, 3, 4, 5, 7, 10, 15, 20)


def get_config(arg=None):
  """See the top of the file."""
  arg = parse_arg(arg, smoke=False, seed=0)
  config = base_config()
  config.seed = arg.seed
  ends = tuple(365.25 * year for year in YEARS)
  config.data = dict(
    name='nafld', batch_size=256, eval_batch_size=1024, seed=arg.seed, inputs=('person', 'labs', 'history'),
    format={'survival': dict(name='survival_intervals', time='days', event='died', ends=ends)})
  config.tasks = {
    'outcomes': dict(label='outcomes', head=dict(name='multilabel', labels=len(OUTCOMES)), loss='sigmoid_xent',
                     metrics=('auc', 'average_precision', 'log_loss'), weight=1.0),
    'survival': dict(label='survival', head=dict(name='survival', intervals=len(YEARS)), loss='hazard_nll',
                     metrics=(dict(name='survival_concordance', time='days', event='died'),), weight=1.0),
  }
  config.encoder = dict(name='tabular', numeric=('person', 'labs', 'history'), missing='learned', dropout_rate=0.2,
                        mean=(*MEAN, *[0.0] * HISTORY), std=(*STD, *[1.0] * HISTORY), widths=(64, 32))
  config.optimizer = dict(name='adamw', lr=3e-3, weight_decay=1e-2, decay=(r'kernel$',),
                          schedule=dict(name='cosine', warmup_steps=0.1))
  config.steps = 4 if arg.smoke else 500
  config.log_every, config.eval_every, config.checkpoint_every = (2, 4, 4) if arg.smoke else (50, 100, 500)
  return config
