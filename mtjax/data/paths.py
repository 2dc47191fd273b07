"""Where data lives on this machine.

    $MTJAX_DATA (or ~/.cache/mtjax)
      raw/<name>/     what `python -m mtjax.data.fetch <name>` brought
      tfds/           the prepared data sets, as array_record
"""
import os
import pathlib

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
