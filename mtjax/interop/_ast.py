"""AST's published tensors.  https://huggingface.co/docs/transformers/model_doc/audio-spectrogram-transformer."""
import numpy as np

from mtjax.encoders import AST
from mtjax.interop import _fields
from mtjax.interop.mapping import CONV, FIRST, FIRST_TWO, SAME, Family, Row, attention, dense, norm

_BASE = 'audio_spectrogram_transformer.'
_LAYER = r'^((?:audio_spectrogram_transformer\.)?)layers\.(\d+)\.'


def _module(config, architecture, names) -> AST:
  width, depth, heads, hidden, patch = _fields.need(
    config, 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size', 'patch_size')
  _fields.only(config, qkv_bias=True)
  stride = config.get('frequency_stride', 10), config.get('time_stride', 10)
  classes = _fields.classes(config) if architecture == 'ASTForAudioClassification' else None
  return AST(mels=config.get('num_mel_bins', 128), frames=config.get('max_length', 1024), patch=patch,
             stride=stride[0] if stride[0] == stride[1] else stride, width=width, depth=depth, heads=heads,
             hidden=hidden, classes=classes,
             activation=_fields.activation(config, 'hidden_act', 'gelu'), norm_eps=config.get('layer_norm_eps', 1e-12),
             dropout_rate=config.get('hidden_dropout_prob', 0.0))


def _config(module: AST, params) -> dict:
  stride = module.stride if isinstance(module.stride, tuple) else (module.stride, module.stride)
  config = {
    'architectures': ['ASTModel' if module.classes is None else 'ASTForAudioClassification'],
    'model_type': 'audio-spectrogram-transformer', 'hidden_size': module.width, 'num_hidden_layers': module.depth,
    'num_attention_heads': module.heads, 'intermediate_size': module.hidden or 4 * module.width,
    'patch_size': module.patch, 'frequency_stride': stride[0], 'time_stride': stride[1], 'num_mel_bins': module.mels,
    'max_length': module.frames, 'hidden_act': _fields.THEIR_ACTIVATIONS[module.activation],
    'layer_norm_eps': module.norm_eps, 'qkv_bias': True, 'hidden_dropout_prob': module.dropout_rate,
    'attention_probs_dropout_prob': 0.0}
  return config if module.classes is None else config | _fields.labels(module.classes)


def _rows(module: AST) -> list[Row]:
  rows = [Row(f'{_BASE}embeddings.cls_token', 'cls', FIRST_TWO),
          Row(f'{_BASE}embeddings.distillation_token', 'dist', FIRST_TWO),
          Row(f'{_BASE}embeddings.position_embeddings', 'pos_embed', FIRST),
          Row(f'{_BASE}embeddings.patch_embeddings.projection.weight', 'embed/kernel', CONV),
          Row(f'{_BASE}embeddings.patch_embeddings.projection.bias', 'embed/bias', SAME)]
  for i in range(module.depth):
    theirs, ours = f'{_BASE}encoder.layer.{i}', f'block_{i}'
    parts = {part: f'{theirs}.attention.attention.{part}' for part in ('query', 'key', 'value')}
    rows += norm(f'{theirs}.layernorm_before', f'{ours}/norm1')
    rows += attention({**parts, 'out': f'{theirs}.attention.output.dense'}, f'{ours}/attn', module.heads)
    rows += norm(f'{theirs}.layernorm_after', f'{ours}/norm2')
    rows += dense(f'{theirs}.intermediate.dense', f'{ours}/mlp/fc1')
    rows += dense(f'{theirs}.output.dense', f'{ours}/mlp/fc2')
  rows += norm(f'{_BASE}layernorm', 'norm')
  if module.classes is not None:
    rows += norm('classifier.layernorm', 'classifier/norm') + dense('classifier.dense', 'classifier/dense')
  return rows


FAMILY = Family(
  base=_BASE, module=_module, config=_config, rows=_rows, kind=AST, bare=('ASTModel',),
  example=lambda config: np.zeros((1, config.get('max_length', 1024), config.get('num_mel_bins', 128)), np.float32),
  renames=(
    (_LAYER + r'attention\.([qkv])_proj\.', r'\1encoder.layer.\2.attention.attention.\3.'),
    (r'attention\.attention\.q\.', 'attention.attention.query.'),
    (r'attention\.attention\.k\.', 'attention.attention.key.'),
    (r'attention\.attention\.v\.', 'attention.attention.value.'),
    (_LAYER + r'attention\.o_proj\.', r'\1encoder.layer.\2.attention.output.dense.'),
    (_LAYER + r'mlp\.fc1\.', r'\1encoder.layer.\2.intermediate.dense.'),
    (_LAYER + r'mlp\.fc2\.', r'\1encoder.layer.\2.output.dense.'),
    (_LAYER, r'\1encoder.layer.\2.')))
