"""Human-rated sentiment of texts of four domains (shipped)."""
import gzip
import json

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import paths
from mtjax.data.sources import base

DOMAINS = ('tweets', 'movies', 'amazon', 'nyt')
CUTS = (-1.5, -0.5, 0.5, 1.5)
GRADES = ('very_negative', 'negative', 'neutral', 'positive', 'very_positive')


def texts() -> list[dict]:
  """The shipped rows {domain, id, text, mean, sd, ratings}."""
  with gzip.open(paths.ASSETS / 'sentiment.jsonl.gz', 'rt', encoding='utf-8') as file:
    return [json.loads(line) for line in file]


class Sentiment(base.Source):
  """23,504 texts whose sentiment 15 to 99 people rated from -4 to 4. A configuration a domain, and `all` of them.

  Columns: `id`, `text`, `domain`; `score`, the mean rating; `sd`, the raters' spread; `rating_distribution` [9], the
  share of raters who gave -4 … 4; `positive`, whether the score is above 0; `grade`, 0 … 4, the score cut at -1.5,
  -0.5, 0.5 and 1.5 (a score on a cut belongs to the upper grade).
  Splits (80 / 10 / 10 %) are drawn over all domains at once and by text, so that equal texts (but for case and
  spaces) share a split, and a row is in the same split in its domain's configuration as in `all`.
  Tweets whose published mean and individual ratings disagree (199 of 4,200) are not among them.
  """
  name = 'mt_sentiment'
  INPUTS = 'tokens'
  FORMAT = {'tokens': dict(name='bytes', column='text', length=128)}
  CITATION = 'Hutto & Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis", ICWSM 2014.'
  LICENCE = 'MIT (vaderSentiment 3.3.2)'
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ('all', *DOMAINS)]

  def columns(self):
    return {'id': tfds.features.Text(), 'text': tfds.features.Text(),
            'domain': tfds.features.ClassLabel(names=DOMAINS), 'score': np.float32, 'sd': np.float32,
            'rating_distribution': tfds.features.Tensor(shape=(9,), dtype=np.float32),
            'positive': tfds.features.ClassLabel(names=('no', 'yes')),
            'grade': tfds.features.ClassLabel(names=GRADES)}

  def rows(self):
    rows = texts()
    splits = base.frozen_splits([' '.join(row['text'].lower().split()) for row in rows],
                                {'train': 0.8, 'validation': 0.1, 'test': 0.1})
    wanted = np.array([self.builder_config.name in ('all', row['domain']) for row in rows])
    scores = np.array([row['mean'] for row in rows], np.float32)
    counts = np.stack([np.bincount(np.array(row['ratings']) + 4, minlength=9) for row in rows])
    table = {'id': [f'{row["domain"]}/{row["id"]}' for row in rows], 'text': [row['text'] for row in rows],
             'domain': [row['domain'] for row in rows], 'score': scores,
             'sd': np.array([row['sd'] for row in rows], np.float32),
             'rating_distribution': (counts / counts.sum(1, keepdims=True)).astype(np.float32),
             'positive': (scores > 0).astype(int).tolist(), 'grade': np.digitize(scores, CUTS).tolist()}
    return table, {split: index[wanted[index]] for split, index in splits.items()}
