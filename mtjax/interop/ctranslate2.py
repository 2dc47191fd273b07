"""Files of CTranslate2 (`model.bin`, binary version 6), and Whisper in one of them.

    module, params = mtjax.interop.ctranslate2.load('whisper-base')
    arrays = mtjax.interop.ctranslate2.read('whisper-base/model.bin')     of any model: {name there: array}

https://github.com/OpenNMT/CTranslate2, python/ctranslate2/specs/model_spec.py. Little-endian; a string is its length
u16, the ending zero byte included, and its bytes:

    version u32, spec, revision u32, variables u32
    variables:  name, axes u8, lengths u32, dtype u8, bytes u32, the numbers
    aliases u32: name, name of the variable of the same numbers

Whisper (Radford et al., 2022, https://arxiv.org/abs/2212.04356): query, key and value are one matrix there, of which
each is a third of the rows; key and value of the attention to the encoder are halves of one. Keys have a bias there,
which is zero, and none at Hugging Face. So the file is seen as a checkpoint of Hugging Face's, whose tensors are parts
of it; they are read one at a time.
"""
import math
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.sharding import Sharding
from jax.typing import DTypeLike

from mtjax.encoders import Whisper
from mtjax.interop import _safetensors, hf
from mtjax.interop._cursor import Cursor
from mtjax.interop._safetensors import Entry

VERSION = 6
DTYPES = {0: 'F32', 1: 'I8', 2: 'I16', 3: 'I32', 4: 'F16', 5: 'BF16'}
ACTIVATIONS = {0: 'relu', 1: 'gelu_new', 2: 'silu', 3: 'gelu', 5: 'tanh'}
# What `Whisper` computes, of the settings that a file has as variables.
FIXED = {'decoder/alibi': 0, 'decoder/pre_norm': 1, 'decoder/start_from_zero_embedding': 0}
SETTINGS = ('decoder/activation', 'decoder/num_heads', 'decoder/scale_embeddings', 'encoder/num_heads')
UNUSED = {'decoder/alignment_heads', 'decoder/alignment_layer'}


def load(path: str | pathlib.Path, *, dtype: DTypeLike | None = None,
         sharding: Sharding | Mapping[str, Any] | Callable[[str, tuple[int, ...]], Sharding] | None = None,
         ) -> tuple[Whisper, dict]:
  """Reads a Whisper.

  Args:
    path: a model.bin, or the directory with it.
    dtype: of the parameters and of the module's matrix products; None = as in the file, with products in float32.
    sharding: where the parameters live, as `mtjax.interop.hf.load` takes it.

  Returns:
    (module, params), for module.apply({'params': params}, spectrogram, targets).

  Raises as `whisper`, and ValueError for variables of another shape, which are all listed.
  """
  config, tensors = whisper(path)
  architecture = config['architectures'][0]
  return hf.assemble(hf.family_named(architecture), config, architecture, tensors, _safetensors, path, dtype=dtype,
                     sharding=sharding)


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
  """{name: array} of a file, aliases too. Errors as `scan`."""
  entries = scan(path)[1]
  arrays: dict[Entry, np.ndarray] = {}  # an alias is the same entry
  return {name: arrays.setdefault(entry, _safetensors.read(name, entry)) for name, entry in entries.items()}


def scan(path: str | pathlib.Path) -> tuple[str, dict[str, Entry]]:
  """(the name of the spec, e.g. 'WhisperSpec'; {name: entry}), aliases too; the numbers themselves are not read.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is of another version, cut off or damaged, or holds an array of unknown type.
  """
  path = pathlib.Path(path).expanduser()
  entries: dict[str, Entry] = {}
  with path.open('rb') as file:
    cursor = Cursor(path, file)
    version = cursor.number('<u4', 'the version')
    if version != VERSION:
      raise ValueError(f'{path} is no CTranslate2 file of a version that is read: it begins with {version}; allowed is '
                       f'{VERSION}.')
    spec, _, count = _name(cursor, 'the spec'), cursor.number('<u4', 'the spec'), cursor.number('<u4', 'the spec')
    for i in range(count):
      name, entry, size = _variable(cursor, f'variable {i + 1} of {count}')
      if name in entries:
        raise ValueError(f'{path} is damaged: it holds {name} twice.')
      entries[name] = entry
      cursor.skip(size, name)
    for _ in range(cursor.number('<u4', 'the aliases')):
      alias, name = _name(cursor, 'the aliases'), _name(cursor, 'the aliases')
      if name not in entries:
        raise ValueError(f'{path} is damaged: {alias} is another name of {name}, which it does not hold.')
      entries[alias] = entries[name]
  return spec, entries


