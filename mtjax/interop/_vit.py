"""ViT's published tensors.  https://huggingface.co/docs/transformers/model_doc/vit."""
import numpy as np

from mtjax.encoders import ViT
from mtjax.interop import _fields
from mtjax.interop.mapping import CONV, FIRST, FIRST_TWO, SAME, Family, Row, attention, dense, norm

_LAYER = r'^((?:vit\.)?)layers\.(\d+)\.'


def _module(config, architecture, names) -> ViT:
  width, depth, heads, hidden, _, patch = _fields.need(
    config, 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size', 'image_size', 'patch_size')
  _fields.only(config, qkv_bias=True, pooler_act='tanh', pooler_output_size=width)
  if not isinstance(patch, int):
    raise ValueError(f'config.json has patch_size={patch!r}; implemented is one integer, the side of a square.')
  classes = _fields.classes(config) if architecture == 'ViTForImageClassification' else None
  return ViT(patch=patch, width=width, depth=depth, heads=heads, hidden=hidden,
             # A model may be published without its pooler; config.json does not say so.
             pool='pooler' if 'pooler.dense.weight' in names else 'cls', classes=classes,
             activation=_fields.activation(config, 'hidden_act', 'gelu'), norm_eps=config.get('layer_norm_eps', 1e-12),
             dropout_rate=config.get('hidden_dropout_prob', 0.0))


def _config(module: ViT, params) -> dict:
  side = round((params['pos_embed'].shape[0] - 1) ** 0.5)
  if side * side + 1 != params['pos_embed'].shape[0]:
    raise ValueError(f'ViT has {params["pos_embed"].shape[0]} positions; published are square images alone, n^2 + 1.')
  config = {
    'architectures': ['ViTModel' if module.classes is None else 'ViTForImageClassification'], 'model_type': 'vit',
    'hidden_size': module.width, 'num_hidden_layers': module.depth, 'num_attention_heads': module.heads,
    'intermediate_size': module.hidden or 4 * module.width, 'image_size': side * module.patch,
    'patch_size': module.patch, 'num_channels': params['embed/kernel'].shape[2],
    'hidden_act': _fields.THEIR_ACTIVATIONS[module.activation], 'layer_norm_eps': module.norm_eps, 'qkv_bias': True,
    'hidden_dropout_prob': module.dropout_rate, 'attention_probs_dropout_prob': 0.0}
  return config if module.classes is None else config | _fields.labels(module.classes)


def _rows(module: ViT) -> list[Row]:
  if module.pool == 'mean':
    raise ValueError("ViT has pool='mean', which has no published layout; allowed are 'cls' and 'pooler'.")
  rows = [Row('vit.embeddings.cls_token', 'cls', FIRST_TWO),
          Row('vit.embeddings.position_embeddings', 'pos_embed', FIRST),
          Row('vit.embeddings.patch_embeddings.projection.weight', 'embed/kernel', CONV),
          Row('vit.embeddings.patch_embeddings.projection.bias', 'embed/bias', SAME)]
  for i in range(module.depth):
    theirs, ours = f'vit.encoder.layer.{i}', f'block_{i}'
    parts = {part: f'{theirs}.attention.attention.{part}' for part in ('query', 'key', 'value')}
    rows += norm(f'{theirs}.layernorm_before', f'{ours}/norm1')
    rows += attention({**parts, 'out': f'{theirs}.attention.output.dense'}, f'{ours}/attn', module.heads)
    rows += norm(f'{theirs}.layernorm_after', f'{ours}/norm2')
    rows += dense(f'{theirs}.intermediate.dense', f'{ours}/mlp/fc1')
    rows += dense(f'{theirs}.output.dense', f'{ours}/mlp/fc2')
  rows += norm('vit.layernorm', 'norm')
  if module.pool == 'pooler':
    rows += dense('vit.pooler.dense', 'pooler')
  if module.classes is not None:
    rows += dense('classifier', 'classifier')
  return rows


def _example(config) -> np.ndarray:
  size = config['image_size']
  height, width = (size, size) if isinstance(size, int) else size
  return np.zeros((1, height, width, config.get('num_channels', 3)), np.float32)


FAMILY = Family(
  base='vit.', module=_module, config=_config, rows=_rows, example=_example, kind=ViT, bare=('ViTModel',),
  renames=(
    (_LAYER + r'attention\.([qkv])_proj\.', r'\1encoder.layer.\2.attention.attention.\3.'),
    (r'attention\.attention\.q\.', 'attention.attention.query.'),
    (r'attention\.attention\.k\.', 'attention.attention.key.'),
    (r'attention\.attention\.v\.', 'attention.attention.value.'),
    (_LAYER + r'attention\.o_proj\.', r'\1encoder.layer.\2.attention.output.dense.'),
    (_LAYER + r'mlp\.fc1\.', r'\1encoder.layer.\2.intermediate.dense.'),
    (_LAYER + r'mlp\.fc2\.', r'\1encoder.layer.\2.output.dense.'),
    (_LAYER, r'\1encoder.layer.\2.')))
