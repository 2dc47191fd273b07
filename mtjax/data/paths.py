"""Where data lives on this machine.

    $MTJAX_DATA (or ~/.cache/mtjax)
      raw/<name>/     what `python -m mtjax.data.fetch <name>` brought
      tfds/           the prepared data sets, as array_record
"""
import contextlib
import fcntl
import os
import pathlib
from collections.abc import Iterator

ASSETS = pathlib.Path(__file__).parent / 'assets'


def root() -> pathlib.Path:
  """The folder of all data: $MTJAX_DATA if that is set, else ~/.cache/mtjax."""
  return pathlib.Path(os.environ.get('MTJAX_DATA') or '~/.cache/mtjax').expanduser()


def raw(name: str) -> pathlib.Path:
  """The folder of one fetched data set, whether it is there or not."""
  return root() / 'raw' / name


def prepared() -> pathlib.Path:
  """The `data_dir` of the TFDS builders."""
  return root() / 'tfds'


@contextlib.contextmanager
def lock(path: pathlib.Path) -> Iterator[None]:
  """Holds a file lock, so that processes started together fetch or prepare a thing once."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open('a') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield
