"""The published tensors of Llama, Mistral and SmolLM.  https://huggingface.co/docs/transformers/model_doc/llama."""
import numpy as np

from mtjax.encoders import Llama
from mtjax.interop import _fields
from mtjax.interop.mapping import LINEAR, SAME, Family, Row, attention, dense, norm

_TIED = {'lm_head.weight': 'model.embed_tokens.weight'}


def _module(config, architecture, names) -> Llama:
  _fields.only(config, rope_interleaved=False, partial_rotary_factor=1.0)
  vocab_size, width, depth, heads, hidden = _fields.need(
    config, 'vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size')
  rope = config.get('rope_parameters') or config.get('rope_scaling') or {}
  _fields.only(rope, partial_rotary_factor=1.0)
  scaling = {name: value for name, value in rope.items() if name not in ('rope_theta', 'partial_rotary_factor')}
  mistral = architecture.startswith('Mistral')
  head = None if architecture.endswith('Model') else 'tied' if config.get('tie_word_embeddings', False) else 'untied'
  return Llama(
    vocab_size=vocab_size, width=width, depth=depth, heads=heads, kv_heads=config.get('num_key_value_heads'),
    head_dim=config.get('head_dim'), hidden=hidden, head=head,
    rope_theta=rope.get('rope_theta', config.get('rope_theta', 10000.0)), rope_scaling=scaling or None,
    window=config.get('sliding_window', 4096) if mistral else None, use_bias=config.get('attention_bias', False),
    mlp_bias=config.get('mlp_bias', False), activation=_fields.activation(config, 'hidden_act', 'silu'),
    norm_eps=config.get('rms_norm_eps', 1e-6))


def _config(module: Llama, params) -> dict:
  name = 'Llama' if module.window is None else 'Mistral'
  if name == 'Mistral' and (module.use_bias or module.mlp_bias):
    raise ValueError('Llama has a window and biases, which no published layout has; allowed is one or the other.')
  config = {
    'architectures': [f'{name}Model' if module.head is None else f'{name}ForCausalLM'], 'model_type': name.lower(),
    'vocab_size': module.vocab_size, 'hidden_size': module.width, 'num_hidden_layers': module.depth,
    'num_attention_heads': module.heads, 'num_key_value_heads': module.kv_heads or module.heads,
    'head_dim': module.head_dim or module.width // module.heads,
    'intermediate_size': module.hidden or 4 * module.width, 'tie_word_embeddings': module.head == 'tied',
    'rope_theta': module.rope_theta, 'rope_scaling': dict(module.rope_scaling) if module.rope_scaling else None,
    'hidden_act': _fields.THEIR_ACTIVATIONS[module.activation], 'rms_norm_eps': module.norm_eps,
    'pad_token_id': module.pad_id}
  if name == 'Mistral':
    return config | {'sliding_window': module.window}
  return config | {'attention_bias': module.use_bias, 'mlp_bias': module.mlp_bias}


def _rows(module: Llama) -> list[Row]:
  rows = [Row('model.embed_tokens.weight', 'embed/embedding', SAME)]
  for i in range(module.depth):
    theirs, ours = f'model.layers.{i}', f'block_{i}'
    parts = {part: f'{theirs}.self_attn.{part[0]}_proj' for part in ('query', 'key', 'value', 'out')}
    rows += norm(f'{theirs}.input_layernorm', f'{ours}/norm1', bias=False)
    rows += attention(parts, f'{ours}/attn', module.heads, module.kv_heads, module.use_bias)
    rows += norm(f'{theirs}.post_attention_layernorm', f'{ours}/norm2', bias=False)
    for their, our in (('gate_proj', 'gate'), ('up_proj', 'fc1'), ('down_proj', 'fc2')):
      rows += dense(f'{theirs}.mlp.{their}', f'{ours}/mlp/{our}', module.mlp_bias)
  rows += norm('model.norm', 'norm', bias=False)
  if module.head == 'untied':
    rows.append(Row('lm_head.weight', 'head/kernel', LINEAR))
  return rows


FAMILY = Family(
  base='model.', module=_module, config=_config, rows=_rows, kind=Llama, bare=('LlamaModel', 'MistralModel'),
  example=lambda config: np.zeros((1, 1), np.int32),
  twins=lambda config: _TIED if config.get('tie_word_embeddings', False) else {},
  ignored=(r'rotary_emb\.inv_freq$',))
