"""Does a shared bottom beat one for each task? The two pairs of tasks of MMoE on Census-Income, with few rows and many.

python -m mtjax.data.fetch census_income
python -m mtjax.study --study=experiments/studies/sharing_census.py:income --workdir=runs/sharing_census_income
and likewise :education. Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate
Mixture-of-Experts", KDD 2018. Every arm makes 400 steps of 256 rows; the checkpoint with the lowest validation loss is
tested, so that with 4,000 rows no arm is judged by how it overfits. Each seed has training rows of its own, the same
for all arms: with one choice of rows for all seeds, intervals would say nothing of another.
"""
from experiments.common import base_config
from experiments.studies.beds.census import LABELS
from mtjax.config import did_you_mean
from mtjax.data.sources.census_income import NUM_CODES
from mtjax.study import Study, better, single_task

ROWS, TRAIN = {'4k': 4_000, '60k': 60_000}, 199_523


def rows(count: int, seed: int) -> dict:
  """The overrides that train on `count` rows, those of a seed; few ones are of no other seed."""
  start = seed * min(count, (TRAIN - count) // 10)
  return {'data.splits': {'train': f'train[{start}:{start + count}]'}}


def get_study(pair: str = 'income') -> Study:
  """See the top of the file; `pair` is 'income' or 'education'."""
  if pair not in LABELS:
    raise ValueError(f'Unknown pair {pair!r}. {did_you_mean(pair, LABELS)}')
  config = base_config()
  config.data = dict(name='census_income', config=pair, inputs=('categorical', 'numeric'), batch_size=256,
                     eval_batch_size=8192)
  config.tasks = {label: dict(label=label, head=dict(name='classification', classes=2), loss='softmax_xent',
                              metrics=('auc', 'log_loss')) for label in LABELS[pair]}
  config.encoder = dict(name='tabular', codes=NUM_CODES[pair], widths=(128, 64))
  config.optimizer = dict(name='adam', lr=3e-3, schedule=dict(name='cosine', warmup_steps=0.05))
  config.steps, config.log_every, config.eval_every, config.checkpoint_every = 400, 40, 40, 400
  shared = {f'shared, {size}': lambda seed, count=count: rows(count, seed) for size, count in ROWS.items()}
  single = {f'single, {size}': lambda seed, count=count: single_task(rows(count, seed)) for size, count in ROWS.items()}
  return Study(
    title=f'Shared bottom on Census-Income, {pair} pair',
    claim='A bottom that two tasks of Census-Income share beats one for each task (mean AUC), with 4,000 rows and with '
          '60,000.',
    config=config, arms={**shared, **single}, seeds=10, metric='auc', selection='best',
    baseline={f'shared, {size}': f'single, {size}' for size in ROWS},
    verdict=[better(f'shared, {size}', f'single, {size}') for size in ROWS])
