"""GPT-2's published tensors.  https://huggingface.co/docs/transformers/model_doc/gpt2.

Its linear layers are (in, out), as ours; query, key and value are one of (D, 3 D).
"""
import numpy as np

from mtjax.encoders import GPT2
from mtjax.interop import _fields
from mtjax.interop.mapping import LINEAR, SAME, Family, Row, Transform, norm

_TIED = {'lm_head.weight': 'transformer.wte.weight'}


def _module(config, architecture, names) -> GPT2:
  _fields.only(config, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
  vocab_size, width, depth, heads = _fields.need(config, 'vocab_size', 'n_embd', 'n_layer', 'n_head')
  tied = 'tied' if config.get('tie_word_embeddings', True) else 'untied'
  return GPT2(vocab_size=vocab_size, width=width, depth=depth, heads=heads, hidden=config.get('n_inner'),
              max_length=config.get('n_positions', 1024), head=None if architecture == 'GPT2Model' else tied,
              activation=_fields.activation(config, 'activation_function', 'gelu_new'),
              norm_eps=config.get('layer_norm_epsilon', 1e-5), dropout_rate=config.get('resid_pdrop', 0.1))


def _config(module: GPT2, params) -> dict:
  return {
    'architectures': ['GPT2Model' if module.head is None else 'GPT2LMHeadModel'], 'model_type': 'gpt2',
    'vocab_size': module.vocab_size, 'n_embd': module.width, 'n_layer': module.depth, 'n_head': module.heads,
    'n_inner': module.hidden, 'n_positions': module.max_length, 'tie_word_embeddings': module.head != 'untied',
    'activation_function': _fields.THEIR_ACTIVATIONS[module.activation], 'layer_norm_epsilon': module.norm_eps,
    'resid_pdrop': module.dropout_rate, 'embd_pdrop': module.dropout_rate, 'attn_pdrop': 0.0}


def _rows(module: GPT2) -> list[Row]:
  heads = module.heads
  kernels = Transform(  # (D, 3 D) <-> three of [D, H, K]
    lambda x: tuple(part.reshape(len(x), heads, -1) for part in np.split(x, 3, axis=1)),
    lambda *parts: _concat([x.reshape(x.shape[0], -1) for x in parts], axis=1))
  biases = Transform(  # (3 D) <-> three of [H, K]
    lambda x: tuple(part.reshape(heads, -1) for part in np.split(x, 3)),
    lambda *parts: _concat([x.reshape(-1) for x in parts], axis=0))
  out = Transform(lambda x: x.reshape(heads, -1, x.shape[1]), lambda x: x.reshape(-1, x.shape[2]))
  rows = [Row('transformer.wte.weight', 'embed/embedding', SAME), Row('transformer.wpe.weight', 'pos_embed', SAME)]
  for i in range(module.depth):
    theirs, ours = f'transformer.h.{i}', f'block_{i}'
    rows += [
      *norm(f'{theirs}.ln_1', f'{ours}/norm1'),
      Row(f'{theirs}.attn.c_attn.weight', tuple(f'{ours}/attn/{x}/kernel' for x in ('query', 'key', 'value')), kernels),
      Row(f'{theirs}.attn.c_attn.bias', tuple(f'{ours}/attn/{x}/bias' for x in ('query', 'key', 'value')), biases),
      Row(f'{theirs}.attn.c_proj.weight', f'{ours}/attn/out/kernel', out),
      Row(f'{theirs}.attn.c_proj.bias', f'{ours}/attn/out/bias', SAME),
      *norm(f'{theirs}.ln_2', f'{ours}/norm2'),
      Row(f'{theirs}.mlp.c_fc.weight', f'{ours}/mlp/fc1/kernel', SAME),
      Row(f'{theirs}.mlp.c_fc.bias', f'{ours}/mlp/fc1/bias', SAME),
      Row(f'{theirs}.mlp.c_proj.weight', f'{ours}/mlp/fc2/kernel', SAME),
      Row(f'{theirs}.mlp.c_proj.bias', f'{ours}/mlp/fc2/bias', SAME)]
  rows += norm('transformer.ln_f', 'norm')
  if module.head == 'untied':
    rows.append(Row('lm_head.weight', 'head/kernel', LINEAR))
  return rows


def _concat(parts, axis):
  """numpy's, or jax's where only shapes are wanted."""
  return parts[0].__array_namespace__().concat(parts, axis=axis)


FAMILY = Family(
  base='transformer.', module=_module, config=_config, rows=_rows, kind=GPT2, bare=('GPT2Model',),
  example=lambda config: np.zeros((1, 1), np.int32),
  twins=lambda config: _TIED if config.get('tie_word_embeddings', True) else {},
  ignored=(r'\.attn\.bias$', r'\.attn\.masked_bias$'))  # the causal mask of old files
