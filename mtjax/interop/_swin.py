"""Swin's published tensors.  https://huggingface.co/docs/transformers/model_doc/swin."""
import numpy as np

from mtjax.encoders import Swin
from mtjax.interop import _fields
from mtjax.interop.mapping import CONV, LINEAR, SAME, Family, Row, attention, dense, heads_bias, norm


def _module(config, architecture, names) -> Swin:
  _fields.only(config, hidden_act='gelu', use_absolute_embeddings=False)
  patch, width, depths, heads, window = _fields.need(
    config, 'patch_size', 'embed_dim', 'depths', 'num_heads', 'window_size')
  return Swin(patch=patch, width=width, depths=tuple(depths), heads=tuple(heads), window=window,
              mlp_ratio=config.get('mlp_ratio', 4.0), qkv_bias=config.get('qkv_bias', True),
              eps=config.get('layer_norm_eps', 1e-5), dropout_rate=config.get('hidden_dropout_prob', 0.0),
              classes=_fields.classes(config) if architecture == 'SwinForImageClassification' else None)


def _config(module: Swin, params) -> dict:
  config = {
    'architectures': ['SwinModel' if module.classes is None else 'SwinForImageClassification'], 'model_type': 'swin',
    # Nothing in the parameters depends on the size of the images; the published models were trained at 32 windows.
    'image_size': module.patch * module.window * 8, 'patch_size': module.patch,
    'num_channels': params['embed/kernel'].shape[2], 'embed_dim': module.width, 'depths': list(module.depths),
    'num_heads': list(module.heads), 'window_size': module.window, 'mlp_ratio': module.mlp_ratio,
    'qkv_bias': module.qkv_bias, 'hidden_act': 'gelu', 'layer_norm_eps': module.eps, 'use_absolute_embeddings': False,
    'hidden_dropout_prob': module.dropout_rate, 'attention_probs_dropout_prob': 0.0, 'drop_path_rate': 0.0,
    'hidden_size': module.width * 2**(len(module.depths) - 1)}
  return config if module.classes is None else config | _fields.labels(module.classes)


def _rows(module: Swin) -> list[Row]:
  rows = [Row('swin.embeddings.patch_embeddings.projection.weight', 'embed/kernel', CONV),
          Row('swin.embeddings.patch_embeddings.projection.bias', 'embed/bias', SAME),
          *norm('swin.embeddings.norm', 'embed_norm')]
  for s, (depth, heads) in enumerate(zip(module.depths, module.heads)):
    for j in range(depth):
      theirs, ours = f'swin.encoder.layers.{s}.blocks.{j}', f'stage_{s}/block_{j}'
      parts = {part: f'{theirs}.attention.self.{part}' for part in ('query', 'key', 'value')}
      rows += norm(f'{theirs}.layernorm_before', f'{ours}/norm1')
      rows += attention({**parts, 'out': f'{theirs}.attention.output.dense'}, f'{ours}/attn', heads, bias=False)
      rows.append(Row(f'{theirs}.attention.output.dense.bias', f'{ours}/attn/out/bias', SAME))
      if module.qkv_bias:
        rows += [Row(f'{name}.bias', f'{ours}/attn/{part}/bias', heads_bias(heads)) for part, name in parts.items()]
      rows.append(Row(f'{theirs}.attention.self.relative_position_bias_table', f'{ours}/attn/bias_table', SAME))
      rows += norm(f'{theirs}.layernorm_after', f'{ours}/norm2')
      rows += dense(f'{theirs}.intermediate.dense', f'{ours}/mlp/fc1')
      rows += dense(f'{theirs}.output.dense', f'{ours}/mlp/fc2')
    if s + 1 < len(module.depths):
      theirs, ours = f'swin.encoder.layers.{s}.downsample', f'stage_{s}/merge'
      rows += [*norm(f'{theirs}.norm', f'{ours}/norm'),
               Row(f'{theirs}.reduction.weight', f'{ours}/reduction/kernel', LINEAR)]
  rows += norm('swin.layernorm', 'norm')
  return rows + (dense('classifier', 'classifier') if module.classes is not None else [])


def _example(config) -> np.ndarray:
  return np.zeros((1, config['patch_size'], config['patch_size'], config.get('num_channels', 3)), np.float32)


FAMILY = Family(
  base='swin.', module=_module, config=_config, rows=_rows, example=_example, kind=Swin, bare=('SwinModel',),
  ignored=(r'relative_position_index$',))  # which entry of the table is whose, in old files
