r"""Makes mtjax/data/assets/rendered_scenes.npz: 96 small scenes, so that dense tasks can be tried without pybullet.

    python experiments/data/make_scenes.py

Needs the extra `render`. Run again it writes the same bytes.
"""
import hashlib

import numpy as np

from mtjax.data import paths
from mtjax.data.sources import rendered_scenes


def main() -> None:
  """Renders and writes them, prints size and hash."""
  start, count = rendered_scenes.SAMPLE_START, sum(rendered_scenes.COUNTS['sample'].values())
  rows = list(rendered_scenes.render(range(start, start + count), rendered_scenes.SIZES['sample']))
  columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
  columns['normals'] = np.rint(127 * columns['normals'].astype(np.float32)).astype(np.int8)
  path = paths.ASSETS / rendered_scenes.ASSET
  np.savez_compressed(path, **columns)
  print(f'{path.name}: {path.stat().st_size} bytes, sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}')


if __name__ == '__main__':
  main()
