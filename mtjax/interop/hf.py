"""Hugging Face checkpoints: a directory with config.json and safetensors <-> (module, params).

    module, params = mtjax.interop.hf.load('bert-base-uncased')
    features = module.apply({'params': params}, tokens)
    mtjax.interop.hf.save(module, params, 'my-bert')

The module is an ordinary encoder of `mtjax.encoders`, called as all of them are: tokens [B, L] int, or images
[B, H, W, C], or a spectrogram [B, time, mel]; encoder-decoders read a pair (inputs, targets). How padding is given is
said in `mtjax/encoders/_text.py`, how targets are in `_pairs.py`. With the head of the checkpoint
(…ForMaskedLM, …ForCausalLM, …ForImageClassification, …) `Features.aux['logits']` is its output.

Tensors are read one at a time, each straight into its place, so that the memory in use is that of the parameters and
of one tensor. Nothing is unpickled. A new family: see `mtjax.interop.mapping`.
"""
import importlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike

from mtjax import tree
from mtjax.config import did_you_mean
from mtjax.interop import _safetensors
from mtjax.interop.mapping import SAME, Family, Row

FAMILIES = {
  **dict.fromkeys(('BertModel', 'BertForMaskedLM', 'BertForSequenceClassification'), 'mtjax.interop._bert'),
  **dict.fromkeys(('ViTModel', 'ViTForImageClassification'), 'mtjax.interop._vit'),
  **dict.fromkeys(('GPT2Model', 'GPT2LMHeadModel'), 'mtjax.interop._gpt2'),
  **dict.fromkeys(('T5ForConditionalGeneration', 'T5Model', 'T5EncoderModel'), 'mtjax.interop._t5'),
  **dict.fromkeys(('ASTModel', 'ASTForAudioClassification'), 'mtjax.interop._ast'),
  **dict.fromkeys(('SwinModel', 'SwinForImageClassification'), 'mtjax.interop._swin'),
  **dict.fromkeys(('MambaModel', 'MambaForCausalLM'), 'mtjax.interop._mamba'),
  **dict.fromkeys(('Mamba2Model', 'Mamba2ForCausalLM'), 'mtjax.interop._mamba2'),
  'WhisperForConditionalGeneration': 'mtjax.interop._whisper',
  **dict.fromkeys(('LlamaModel', 'LlamaForCausalLM', 'MistralModel', 'MistralForCausalLM'), 'mtjax.interop._llama'),
}
SHARD_BYTES = 5_000_000_000


def load(directory: str | pathlib.Path, *, dtype: DTypeLike | None = None,
         sharding: Sharding | Mapping[str, Any] | Callable[[str, tuple[int, ...]], Sharding] | None = None,
         ) -> tuple[nn.Module, dict]:
  """Reads a checkpoint.

  Args:
    directory: holds config.json, and model.safetensors or its shards with their index.
    dtype: of the parameters and of the module's matrix products; None = as in the file, with products in float32.
    sharding: where the parameters live: one for all, a tree of them shaped like the parameters, or a function
      (path, shape) -> sharding; None = the default device.

  Returns:
    (module, params), for module.apply({'params': params}, inputs).

  Raises:
    FileNotFoundError: the directory or one of its files is missing.
    ValueError: the architecture is not known, the weights are pickled, or tensors are missing, unknown or of another
      shape, which are all listed.
  """
  directory = pathlib.Path(directory).expanduser()
  config, architecture = read_config(directory)
  return assemble(family_named(architecture), config, architecture, _safetensors.scan(directory), _safetensors,
                  directory, dtype=dtype, sharding=sharding)


