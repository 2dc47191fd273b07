"""Debian's package descriptions (fetched): topic, facets and size from one text."""
import gzip
import pathlib
import re
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

SECTIONS = (
  'admin', 'cli-mono', 'comm', 'database', 'debug', 'devel', 'doc', 'editors', 'education', 'electronics', 'embedded',
  'fonts', 'games', 'gnome', 'gnu-r', 'gnustep', 'golang', 'graphics', 'hamradio', 'haskell', 'httpd', 'interpreters',
  'introspection', 'java', 'javascript', 'kde', 'kernel', 'libdevel', 'libs', 'lisp', 'localization', 'mail', 'math',
  'metapackages', 'misc', 'net', 'news', 'ocaml', 'oldlibs', 'otherosfs', 'perl', 'php', 'python', 'ruby', 'rust',
  'science', 'shells', 'sound', 'tasks', 'tex', 'text', 'utils', 'vcs', 'video', 'web', 'x11', 'xfce', 'zope')
FACETS = (
  'accessibility', 'admin', 'biology', 'culture', 'devel', 'field', 'game', 'hardware', 'implemented-in', 'interface',
  'iso15924', 'junior', 'made-of', 'mail', 'network', 'office', 'privacy', 'protocol', 'role', 'science', 'scope',
  'security', 'sound', 'suite', 'system', 'uitoolkit', 'use', 'web', 'works-with', 'works-with-format', 'x11')


def stanzas(path: pathlib.Path) -> Iterator[dict[str, str]]:
  """The paragraphs of a gzip'd Debian control file as {field: value}; continued lines keep their line breaks."""
  fields: dict[str, str] = {}
  name = ''
  with gzip.open(path, 'rt', encoding='utf-8', errors='replace') as file:
    for line in file:
      line = line.rstrip('\n')
      if not line:
        if fields:
          yield fields
        fields, name = {}, ''
      elif line[0] in ' \t':
        fields[name] += '\n' + line[1:]
      else:
        name, _, value = line.partition(':')
        fields[name] = value.strip()
  if fields:
    yield fields


def prose(description: str) -> str:
  """A long description without its first line (the short one); a lone dot stands for an empty line."""
  lines = description.split('\n')[1:]
  return '\n'.join('' if line.strip() == '.' else line.strip() for line in lines)


class DebianIndex(base.Source):
  """Some 60,000 packages: `name`, `short` and `long` descriptions, `text` = both.

  Labels: `section` (58 topics), with `section_mask` False for a section newer than that list; `facets` int32 [31], 1
  where the package has a tag of that facet, with `facets_mask` [31] False where nobody has tagged it;
  `installed_size`, log10(1 + KiB).
  Splits: 80 / 10 / 10 % by source package, so that a library, its headers and its documentation share a split. The
  rows follow this machine's Debian release; see release.json and fetched.json beside the raw files. The
  translations lie there too, keyed by Description-md5.
  """
  name = 'mt_debian_index'
  INPUTS = 'tokens'
  FORMAT = {'tokens': dict(name='bytes', column='text', length=256)}
  CITATION = 'The package index of the Debian archive; debtags: Zini, "A cute introduction to Debtags", 2005.'
  LICENCE = 'free; Debian states no single licence for the descriptions'

  def columns(self):
    facets = tfds.features.Tensor(shape=(len(FACETS),), dtype=np.int32)
    mask = tfds.features.Tensor(shape=(len(FACETS),), dtype=np.bool_)
    return {'name': tfds.features.Text(), 'short': tfds.features.Text(), 'long': tfds.features.Text(),
            'text': tfds.features.Text(), 'section': tfds.features.ClassLabel(names=SECTIONS),
            'section_mask': np.bool_, 'facets': facets, 'facets_mask': mask, 'installed_size': np.float32}

  def rows(self):
    folder = fetch.require('debian_index')
    long = {stanza['Description-md5']: prose(stanza.get('Description-en', ''))
            for stanza in stanzas(folder / 'Translation-en.gz') if 'Description-md5' in stanza}
    latest = {stanza['Package']: stanza for stanza in stanzas(folder / 'Packages.gz') if 'Package' in stanza}
    packages = list(latest.values())
    short = [stanza.get('Description', '').split('\n')[0] for stanza in packages]
    longs = [long.get(stanza.get('Description-md5', ''), '') for stanza in packages]
    sections = [stanza.get('Section', '').rsplit('/', 1)[-1] for stanza in packages]
    facets = np.zeros((len(packages), len(FACETS)), np.int32)
    for row, stanza in enumerate(packages):
      for tag in re.findall(r'([\w-]+)::', stanza.get('Tag', '')):
        if tag in FACETS:
          facets[row, FACETS.index(tag)] = 1
    tagged = np.array(['Tag' in stanza for stanza in packages])
    size = np.array([int(stanza.get('Installed-Size', 0)) for stanza in packages], np.float64)
    table = {'name': list(latest), 'short': short, 'long': longs,
             'text': [f'{a}\n{b}'.strip() for a, b in zip(short, longs)],
             'section': [section if section in SECTIONS else SECTIONS[0] for section in sections],
             'section_mask': [section in SECTIONS for section in sections],
             'facets': facets, 'facets_mask': np.repeat(tagged[:, None], len(FACETS), 1),
             'installed_size': np.log10(1 + size).astype(np.float32)}
    sources = [stanza.get('Source', stanza['Package']).split(' ')[0] for stanza in packages]
    return table, base.frozen_splits(sources, {'train': 0.8, 'validation': 0.1, 'test': 0.1})
