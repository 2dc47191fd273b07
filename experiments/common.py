"""What configs and benchmarks share: the defaults, string arguments, and where a number comes from."""
import platform
import subprocess
import sys
from typing import Any

import jax
import ml_collections

from mtjax.config import did_you_mean
from mtjax.experiment import default_config


def base_config() -> ml_collections.ConfigDict:
  """Every field of a run with its default; `mtjax.experiment.default_config` explains them."""
  return default_config()


def current_commit() -> str:
  """The short hash of the checkout's commit, for result files."""
  command = ['git', 'rev-parse', '--short', 'HEAD']
  return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def provenance(module: str) -> dict[str, Any]:
  """Of the numbers that `python -m MODULE` measures: its command line, commit, device and versions."""
  return {'command': ' '.join([f'python -m {module}', *sys.argv[1:]]), 'commit': current_commit(),
          'device': jax.devices()[0].device_kind, 'jax': jax.__version__, 'python': platform.python_version()}


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
  """'smoke,lr=1e-3' -> the defaults with these values; a name alone means True.

  Args:
    arg: what stands behind the colon of `--config=FILE:arg`.
    **defaults: the arguments that the config knows; a value is read as the type of its default.

  Example:
    >>> parse_arg('smoke,seed=3', smoke=False, seed=0).to_dict()
    {'smoke': True, 'seed': 3}
  """
  values = dict(defaults)
  for item in filter(None, (arg or '').split(',')):
    name, _, text = item.partition('=')
    if name not in defaults:
      raise ValueError(f'Unknown config argument {name!r}. {did_you_mean(name, defaults)}')
    kind = type(defaults[name])
    values[name] = text.lower() not in ('false', '0', 'no') if kind is bool else kind(text)
  return ml_collections.ConfigDict(values)
