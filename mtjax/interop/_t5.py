"""T5's published tensors, v1.0 and v1.1.  https://huggingface.co/docs/transformers/model_doc/t5.

config.json says tie_word_embeddings=False for v1.1, which means two things: the head has weights of its own, and it
reads the tokens without the factor D^-0.5. Newer files say the latter by scale_decoder_outputs; what says so and holds
no lm_head.weight has a tied head without the factor.
"""
import numpy as np

from mtjax.encoders import T5
from mtjax.interop import _fields
from mtjax.interop.mapping import LINEAR, SAME, Family, Row, attention, dense, norm

_EMBED = {f'{stack}.embed_tokens.weight': 'shared.weight' for stack in ('encoder', 'decoder')}


def _scaled(config) -> bool:
  return config.get('scale_decoder_outputs', config.get('tie_word_embeddings', True))


def _module(config, architecture, names) -> T5:
  vocab_size, width, size, hidden, depth, heads = _fields.need(
    config, 'vocab_size', 'd_model', 'd_kv', 'd_ff', 'num_layers', 'num_heads')
  projection = config.get('feed_forward_proj', 'relu')
  gated, _, name = projection.rpartition('-')
  if gated not in ('', 'gated'):
    raise ValueError(f"config.json has feed_forward_proj={projection!r}; allowed is an activation, or "
                     f"'gated-' and one.")
  # By 'gated-gelu' the published models mean the tanh approximation.
  activation = _fields.activation({'feed_forward_proj': 'gelu_new' if projection == 'gated-gelu' else name},
                                  'feed_forward_proj', 'relu')
  head = None
  if architecture == 'T5ForConditionalGeneration':
    head = 'untied' if not _scaled(config) and 'lm_head.weight' in names else 'tied'
  decoder_depth = config.get('num_decoder_layers') or depth
  return T5(vocab_size=vocab_size, width=width, depth=depth, heads=heads, head_dim=size, hidden=hidden, head=head,
            decoder_depth=0 if architecture == 'T5EncoderModel' else decoder_depth,
            scale_head=None if head is None else _scaled(config), activation=activation, gated=bool(gated),
            buckets=config.get('relative_attention_num_buckets', 32),
            max_distance=config.get('relative_attention_max_distance', 128),
            norm_eps=config.get('layer_norm_epsilon', 1e-6), pad_id=config.get('pad_token_id', 0),
            start_id=config.get('decoder_start_token_id') or 0, dropout_rate=config.get('dropout_rate', 0.1))


def _config(module: T5, params) -> dict:
  encoder = module.decoder_depth == 0
  name = 'T5EncoderModel' if encoder else 'T5Model' if module.head is None else 'T5ForConditionalGeneration'
  scaled = module.head != 'untied' if module.scale_head is None else module.scale_head
  if module.head == 'untied' and scaled:
    raise ValueError("T5 has head='untied' and scale_head=True, which has no published layout; allowed is one or the "
                     "other.")
  activation = _fields.THEIR_ACTIVATIONS[module.activation]
  return {
    'architectures': [name], 'model_type': 't5', 'vocab_size': module.vocab_size, 'd_model': module.width,
    'd_kv': module.head_dim or module.width // module.heads, 'd_ff': module.hidden or 4 * module.width,
    'num_layers': module.depth, 'num_decoder_layers': module.decoder_depth or module.depth, 'num_heads': module.heads,
    'feed_forward_proj': 'gated-gelu' if module.gated and activation == 'gelu_new' else
    f'{"gated-" if module.gated else ""}{activation}',
    'relative_attention_num_buckets': module.buckets, 'relative_attention_max_distance': module.max_distance,
    'layer_norm_epsilon': module.norm_eps, 'pad_token_id': module.pad_id, 'decoder_start_token_id': module.start_id,
    'dropout_rate': module.dropout_rate, 'is_encoder_decoder': not encoder, 'tie_word_embeddings': scaled}


def _rows(module: T5) -> list[Row]:
  rows = [Row('shared.weight', 'embed/embedding', SAME)]
  depths = {'encoder': module.depth, 'decoder': module.depth if module.decoder_depth is None else module.decoder_depth}
  for stack, depth in depths.items():
    if depth == 0:
      continue
    first = f'{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight'
    rows.append(Row(first, f'{stack}/rel_bias', SAME))
    for i in range(depth):
      theirs, ours = f'{stack}.block.{i}.layer', f'{stack}/block_{i}'
      rows += norm(f'{theirs}.0.layer_norm', f'{ours}/norm1', bias=False)
      rows += attention(_parts(f'{theirs}.0.SelfAttention'), f'{ours}/attn', module.heads, bias=False)
      last = 1
      if stack == 'decoder':
        rows += norm(f'{theirs}.1.layer_norm', f'{ours}/cross_norm', bias=False)
        rows += attention(_parts(f'{theirs}.1.EncDecAttention'), f'{ours}/cross', module.heads, bias=False)
        last = 2
      rows += norm(f'{theirs}.{last}.layer_norm', f'{ours}/norm2', bias=False)
      layers = {'wi_0': 'gate', 'wi_1': 'fc1', 'wo': 'fc2'} if module.gated else {'wi': 'fc1', 'wo': 'fc2'}
      for their, our in layers.items():
        rows += dense(f'{theirs}.{last}.DenseReluDense.{their}', f'{ours}/mlp/{our}', bias=False)
    rows += norm(f'{stack}.final_layer_norm', f'{stack}/norm', bias=False)
  if module.head == 'untied':
    rows.append(Row('lm_head.weight', 'head/kernel', LINEAR))
  return rows


def _parts(layer: str) -> dict[str, str]:
  return {part: f'{layer}.{part[0]}' for part in ('query', 'key', 'value', 'out')}


def _example(config):
  tokens = np.zeros((1, 1), np.int32)
  return tokens if config['architectures'] == ['T5EncoderModel'] else (tokens, tokens)


FAMILY = Family(
  base='', module=_module, config=_config, rows=_rows, kind=T5, bare=(), example=_example,
  twins=lambda config: _EMBED | ({'lm_head.weight': 'shared.weight'} if _scaled(config) else {}),
  # Old files hold a table of positions for the cross attention, which no model ever read.
  ignored=(r'^decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight$',))
