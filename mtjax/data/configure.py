"""`config.data` -> streams. Which fields there are, `mtjax.experiment.default_config` says."""
import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mtjax.config import Registry, check_keys, did_you_mean, to_dict
from mtjax.data import load, paths
from mtjax.data.sampler import BlockSampler, rates
from mtjax.data.streams import Stream, check_batch_size, check_multiple, mean_tokens

_SOURCE_KEYS = ('name', 'config', 'splits')
_STREAM_KEYS = (*_SOURCE_KEYS, 'mixture', 'inputs', 'format', 'batch_size',
                'temperature', 'maximum', 'unit', 'block_size', 'unmixed')
_DATA_KEYS = (*_STREAM_KEYS, 'streams', 'seed', 'eval_batch_size', 'in_memory_mb')


def complete(data: Mapping[str, Any], where: str = 'data') -> dict[str, Any]:
  """Both ways to write `data` as one: {'streams': {name: {…}}, 'seed': …}, checked for keys.

  A stream takes what it leaves out from the top; rows of the batch that no stream claims are divided equally.
  """
  data = to_dict(data)
  check_keys(data, _DATA_KEYS, where)
  if ('name' in data or 'mixture' in data) == ('streams' in data):
    raise ValueError(f"'{where}' needs either a name (one data set), a mixture, or streams={{name: {{…}}}}.")
  top = {'batch_size': 128, **{key: value for key, value in data.items() if key in _STREAM_KEYS and key != 'name'}}
  if 'streams' not in data:
    name = data.get('name', 'mixture').split(':')[-1].replace('/', '_')
    streams = {name: {**top, **{key: data[key] for key in _STREAM_KEYS if key in data}, 'where': where}}
  else:
    streams = {}
    for name, spec in data['streams'].items():
      check_keys(spec, _STREAM_KEYS, f'{where}.streams.{name}')
      streams[name] = {**top, 'where': f'{where}.streams.{name}', **spec}
    open_ended = [name for name, spec in data['streams'].items() if 'batch_size' not in spec]
    if open_ended:
      check_multiple(top['batch_size'], len(open_ended), f'{where}.batch_size', 'streams')
      for name in open_ended:
        streams[name]['batch_size'] = top['batch_size'] // len(open_ended)
  return {'seed': data.get('seed', 0), 'eval_batch_size': data.get('eval_batch_size'),
          'in_memory_mb': data.get('in_memory_mb'), 'streams': streams}


_shared: dict[str, load.DataSet] | None = None


@contextlib.contextmanager
def shared_data_sets() -> Iterator[None]:
  """While it lasts, what several runs read is opened once, and kept."""
  global _shared
  before, _shared = _shared, {} if _shared is None else _shared
  try:
    yield
  finally:
    _shared = before