def assemble(family: Family, config: Mapping[str, Any], architecture: str, entries: Mapping[str, Any], reader: Any,
             where: str | pathlib.Path, *, dtype: DTypeLike | None = None, sharding: Any = None,
             ) -> tuple[nn.Module, dict]:
  """(module, params) of tensors in whatever format.

  Args:
    family: what the tensors are called, and how each becomes ours.
    config: the fields of a config.json.
    architecture: one that the family knows.
    entries: {name: what `reader` knows the tensor by}, with the attribute `shape`.
    reader: has `read(name, entry)`, `read_blocks(name, entry)` and `dtype_of(name, entry)`, as `_safetensors` has.
    where: the file or directory, for error messages.
    dtype: see `load`.
    sharding: see `load`.

  Raises ValueError for tensors that are missing, unknown or of another shape, which are all listed.
  """
  names = frozenset(family.rename(name).removeprefix(family.base) for name in entries)
  module = family.module(config, architecture, names)
  if dtype is not None:
    module = module.clone(dtype=dtype)
  shapes = tree.flatten(jax.eval_shape(module.init, jax.random.key(0), family.example(config))['params'])
  rows = family.rows(module)
  found = _check(where, family, rows, shapes, entries, config)
  place = _placement(sharding)
  params = {}
  for row in rows:
    params |= _read_row(row, found, entries, reader, shapes, dtype, place)
  return module, tree.unflatten({path: params[path] for path in shapes})


def save(module: nn.Module, params: Mapping[str, Any], directory: str | pathlib.Path, *,
         extra: Mapping[str, Any] | None = None, shard_bytes: int = SHARD_BYTES) -> None:
  """Writes a checkpoint that `load` and Hugging Face's own code read.

  Args:
    module: an encoder of a family that `load` knows.
    params: its parameters, in the dtype in which they shall be written.
    directory: made if need be; weights that are there already are replaced.
    extra: further fields of config.json (bos_token_id, id2label, …).
    shard_bytes: from which size on the weights are split over several files.

  Raises ValueError for a module of no family, and for parameters that are not the module's.
  """
  family = family_of(module)
  flat, rows = tree.flatten(params), family.rows(module)
  wanted = [path for row in rows for path in _several(row.ours)]
  lists = {'missing': sorted(set(wanted) - set(flat)), 'unknown': sorted(set(flat) - set(wanted))}
  config = {}
  if not any(lists.values()):
    config = family.config(module, flat) | {'torch_dtype': jnp.dtype(flat[wanted[0]].dtype).name} | dict(extra or {})
    shapes = tree.flatten(jax.eval_shape(module.init, jax.random.key(0), family.example(config))['params'])
    lists['misshapen'] = [f'{path} is {list(flat[path].shape)}, expected {list(shapes[path].shape)}'
                          for path in wanted if flat[path].shape != shapes[path].shape]
  if any(lists.values()):
    raise ValueError(f'These are not the parameters of {type(module).__name__}. '
                     + ' '.join(f'{kind}: {", ".join(paths)}.' for kind, paths in lists.items() if paths))
  prefix = family.base if config['architectures'][0] in family.bare else ''
  where: dict[str, tuple[Row, int | None]] = {}
  for row in rows:
    for i, name in enumerate(_several(row.theirs)):
      where[name.removeprefix(prefix)] = (row, i if isinstance(row.theirs, tuple) else None)

  def leaves(name, stacked):
    row, i = where[name]
    return [flat[path] if i is None else stacked(flat[path], i) for path in _several(row.ours)]

  def size(name):
    parts = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves(name, lambda x, i: _entry_shape(x))]
    return sum(int(np.prod(part.shape)) * part.dtype.itemsize for part in parts)

  def tensor(name):
    parts = [np.asarray(x) for x in leaves(name, lambda x, i: x[i])]
    return where[name][0].transform.save(*parts)

  directory = pathlib.Path(directory).expanduser()
  directory.mkdir(parents=True, exist_ok=True)
  _safetensors.write(directory, {name: size(name) for name in where}, tensor, shard_bytes)
  (directory / 'config.json').write_text(json.dumps(config, indent=2) + '\n')


def read_config(directory: str | pathlib.Path) -> tuple[dict[str, Any], str]:
  """config.json and the architecture that it names."""
  path = pathlib.Path(directory) / 'config.json'
  if not path.exists():
    raise FileNotFoundError(f'{directory} is no checkpoint: it has no config.json.')
  config = json.loads(path.read_text())
  architectures = config.get('architectures') or []
  if len(architectures) != 1:
    raise ValueError(f"{path} has architectures={architectures!r}; allowed is one, e.g. ['BertModel'].")
  if architectures[0] not in FAMILIES:
    raise ValueError(f'{path} names the architecture {architectures[0]!r}. {did_you_mean(architectures[0], FAMILIES)}')
  return config, architectures[0]


