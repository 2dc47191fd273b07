"""Yeast: the classic small multi-label set (fetched)."""
import csv
import gzip

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base


class Yeast(base.Source):
  """2,417 yeast genes: features float32 [103], labels int32 [14] of 0 and 1 (functional classes), id.

  Splits: 70 / 10 / 20 % of the genes. (The 1,500 / 917 split of the MULAN library is another one.)
  """
  name = 'mt_yeast'
  INPUTS = 'features'
  CITATION = 'Elisseeff & Weston, "A kernel method for multi-labelled classification", NeurIPS 2001.'
  LICENCE = 'BSD-3-Clause (river 0.26.1)'

  def columns(self):
    return {'features': tfds.features.Tensor(shape=(103,), dtype=np.float32),
            'labels': tfds.features.Tensor(shape=(14,), dtype=np.int32), 'id': np.int32}

  def rows(self):
    path = fetch.require('yeast') / 'river' / 'datasets' / 'yeast.csv.gz'
    with gzip.open(path, 'rt', newline='') as file:
      lines = list(csv.reader(file))[1:]
    values = np.array(lines, np.float32)
    table = {'features': values[:, :103], 'labels': values[:, 103:].astype(np.int32),
             'id': np.arange(len(values), dtype=np.int32)}
    return table, base.frozen_splits(len(values), {'train': 0.7, 'validation': 0.1, 'test': 0.2})