class StreamFactory:
  """Makes streams from completed configs; a data set is opened once, however many streams and stages read it.

  Args:
    sources: names of data sets.
    formats: names of formats.
    devices: over which batches are split.
  """

  def __init__(self, sources: Registry, formats: Registry, devices: int):
    self._sources, self._formats, self._devices = sources, formats, devices
    self._opened: dict[str, load.DataSet] = {} if _shared is None else _shared

  def __call__(self, data: Mapping[str, Any], labels: Mapping[str, tuple[str, ...]]) -> dict[str, Stream]:
    """{name: stream}.

    Args:
      data: from `complete`.
      labels: {stream: the label columns that its tasks read}.
    """
    if data['eval_batch_size'] is not None:
      check_batch_size(data['eval_batch_size'], self._devices, 'data', 'data.eval_batch_size')
    return {name: self._stream(name, spec, data, labels.get(name, ())) for name, spec in data['streams'].items()}

  def _stream(self, name: str, spec: Mapping[str, Any], data: Mapping[str, Any], labels: tuple[str, ...]) -> Stream:
    where = spec['where']
    check_batch_size(spec['batch_size'], self._devices, 'data', f'{where}.batch_size')
    mixture = spec.get('mixture')
    entries = mixture or {name: {key: spec[key] for key in _SOURCE_KEYS if key in spec}}
    opened, defaults = {}, []
    for source, entry in entries.items():
      inside = f'{where}.mixture.{source}' if mixture else where
      check_keys(entry, (*_SOURCE_KEYS, 'weight'), inside)
      opened[source], inputs = self._open(entry, spec.get('format'), data['in_memory_mb'], inside)
      defaults.append(inputs)
    inputs = spec.get('inputs') or defaults[0]
    if not inputs:
      known = next(iter(opened.values())).splits['train'].names
      raise ValueError(f"'{where}.inputs' must name the column(s) fed to the encoder. Columns: {', '.join(known)}.")
    inputs = inputs if isinstance(inputs, str) else tuple(inputs)
    sampler = BlockSampler(
      [len(data_set.splits['train']) for data_set in opened.values()],
      _shares(spec, [entry.get('weight') for entry in entries.values()], opened, inputs) if mixture else None,
      block_size=spec.get('block_size', 256), seed=data['seed'],
      run=spec['batch_size'] if spec.get('unmixed') else 1)
    stream = Stream(name, {source: data_set.splits for source, data_set in opened.items()}, inputs, labels,
                    spec['batch_size'], sampler, mixture=bool(mixture), data_sets=opened)
    stream.check()
    return stream

  def _open(self, entry, format_spec, in_memory_mb, where) -> tuple[load.DataSet, Any]:
    """(data set, its default inputs)."""
    builder, inputs, default_formats = self._builder(entry, where)
    formats = to_dict(format_spec) or default_formats
    key = repr((entry.get('name'), entry.get('config'), entry.get('splits'), formats, in_memory_mb, builder.data_dir))
    if key not in self._opened:
      built = {column: self._formats.build(spec, f'{where}.format.{column}') for column, spec in formats.items()}
      bound = {} if in_memory_mb is None else {'in_memory_bytes': in_memory_mb << 20}
      self._opened[key] = load.open_data_set(builder, splits=entry.get('splits'), formats=built, **bound)
    return self._opened[key], inputs

  def _builder(self, entry: Mapping[str, Any], where: str) -> tuple[Any, Any, dict]:
    """(TFDS builder, default inputs, default formats)."""
    name, config = entry.get('name'), entry.get('config')
    if name is None:
      raise ValueError(f"'{where}' needs a name. Known: {', '.join(sorted(self._sources))}, or 'tfds:…'.")
    if name.startswith('tfds:'):
      return load.tfds_builder(name, config), None, {}
    factory = self._sources.lookup(name)
    configs = [c.name for c in getattr(factory, 'BUILDER_CONFIGS', ())]
    if config is not None and config not in configs:
      raise ValueError(f"Data set {name!r} has no config {config!r}. {did_you_mean(config, configs)}")
    builder = factory(data_dir=paths.prepared(), config=config, file_format='array_record')
    return builder, getattr(factory, 'INPUTS', None), dict(getattr(factory, 'FORMAT', {}))


def _shares(spec: Mapping[str, Any], weights: list, opened: Mapping[str, load.DataSet], inputs: Any) -> np.ndarray:
  """Each source's share of the examples of a mixture."""
  where, unit = spec['where'], spec.get('unit', 'examples')
  if any(w is None for w in weights) and any(w is not None for w in weights):
    raise ValueError(f"'{where}.mixture': give every source a weight, or none.")
  if unit not in ('examples', 'tokens'):
    raise ValueError(f"'{where}.unit' must be 'examples' or 'tokens', got {unit!r}.")
  tables = [data_set.splits['train'] for data_set in opened.values()]
  shares = rates([len(table) for table in tables], weights=None if weights[0] is None else weights,
                 temperature=spec.get('temperature', 1.0), maximum=spec.get('maximum'))
  if unit == 'tokens':
    if not isinstance(inputs, str):
      raise ValueError(f"'{where}.unit' = 'tokens' needs one input column of tokens, got inputs={inputs!r}.")
    shares = shares / np.array([mean_tokens(table, inputs) for table in tables])
  return shares / shares.sum()
