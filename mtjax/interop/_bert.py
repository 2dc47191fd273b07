"""BERT's published tensors.  https://huggingface.co/docs/transformers/model_doc/bert."""
import numpy as np

from mtjax.encoders import BERT
from mtjax.interop import _fields
from mtjax.interop.mapping import SAME, Family, Row, attention, dense, norm

_HEADS = {'BertModel': None, 'BertForMaskedLM': 'mlm', 'BertForSequenceClassification': 'classifier'}
_DECODER = {'cls.predictions.decoder.weight': 'bert.embeddings.word_embeddings.weight',
            'cls.predictions.decoder.bias': 'cls.predictions.bias'}


def _module(config, architecture, names) -> BERT:
  _fields.only(config, position_embedding_type='absolute', is_decoder=False, add_cross_attention=False,
       tie_word_embeddings=True)
  vocab_size, width, depth, heads, hidden = _fields.need(
    config, 'vocab_size', 'hidden_size', 'num_hidden_layers', 'num_attention_heads', 'intermediate_size')
  # A model that was trained without the pooler is published without it; config.json does not say so.
  pool = 'pooler' if 'pooler.dense.weight' in names or architecture == 'BertForSequenceClassification' else 'cls'
  return BERT(vocab_size=vocab_size, width=width, depth=depth, heads=heads, hidden=hidden,
              max_length=config.get('max_position_embeddings', 512), types=config.get('type_vocab_size', 2), pool=pool,
              head=_HEADS[architecture], classes=_fields.classes(config) if _HEADS[architecture] == 'classifier' else 2,
              activation=_fields.activation(config, 'hidden_act', 'gelu'), norm_eps=config.get('layer_norm_eps', 1e-12),
              pad_id=config.get('pad_token_id', 0), dropout_rate=config.get('hidden_dropout_prob', 0.1))


def _config(module: BERT, params) -> dict:
  architecture = next(name for name, head in _HEADS.items() if head == module.head)
  config = {
    'architectures': [architecture], 'model_type': 'bert', 'vocab_size': module.vocab_size,
    'hidden_size': module.width, 'num_hidden_layers': module.depth, 'num_attention_heads': module.heads,
    'intermediate_size': module.hidden or 4 * module.width, 'max_position_embeddings': module.max_length,
    'type_vocab_size': module.types, 'hidden_act': _fields.THEIR_ACTIVATIONS[module.activation],
    'layer_norm_eps': module.norm_eps, 'pad_token_id': module.pad_id, 'hidden_dropout_prob': module.dropout_rate,
    'attention_probs_dropout_prob': 0.0, 'position_embedding_type': 'absolute'}
  return config | (_fields.labels(module.classes) if module.head == 'classifier' else {})


def _rows(module: BERT) -> list[Row]:
  rows = [Row('bert.embeddings.word_embeddings.weight', 'embed/embedding', SAME),
          Row('bert.embeddings.position_embeddings.weight', 'pos_embed', SAME),
          Row('bert.embeddings.token_type_embeddings.weight', 'type_embed', SAME),
          *norm('bert.embeddings.LayerNorm', 'embed_norm')]
  for i in range(module.depth):
    theirs, ours = f'bert.encoder.layer.{i}', f'block_{i}'
    parts = {part: f'{theirs}.attention.self.{part}' for part in ('query', 'key', 'value')}
    rows += attention({**parts, 'out': f'{theirs}.attention.output.dense'}, f'{ours}/attn', module.heads)
    rows += norm(f'{theirs}.attention.output.LayerNorm', f'{ours}/norm1')
    rows += dense(f'{theirs}.intermediate.dense', f'{ours}/mlp/fc1')
    rows += dense(f'{theirs}.output.dense', f'{ours}/mlp/fc2')
    rows += norm(f'{theirs}.output.LayerNorm', f'{ours}/norm2')
  if module.pool == 'pooler':
    rows += dense('bert.pooler.dense', 'pooler')
  if module.head == 'mlm':
    rows += dense('cls.predictions.transform.dense', 'mlm/dense')
    rows += norm('cls.predictions.transform.LayerNorm', 'mlm/norm')
    rows.append(Row('cls.predictions.bias', 'mlm/bias', SAME))
  if module.head == 'classifier':
    rows += dense('classifier', 'classifier')
  return rows


FAMILY = Family(
  base='bert.', module=_module, config=_config, rows=_rows, kind=BERT, bare=('BertModel',),
  example=lambda config: np.zeros((1, 1), np.int32),
  renames=((r'LayerNorm\.gamma$', 'LayerNorm.weight'), (r'LayerNorm\.beta$', 'LayerNorm.bias')),
  twins=lambda config: _DECODER,
  # position_ids counts from 0; the head that tells whether a sentence follows another has no counterpart.
  ignored=(r'embeddings\.position_ids$', r'^cls\.seq_relationship\.'))
