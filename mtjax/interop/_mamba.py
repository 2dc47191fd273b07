"""Mamba's published tensors.  https://huggingface.co/docs/transformers/model_doc/mamba."""
import numpy as np

from mtjax.encoders import Mamba
from mtjax.interop import _fields
from mtjax.interop.mapping import LINEAR, SAME, Family, Row, Transform, dense, norm

CONV = Transform(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))  # (E, 1, K) <-> [K, 1, E]
TIED = {'lm_head.weight': 'backbone.embeddings.weight'}


def read_common(config, architecture, tie: bool) -> dict:
  """The fields that Mamba and Mamba-2 share; `tie`: what is meant where config.json does not say."""
  _fields.only(config, hidden_act='silu')
  vocab_size, width, depth, state_size = _fields.need(
    config, 'vocab_size', 'hidden_size', 'num_hidden_layers', 'state_size')
  return dict(vocab_size=vocab_size, width=width, depth=depth, state_size=state_size, expand=config.get('expand', 2),
              conv_width=config.get('conv_kernel', 4), use_bias=config.get('use_bias', False),
              conv_bias=config.get('use_conv_bias', True), eps=config.get('layer_norm_epsilon', 1e-5),
              logits=architecture.endswith('ForCausalLM'), tie=config.get('tie_word_embeddings', tie))


def write_common(module, name: str) -> dict:
  """The same fields of config.json, for `name` = 'Mamba' or 'Mamba2'."""
  return {
    'architectures': [f'{name}ForCausalLM' if module.logits else f'{name}Model'], 'model_type': name.lower(),
    'vocab_size': module.vocab_size, 'hidden_size': module.width, 'num_hidden_layers': module.depth,
    'state_size': module.state_size, 'expand': module.expand, 'intermediate_size': module.expand * module.width,
    'conv_kernel': module.conv_width, 'use_bias': module.use_bias, 'use_conv_bias': module.conv_bias,
    'layer_norm_epsilon': module.eps, 'tie_word_embeddings': module.tie, 'hidden_act': 'silu',
    'residual_in_fp32': True}


def rows_around(module, mixer) -> list[Row]:
  """The table, with the rows that `mixer`(their name, our path) gives for a block's mixer."""
  rows = [Row('backbone.embeddings.weight', 'embed/embedding', SAME)]
  for i in range(module.depth):
    theirs, ours = f'backbone.layers.{i}', f'block_{i}'
    rows += norm(f'{theirs}.norm', f'{ours}/norm', bias=False)
    rows.append(Row(f'{theirs}.mixer.conv1d.weight', f'{ours}/mixer/conv/kernel', CONV))
    if module.conv_bias:
      rows.append(Row(f'{theirs}.mixer.conv1d.bias', f'{ours}/mixer/conv/bias', SAME))
    rows += [Row(f'{theirs}.mixer.{name}', f'{ours}/mixer/{name}', SAME) for name in ('A_log', 'D')]
    for name in ('in_proj', 'out_proj'):
      rows += dense(f'{theirs}.mixer.{name}', f'{ours}/mixer/{name}', module.use_bias)
    rows += mixer(f'{theirs}.mixer', f'{ours}/mixer')
  rows += norm('backbone.norm_f', 'norm', bias=False)
  if module.logits and not module.tie:
    rows.append(Row('lm_head.weight', 'lm_head/kernel', LINEAR))
  return rows


def _module(config, architecture, names) -> Mamba:
  rank = config.get('time_step_rank', 'auto')
  return Mamba(rank=None if rank == 'auto' else rank, **read_common(config, architecture, True))


def _config(module: Mamba, params) -> dict:
  return write_common(module, 'Mamba') | {'time_step_rank': module.rank or -(-module.width // 16)}


def _rows(module: Mamba) -> list[Row]:
  return rows_around(module, lambda theirs, ours: [
    *dense(f'{theirs}.x_proj', f'{ours}/x_proj', bias=False), *dense(f'{theirs}.dt_proj', f'{ours}/dt_proj')])


FAMILY = Family(
  base='backbone.', module=_module, config=_config, rows=_rows, kind=Mamba, bare=('MambaModel',),
  example=lambda config: np.zeros((1, 1), np.int32), renames=((r'\bembedding\.weight$', 'embeddings.weight'),),
  twins=lambda config: TIED if config.get('tie_word_embeddings', True) else {})
