"""Topics and tags of Debian's packages, from their descriptions (fetched): `debian_index`, made fit for classification.

Which sections and which tags are classes was settled once, by these rules, on Debian 12.15 (bookworm), and stays as it
is on other releases:

    sections   at least 200 descriptions: 41 of 58
    tags       at least 300 of those descriptions, and not the placeholder '…::TODO': 49 of 598 debtags
"""
from collections.abc import Sequence

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base
from mtjax.data.sources.debian_index import SPLITS, joined, packages

SECTIONS = (
  'admin', 'cli-mono', 'database', 'devel', 'doc', 'editors', 'fonts', 'games', 'gnome', 'gnu-r', 'golang', 'graphics',
  'haskell', 'interpreters', 'introspection', 'java', 'javascript', 'kde', 'libdevel', 'libs', 'lisp', 'localization',
  'mail', 'math', 'metapackages', 'misc', 'net', 'ocaml', 'perl', 'php', 'python', 'ruby', 'rust', 'science', 'sound',
  'tasks', 'text', 'utils', 'video', 'web', 'x11')
TAGS = (
  'devel::doc', 'devel::lang:c', 'devel::lang:c++', 'devel::lang:haskell', 'devel::lang:java', 'devel::lang:perl',
  'devel::library', 'implemented-in::c', 'implemented-in::c++', 'implemented-in::perl', 'implemented-in::python',
  'interface::commandline', 'interface::daemon', 'interface::graphical', 'interface::text-mode', 'interface::x11',
  'made-of::html', 'network::client', 'network::server', 'role::app-data', 'role::data', 'role::devel-lib',
  'role::documentation', 'role::metapackage', 'role::plugin', 'role::program', 'role::shared-lib',
  'scope::application', 'scope::utility', 'suite::debian', 'suite::gnu', 'uitoolkit::gtk', 'uitoolkit::ncurses',
  'uitoolkit::qt', 'uitoolkit::sdl', 'use::checking', 'use::configuring', 'use::converting', 'use::editing',
  'use::gameplaying', 'use::monitor', 'use::viewing', 'works-with::audio', 'works-with::db', 'works-with::file',
  'works-with::image', 'works-with::mail', 'works-with::text', 'x11::application')


def distinct(found: Sequence[dict]) -> list[int]:
  """The packages whose long description has not stood before (case and spaces apart), in order.

  A package without one is known by its short description.
  """
  first: dict[str, int] = {}
  for row, package in enumerate(found):
    first.setdefault(' '.join((package['long'] or package['short']).lower().split()), row)
  return list(first.values())


class DebianTopics(base.Source):
  """Some 58,500 descriptions of packages: `name`, `text` (short and long description, without the name).

  Labels: `section` (41 classes); `tags` int32 [49], 1 where the package has that debtag, with `tags_mask` [49] False
  where nobody has tagged it (half of them).
  Of packages with the same long description the first in the index stays; packages of smaller sections are left out.
  Splits: 80 / 10 / 10 % by source package, as those of `debian_index`: a package is in the same split in both.
  The rows follow this machine's Debian release.
  """
  name = 'mt_debian_topics'
  INPUTS = 'tokens'
  FORMAT = {'tokens': dict(name='bytes', column='text', length=256)}
  CITATION = 'The package index of the Debian archive; debtags: Zini, "A cute introduction to Debtags", 2005.'
  LICENCE = 'free; Debian states no single licence for the descriptions'

  def columns(self):
    return {'name': tfds.features.Text(), 'text': tfds.features.Text(),
            'section': tfds.features.ClassLabel(names=SECTIONS),
            'tags': tfds.features.Tensor(shape=(len(TAGS),), dtype=np.int32),
            'tags_mask': tfds.features.Tensor(shape=(len(TAGS),), dtype=np.bool_)}

  def rows(self):
    everything = packages(fetch.require('debian_index'))
    kept = np.zeros(len(everything), bool)
    kept[distinct(everything)] = True
    kept &= [package['section'] in SECTIONS for package in everything]
    tags = np.zeros((len(everything), len(TAGS)), np.int32)
    for row, package in enumerate(everything):
      tags[row] = [tag in (package['tags'] or ()) for tag in TAGS]
    tagged = np.array([package['tags'] is not None for package in everything])
    table = {'name': [package['name'] for package in everything], 'text': [joined(package) for package in everything],
             'section': [package['section'] if package['section'] in SECTIONS else SECTIONS[0]
                         for package in everything],
             'tags': tags, 'tags_mask': np.repeat(tagged[:, None], len(TAGS), 1)}
    splits = base.frozen_splits([package['source'] for package in everything], SPLITS)
    return table, {split: index[kept[index]] for split, index in splits.items()}