def family_named(architecture: str) -> Family:
  """The family of an architecture of `FAMILIES`."""
  return importlib.import_module(FAMILIES[architecture]).FAMILY


def family_of(module: nn.Module) -> Family:
  """The family of a module; raises ValueError for one that has no published layout."""
  families = [importlib.import_module(name).FAMILY for name in sorted(set(FAMILIES.values()))]
  for family in families:
    if isinstance(module, family.kind):
      return family
  raise ValueError(f'{type(module).__name__} has no published layout. '
                   f'{did_you_mean(type(module).__name__, [family.kind.__name__ for family in families])}')


def _check(where, family: Family, rows, shapes, entries, config) -> dict[str, str]:
  """{their name: the name in the file}. Raises one ValueError that lists every tensor that does not fit."""
  expected = {name: _their_shape(row, shapes) for row in rows for name in _several(row.theirs)}
  found, extra = family.resolve(list(entries), expected, config)
  missing = [name for name in expected if name not in found]
  misshapen = [f'{found[name]} is {list(entries[found[name]].shape)}, expected {list(shape)}'
               for name, shape in expected.items() if name in found and entries[found[name]].shape != shape]
  problems = [f'{len(lines)} {kind}: {"; ".join(sorted(lines))}.'
              for kind, lines in (('missing', missing), ('unknown', extra), ('misshapen', misshapen)) if lines]
  unmapped = sorted(set(shapes) - {path for row in rows for path in _several(row.ours)})
  assert not unmapped, f'The table of {family.kind.__name__} lacks {unmapped}'
  if problems:
    raise ValueError(f'The tensors in {where} are not those of its configuration. ' + ' '.join(problems))
  return found


def _their_shape(row: Row, shapes: Mapping[str, Any]) -> tuple[int, ...]:
  leaves = [shapes[path] for path in _several(row.ours)]
  if isinstance(row.theirs, tuple):
    leaves = [_entry_shape(leaf) for leaf in leaves]
  return jax.eval_shape(row.transform.save, *leaves).shape


def _entry_shape(leaf: Any) -> jax.ShapeDtypeStruct:
  """One entry of a stacked leaf."""
  return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)


def _read_row(row: Row, found, entries, reader, shapes, dtype, place) -> dict[str, jax.Array]:
  """{our path: array}; each tensor is copied once, from the file's bytes into the place of its leaf."""
  ours, theirs = _several(row.ours), _several(row.theirs)
  entry = entries[found[theirs[0]]]
  dtype = jnp.dtype(dtype or reader.dtype_of(found[theirs[0]], entry))
  buffers = {path: _buffer(shapes[path].shape, dtype) for path in ours}
  for i, name in enumerate(theirs):
    targets = [buffers[path][i] if isinstance(row.theirs, tuple) else buffers[path] for path in ours]
    if row.transform is SAME:
      for rows, block in reader.read_blocks(found[name], entries[found[name]]):
        targets[0][rows] = block
      continue
    array = reader.read(found[name], entries[found[name]])
    views = row.transform.load(array)
    for target, view in zip(targets, _several(views)):
      target[...] = view
    del array, views, view
  return {path: jax.device_put(buffers.pop(path), place(path, shapes[path].shape)) for path in ours}


def _buffer(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
  """Uninitialised memory, aligned so that a CPU device takes it over as it is."""
  size = int(np.prod(shape)) * dtype.itemsize
  raw = np.empty(size + 64, np.uint8)
  start = -raw.ctypes.data % 64
  return raw[start: start + size].view(dtype).reshape(shape)


def _placement(sharding) -> Callable[[str, tuple[int, ...]], Sharding | None]:
  if sharding is None or isinstance(sharding, Sharding):
    return lambda path, shape: sharding
  if callable(sharding):
    return sharding
  flat = tree.flatten(sharding)

  def place(path, shape):
    if path not in flat:
      raise ValueError(f"'sharding' has no entry for the parameter {path!r}. {did_you_mean(path, flat)}")
    return flat[path]

  return place


def _several(x: Any) -> tuple:
  return x if isinstance(x, tuple) else (x,)
