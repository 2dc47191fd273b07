"""Settings of generation by config, and those that a checkpoint comes with.

A folder of Hugging Face's has them in generation_config.json (suppress_tokens, begin_suppress_tokens; older ones in
config.json), one of CTranslate2's in config.json (suppress_ids, suppress_ids_begin).
https://huggingface.co/docs/transformers/main_classes/text_generation, https://opennmt.net/CTranslate2.
"""
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mtjax.config import check_keys, to_dict
from mtjax.data.formats import ByteText
from mtjax.decoding.settings import OPTIONS, Generation
from mtjax.interop.tokenizers import Tokenizer, local

_NAMES = {'suppress_tokens': ('suppress_tokens', 'suppress_ids'),
          'begin_suppress_tokens': ('begin_suppress_tokens', 'suppress_ids_begin')}
_FIELDS = ('max_new_tokens', 'prefix', 'prompts', 'references', 'limit')


def published_suppression(directory: str | pathlib.Path) -> dict[str, tuple[int, ...]]:
  """{'suppress_tokens': …, 'begin_suppress_tokens': …}, as far as a checkpoint lists them.

  Args:
    directory: of the checkpoint.

  Raises FileNotFoundError where it has neither generation_config.json nor config.json.
  """
  folder = pathlib.Path(directory).expanduser()
  files = [folder / name for name in ('generation_config.json', 'config.json') if (folder / name).exists()]
  if not files:
    raise FileNotFoundError(f'{folder} has neither a generation_config.json nor a config.json.')
  found: dict[str, tuple[int, ...]] = {}
  for said in (json.loads(path.read_text(encoding='utf-8')) for path in files):
    for field, names in _NAMES.items():
      tokens = next((said[name] for name in names if said.get(name)), ())
      if tokens and field not in found:
        found[field] = tuple(int(token) for token in tokens if token >= 0)  # some files write -1 for 'the usual ones'
  return found


def generation(spec: Mapping[str, Any], where: str) -> Generation:
  """The settings that a config holds.

  Args:
    spec: dict(tokenizer, max_new_tokens, prefix?, prompts?, references?, limit?, suppress?, …options). tokenizer: a
      path, 'fetched:NAME', or 'bytes' (of the format `bytes`). suppress: a checkpoint whose suppressed tokens are
      taken, a folder or 'fetched:NAME'. Options: see `mtjax.decoding.Generation`.
    where: the config path, for errors.

  Raises ValueError naming the field, the value and what is allowed.
  """
  spec = to_dict(spec)
  check_keys(spec, ('tokenizer', *_FIELDS, 'suppress', *OPTIONS), where)
  if 'tokenizer' not in spec or 'max_new_tokens' not in spec:
    raise ValueError(f"'{where}' needs a tokenizer (a path, 'fetched:NAME' or 'bytes') and max_new_tokens.")
  options = published_suppression(local(spec['suppress'])) if 'suppress' in spec else {}
  options |= {name: spec[name] for name in OPTIONS if name in spec}
  fields = {name: spec[name] for name in _FIELDS if name in spec}
  tokenizer = ByteText() if spec['tokenizer'] == 'bytes' else Tokenizer(local(spec['tokenizer']))
  try:
    return Generation(tokenizer, options=options, **fields)
  except ValueError as error:
    raise ValueError(f"'{where}': {error}") from error
