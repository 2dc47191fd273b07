"""Debian's package descriptions (fetched): topic, facets and size from one text."""
import gzip
import pathlib
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

SPLITS = {'train': 0.8, 'validation': 0.1, 'test': 0.1}   # of the source packages


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


def packages(folder: pathlib.Path) -> list[dict]:
  """The packages of a fetched index, in its order: {name, source, section, short, long, tags, size}.

  `source` is the source package (its binary packages are versions and parts of one thing), `tags` a tuple of debtags
  such as 'use::editing', or None where nobody has tagged the package, `size` KiB.
  """
  long = {stanza['Description-md5']: prose(stanza.get('Description-en', ''))
          for stanza in stanzas(folder / 'Translation-en.gz') if 'Description-md5' in stanza}
  latest = {stanza['Package']: stanza for stanza in stanzas(folder / 'Packages.gz') if 'Package' in stanza}
  return [dict(name=name, source=stanza.get('Source', name).split(' ')[0],
               section=stanza.get('Section', '').rsplit('/', 1)[-1],
               short=stanza.get('Description', '').split('\n')[0], long=long.get(stanza.get('Description-md5', ''), ''),
               tags=tuple(stanza['Tag'].replace(',', ' ').split()) if 'Tag' in stanza else None,
               size=int(stanza.get('Installed-Size', 0))) for name, stanza in latest.items()]


def joined(package: dict) -> str:
  """Short and long description, a line each."""
  return f'{package["short"]}\n{package["long"]}'.strip()


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
    found = packages(fetch.require('debian_index'))
    sections = [package['section'] for package in found]
    facets = np.zeros((len(found), len(FACETS)), np.int32)
    for row, package in enumerate(found):
      for tag in package['tags'] or ():
        if (facet := tag.split('::')[0]) in FACETS:
          facets[row, FACETS.index(facet)] = 1
    tagged = np.array([package['tags'] is not None for package in found])
    size = np.array([package['size'] for package in found], np.float64)
    table = {**{column: [package[column] for package in found] for column in ('name', 'short', 'long')},
             'text': [joined(package) for package in found],
             'section': [section if section in SECTIONS else SECTIONS[0] for section in sections],
             'section_mask': [section in SECTIONS for section in sections],
             'facets': facets, 'facets_mask': np.repeat(tagged[:, None], len(FACETS), 1),
             'installed_size': np.log10(1 + size).astype(np.float32)}
    return table, base.frozen_splits([package['source'] for package in found], SPLITS)
