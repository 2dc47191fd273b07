"""Fields of config.json: read with their defaults, refused where their value is not implemented."""
from collections.abc import Mapping
from typing import Any

from mtjax.config import did_you_mean

# Their names of activations.
ACTIVATIONS = {'gelu': 'gelu', 'gelu_new': 'gelu_tanh', 'gelu_pytorch_tanh': 'gelu_tanh', 'relu': 'relu',
               'silu': 'silu', 'swish': 'silu', 'tanh': 'tanh'}
THEIR_ACTIVATIONS = {'gelu': 'gelu', 'gelu_tanh': 'gelu_new', 'relu': 'relu', 'silu': 'silu', 'tanh': 'tanh'}


def activation(config: Mapping[str, Any], field: str, default: str) -> str:
  """Our name of the activation in config[field]."""
  name = config.get(field, default)
  if name not in ACTIVATIONS:
    raise ValueError(f'config.json has {field}={name!r}. {did_you_mean(name, ACTIVATIONS)}')
  return ACTIVATIONS[name]


def need(config: Mapping[str, Any], *fields: str) -> list[Any]:
  """The values of `fields`. Raises ValueError naming all that config.json lacks."""
  missing = [field for field in fields if config.get(field) is None]
  if missing:
    raise ValueError(f'config.json lacks {", ".join(missing)}.')
  return [config[field] for field in fields]


def only(config: Mapping[str, Any], **allowed: Any) -> None:
  """Raises ValueError for a field that is given and is not the one value that is implemented."""
  for field, value in allowed.items():
    if config.get(field, value) != value:
      raise ValueError(f'config.json has {field}={config[field]!r}; implemented is {value!r}.')


def classes(config: Mapping[str, Any]) -> int:
  """How many classes a classifier has."""
  return len(config['id2label']) if config.get('id2label') else config.get('num_labels', 2)


def labels(count: int) -> dict[str, Any]:
  """The fields that say that a classifier has `count` classes, under names without meaning."""
  names = [f'LABEL_{i}' for i in range(count)]
  return {'id2label': {str(i): name for i, name in enumerate(names)}, 'label2id': {n: i for i, n in enumerate(names)}}
