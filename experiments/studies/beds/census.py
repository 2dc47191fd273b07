"""Census-Income: the two pairs of tasks of MMoE, on a shared bottom.

Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", KDD 2018. Data: UCI,
CC BY 4.0 (`python -m mtjax.data.fetch census_income`). `income`: income above 50,000 dollars, and never married.
`education`: college degree, and never married. 199,523 people train; the published test file is halved into validation
and test. Both are measured by AUC, since 6 % have the income.
Inputs: the categorical columns by one table of embeddings of width 4, and seven numbers; then 128-64 units, shared;
linear heads; batch 1,024.
"""
import numpy as np

from experiments.studies.beds.base import Bed
from mtjax.data.load import open_data_set
from mtjax.data.sources.census_income import NUM_CODES, CensusIncome
from mtjax.encoders import Tabular
from mtjax.heads import Classification
from mtjax.losses import softmax_xent
from mtjax.metrics import Collection, accuracy, auc
from mtjax.tasks import Task

LABELS = {'income': ('income', 'never_married'), 'education': ('college', 'never_married')}
EPOCHS = 2


def load(pair: str = 'income') -> Bed:
  """The bed of one pair, 'income' or 'education'."""
  tables = open_data_set(CensusIncome(config=pair)).splits
  splits, origin = {}, {}
  for split, table in tables.items():
    columns = table.rows(np.arange(len(table)), ('categorical', 'numeric', *LABELS[pair], 'id'))
    origin[split], splits[split] = columns.pop('id'), columns
  return Bed(
    name=f'census_{pair}', splits=splits, origin=origin, inputs=('categorical', 'numeric'),
    encoder=Tabular(codes=NUM_CODES[pair]), batch_size=1024, steps=EPOCHS * (len(origin['train']) // 1024),
    tasks={label: Task(label, 'bed', label, Classification(classes=2), softmax_xent,
                       Collection({'auc': auc(), 'accuracy': accuracy()})) for label in LABELS[pair]},
    learning_rates=(3e-3, 1e-2, 3e-2), last_layer='fc2/', seeds=5, tune_seeds=1,
    note='The learning rate is chosen on one of the seeds.').check()