def whisper(path: str | pathlib.Path) -> tuple[dict[str, Any], dict[str, Entry]]:
  """A Whisper as Hugging Face's WhisperForConditionalGeneration has it.

  Args:
    path: a model.bin, or the directory with it.

  Returns:
    (the fields of its config.json that follow from the file; {name in its state dict: entry}, to be read by
    `mtjax.interop._safetensors.read`). The output layer is the embedding and not listed.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: the file is damaged, holds another model or a quantised one, has settings that Whisper has not, or
      variables are missing or unknown, which are all listed.
  """
  path = pathlib.Path(path).expanduser()
  path = path / 'model.bin' if path.is_dir() else path
  spec, entries = scan(path)
  if spec != 'WhisperSpec':
    raise ValueError(f"{path} holds a model of {spec!r}; allowed is 'WhisperSpec'.")
  if scales := sorted(name for name in entries if name.endswith('/weight_scale')):
    raise ValueError(f'{path} is quantised to integers ({len(scales)} variables, e.g. {scales[0]}); allowed are files '
                     f'of floating-point numbers.')
  layers = {side: len({name.split('/')[1] for name in entries if re.match(rf'{side}/layer_\d+/', name)}) or 1
            for side in ('encoder', 'decoder')}
  parts, zeros = _table(layers)
  wanted = {name for name, _, _ in parts.values()} | {*zeros, 'decoder/projection/weight', *FIXED, *SETTINGS}
  problems = [f'{kind}: {", ".join(sorted(names))}.' for kind, names in (
    ('missing', wanted - entries.keys()), ('unknown', entries.keys() - wanted - UNUSED)) if names]
  if problems:
    raise ValueError(f'The variables in {path} are not those of a Whisper. ' + ' '.join(problems))
  settings = {name: _safetensors.read(name, entries[name]).item() for name in (*FIXED, *SETTINGS)}
  for name, value in FIXED.items():
    if settings[name] != value:
      raise ValueError(f'{path} has {name}={settings[name]}; implemented is {value}.')
  if entries['decoder/projection/weight'] != entries['decoder/embeddings/weight']:
    raise ValueError(f'{path} has an output layer of its own; implemented is the embedding.')
  for name, (part, of) in zeros.items():
    if _safetensors.read(name, _part(name, entries[name], part, of)).any():
      raise ValueError(f'{path} has a bias of keys in {name} that is not zero; Whisper has none.')
  return _config(path, entries, layers, settings), {
    theirs: _part(name, entries[name], part, of) for theirs, (name, part, of) in parts.items()}


def _table(layers: dict[str, int]) -> tuple[dict[str, tuple[str, int, int]], dict[str, tuple[int, int]]]:
  """({their name: (variable, which part of its rows, of how many)}, {bias: (the part that is zero, of how many)})."""
  parts: dict[str, tuple[str, int, int]] = {}
  zeros: dict[str, tuple[int, int]] = {}

  def put(theirs, name, leaves=(('weight', 'weight'), ('bias', 'bias')), part=0, of=1):
    for leaf, own in leaves:
      parts[f'model.{theirs}.{leaf}'] = (f'{name}/{own}', part, of)

  def norm(theirs, name):
    put(theirs, name, (('weight', 'gamma'), ('bias', 'beta')))

  def attend(theirs, name, groups):
    for linear, fields in enumerate(groups):
      for part, field in enumerate(fields):
        leaves = [(leaf, leaf) for leaf in ('weight', 'bias') if (leaf, field) != ('bias', 'k_proj')]
        put(f'{theirs}.{field}', f'{name}/linear_{linear}', leaves, part, len(fields))
        if field == 'k_proj':
          zeros[f'{name}/linear_{linear}/bias'] = (part, len(fields))

  for side, depth in layers.items():
    parts[f'model.{side}.embed_positions.weight'] = (f'{side}/position_encodings/encodings', 0, 1)
    norm(f'{side}.layer_norm', f'{side}/layer_norm')
    for i in range(depth):
      theirs, own = f'{side}.layers.{i}', f'{side}/layer_{i}'
      norm(f'{theirs}.self_attn_layer_norm', f'{own}/self_attention/layer_norm')
      attend(f'{theirs}.self_attn', f'{own}/self_attention', (('q_proj', 'k_proj', 'v_proj'), ('out_proj',)))
      if side == 'decoder':
        norm(f'{theirs}.encoder_attn_layer_norm', f'{own}/attention/layer_norm')
        attend(f'{theirs}.encoder_attn', f'{own}/attention', (('q_proj',), ('k_proj', 'v_proj'), ('out_proj',)))
      norm(f'{theirs}.final_layer_norm', f'{own}/ffn/layer_norm')
      for fc, linear in (('fc1', 'linear_0'), ('fc2', 'linear_1')):
        put(f'{theirs}.{fc}', f'{own}/ffn/{linear}')
  for conv in ('conv1', 'conv2'):
    put(f'encoder.{conv}', f'encoder/{conv}')
  parts['model.decoder.embed_tokens.weight'] = ('decoder/embeddings/weight', 0, 1)
  return parts, zeros


