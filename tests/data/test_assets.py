"""The shipped data are what LICENSES.md says they are."""
import hashlib
import re

import numpy as np
import pytest

from mtjax.data import paths
from mtjax.data.sources import mnist, sentiment

LICENCES = (paths.ASSETS / 'LICENSES.md').read_text()


@pytest.mark.parametrize('name, licence', [('mnist_digits.npz', 'MIT'), ('sentiment.jsonl.gz', 'MIT'),
                                           ('rendered_scenes.npz', 'zlib')])
def test_every_asset_has_its_origin_licence_and_hash_written_down(name, licence):
  section = LICENCES.split(f'## {name}')[1].split('\n## ')[0]
  assert re.search(r'- From: (npm|PyPI) `\w+` \d', section) and '- Licence:' in section and licence in section
  assert hashlib.sha256((paths.ASSETS / name).read_bytes()).hexdigest() in section


def test_no_asset_without_a_section():
  shipped = {path.name for path in paths.ASSETS.iterdir()} - {'LICENSES.md', '__pycache__'}
  assert shipped == set(re.findall(r'^## (\S+\.\S+)$', LICENCES, re.M))
  assert sum((paths.ASSETS / name).stat().st_size for name in shipped) < 5e6


def test_digits():
  images, labels = mnist.digits()
  assert images.shape == (10_000, 28, 28) and images.dtype == np.uint8 and images.max() == 255
  assert np.bincount(labels).tolist() == [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978]
  assert len({image.tobytes() for image in images}) == 10_000
  # well mixed: every run of 500 has all classes, none more than twice its share
  for start in range(0, 10_000, 500):
    counts = np.bincount(labels[start:start + 500], minlength=10)
    assert counts.min() > 20 and counts.max() < 100


def test_texts():
  rows = sentiment.texts()
  counts = {domain: sum(row['domain'] == domain for row in rows) for domain in sentiment.DOMAINS}
  assert counts == {'tweets': 4001, 'movies': 10605, 'amazon': 3708, 'nyt': 5190}
  assert len({(row['domain'], row['id']) for row in rows}) == len(rows)
  for row in rows:
    assert row['text'].strip() == row['text'] != ''
    assert 12 <= len(row['ratings']) <= 100 and all(-4 <= rating <= 4 for rating in row['ratings'])
    assert abs(np.mean(row['ratings']) - row['mean']) < 1e-5 and abs(np.std(row['ratings']) - row['sd']) < 1e-5


def test_ratings_belong_to_their_texts():
  """Words that carry feeling should go with the ratings of their rows; a shifted column would break this."""
  rows = sentiment.texts()
  for domain in sentiment.DOMAINS:
    good, bad = ([row['mean'] for row in rows if row['domain'] == domain and re.search(words, row['text'].lower())]
                 for words in (r'\b(great|good|best|love)\b', r'\b(bad|worst|terrible|hate)\b'))
    assert np.mean(good) > 0.4 > 0 > np.mean(bad), domain
