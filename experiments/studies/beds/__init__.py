"""The test beds by name; each loads what it needs when it is asked for."""
import functools
import importlib

from experiments.studies.beds.base import Bed
from mtjax.config import did_you_mean

BEDS = {
  'composite_digits': ('composite_digits', {}),
  'composite_digits_noisy': ('composite_digits', {'noisy': True}),
  'composite_digits_fixed': ('composite_digits', {'fixed': True}),
  'composite_digits_noisy_fixed': ('composite_digits', {'noisy': True, 'fixed': True}),
  'unequal_digits': ('unequal_digits', {}),
  'census_income': ('census', {'pair': 'income'}),
  'census_education': ('census', {'pair': 'education'}),
  'qm9': ('qm9', {}),
  'multimnist': ('multimnist', {}),
  'multifashion': ('multimnist', {'fashion': True}),
}


@functools.cache
def load(name: str, **options) -> Bed:
  """A bed. Raises ValueError for a name that is none."""
  if name not in BEDS:
    raise ValueError(f'There is no bed {name!r}. {did_you_mean(name, BEDS)}')
  module, defaults = BEDS[name]
  return importlib.import_module(f'experiments.studies.beds.{module}').load(**{**defaults, **options})
