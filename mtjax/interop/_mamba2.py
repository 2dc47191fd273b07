"""Mamba-2's published tensors.  https://huggingface.co/docs/transformers/model_doc/mamba2."""
import math

import numpy as np

from mtjax.encoders import Mamba2
from mtjax.interop import _fields
from mtjax.interop._mamba import TIED, read_common, rows_around, write_common
from mtjax.interop.mapping import SAME, Family, Row, norm


def _module(config, architecture, names) -> Mamba2:
  size, heads = _fields.need(config, 'head_dim', 'num_heads')
  common = read_common(config, architecture, False)
  if size * heads != common['expand'] * common['width']:
    raise ValueError(f'config.json has head_dim={size} and num_heads={heads}; allowed is a product of '
                     f'{common["expand"] * common["width"]}, expand times hidden_size.')
  return Mamba2(head_size=size, groups=config.get('n_groups', 8),
                dt_limit=tuple(_number(x) for x in config.get('time_step_limit') or (0.0, math.inf)), **common)


def _config(module: Mamba2, params) -> dict:
  return write_common(module, 'Mamba2') | {
    'head_dim': module.head_size, 'num_heads': module.expand * module.width // module.head_size,
    'n_groups': module.groups, 'chunk_size': module.chunk,
    # Infinity is no JSON, and is what is meant where nothing is said.
    **({} if math.isinf(module.dt_limit[1]) and not module.dt_limit[0] else {'time_step_limit': list(module.dt_limit)})}


def _rows(module: Mamba2) -> list[Row]:
  return rows_around(module, lambda theirs, ours: [
    Row(f'{theirs}.dt_bias', f'{ours}/dt_bias', SAME), *norm(f'{theirs}.norm', f'{ours}/norm', bias=False)])


def _number(x) -> float:
  """A number as newer files write it: {'__float__': 'Infinity'} stands for what JSON lacks."""
  return float(x['__float__'] if isinstance(x, dict) else x)


FAMILY = Family(
  base='backbone.', module=_module, config=_config, rows=_rows, kind=Mamba2, bare=('Mamba2Model',),
  example=lambda config: np.zeros((1, 1), np.int32), renames=((r'\bembedding\.weight$', 'embeddings.weight'),),
  twins=lambda config: TIED if config.get('tie_word_embeddings', False) else {})