def _config(path, entries, layers, settings) -> dict[str, Any]:
  """The fields of config.json."""
  def size(name, axis, axes):
    shape = entries[name].shape
    if len(shape) != axes:
      raise ValueError(f'{path} has {name} of shape {list(shape)}; allowed are {axes} axes.')
    return shape[axis]

  if settings['decoder/activation'] not in ACTIVATIONS:
    raise ValueError(f"{path} has decoder/activation={settings['decoder/activation']}; allowed are "
                     + ', '.join(f'{i} ({name})' for i, name in ACTIVATIONS.items()) + '.')
  end = 50257 if entries['decoder/embeddings/weight'].shape[0] >= 51865 else 50256  # of all languages, or of English
  return {
    'architectures': ['WhisperForConditionalGeneration'], 'pad_token_id': end, 'eos_token_id': end,
    'decoder_start_token_id': end + 1, 'model_type': 'whisper', 'tie_word_embeddings': True,
    'vocab_size': size('decoder/embeddings/weight', 0, 2), 'd_model': size('decoder/embeddings/weight', 1, 2),
    'num_mel_bins': size('encoder/conv1/weight', 1, 3),
    'activation_function': ACTIVATIONS[settings['decoder/activation']],
    'scale_embedding': bool(settings['decoder/scale_embeddings']),
    'max_source_positions': size('encoder/position_encodings/encodings', 0, 2),
    'max_target_positions': size('decoder/position_encodings/encodings', 0, 2),
    **{f'{side}_layers': depth for side, depth in layers.items()},
    **{f'{side}_attention_heads': settings[f'{side}/num_heads'] for side in layers},
    **{f'{side}_ffn_dim': size(f'{side}/layer_0/ffn/linear_0/weight', 0, 2) for side in layers}}


def _part(name: str, entry: Entry, part: int, of: int) -> Entry:
  """One of `of` equal parts of an array's rows."""
  if of == 1:
    return entry
  if not entry.shape or entry.shape[0] % of:
    raise ValueError(f'{entry.file} has {name} of shape {list(entry.shape)}; allowed is a multiple of {of} rows.')
  shape = (entry.shape[0] // of, *entry.shape[1:])
  size = math.prod(shape) * _safetensors.dtype_of(name, entry).itemsize
  return entry._replace(shape=shape, offset=entry.offset + part * size)


def _name(cursor: Cursor, what: str) -> str:
  return cursor.text('<u2', what).removesuffix('\0')


def _variable(cursor: Cursor, what: str) -> tuple[str, Entry, int]:
  """(name, entry, bytes) of a variable whose numbers come next."""
  name = _name(cursor, what)
  shape = tuple(cursor.number('<u4', name) for _ in range(cursor.number('<u1', name)))
  kind, size = cursor.number('<u1', name), cursor.number('<u4', name)
  if kind not in DTYPES:
    raise ValueError(f'{cursor.path} holds {name} as type {kind}; allowed are '
                     + ', '.join(f'{i} ({dtype})' for i, dtype in DTYPES.items()) + '.')
  due = math.prod(shape) * _safetensors.DTYPES[DTYPES[kind]].itemsize
  if size != due:
    raise ValueError(f'{cursor.path} is damaged at {name}: {DTYPES[kind]} of shape {list(shape)} takes {due} bytes, it '
                     f'has {size}.')
  return name, Entry(cursor.path, shape, DTYPES[kind], cursor.at), size
