"""Whisper's published tensors.  https://huggingface.co/docs/transformers/model_doc/whisper."""
import numpy as np

from mtjax.encoders import Whisper
from mtjax.interop import _fields
from mtjax.interop.mapping import SAME, Family, Row, Transform, dense, heads_bias, heads_in, heads_out, norm

_CONV = Transform(lambda x: x.transpose(2, 1, 0), lambda x: x.transpose(2, 1, 0))  # (out, in, k) <-> [k, in, out]
_TIED = {'proj_out.weight': 'model.decoder.embed_tokens.weight'}


def _module(config, architecture, names) -> Whisper:
  _fields.only(config, scale_embedding=False, tie_word_embeddings=True)
  vocab_size, width, depth, decoder_depth, heads, decoder_heads, hidden, decoder_hidden = _fields.need(
    config, 'vocab_size', 'd_model', 'encoder_layers', 'decoder_layers', 'encoder_attention_heads',
    'decoder_attention_heads', 'encoder_ffn_dim', 'decoder_ffn_dim')
  return Whisper(
    vocab_size=vocab_size, width=width, depth=depth, decoder_depth=decoder_depth, heads=heads,
    decoder_heads=decoder_heads, hidden=hidden, decoder_hidden=decoder_hidden, mels=config.get('num_mel_bins', 80),
    frames=config.get('max_source_positions', 1500), max_length=config.get('max_target_positions', 448),
    activation=_fields.activation(config, 'activation_function', 'gelu'), pad_id=config.get('pad_token_id', 50256),
    start_id=config.get('decoder_start_token_id', 50257), dropout_rate=config.get('dropout', 0.0))


def _config(module: Whisper, params) -> dict:
  return {
    'architectures': ['WhisperForConditionalGeneration'], 'model_type': 'whisper', 'vocab_size': module.vocab_size,
    'd_model': module.width, 'encoder_layers': module.depth, 'decoder_layers': module.decoder_depth or module.depth,
    'encoder_attention_heads': module.heads, 'decoder_attention_heads': module.decoder_heads or module.heads,
    'encoder_ffn_dim': module.hidden or 4 * module.width,
    'decoder_ffn_dim': module.decoder_hidden or module.hidden or 4 * module.width, 'num_mel_bins': module.mels,
    'max_source_positions': module.frames, 'max_target_positions': module.max_length,
    'activation_function': _fields.THEIR_ACTIVATIONS[module.activation], 'pad_token_id': module.pad_id,
    'decoder_start_token_id': module.start_id, 'dropout': module.dropout_rate, 'attention_dropout': 0.0,
    'activation_dropout': 0.0, 'scale_embedding': False, 'is_encoder_decoder': True}


def _rows(module: Whisper) -> list[Row]:
  rows = [Row('model.decoder.embed_tokens.weight', 'decoder/embed/embedding', SAME)]
  for i in (1, 2):
    rows += [Row(f'model.encoder.conv{i}.weight', f'encoder/conv{i}/kernel', _CONV),
             Row(f'model.encoder.conv{i}.bias', f'encoder/conv{i}/bias', SAME)]
  stacks = {'encoder': (module.depth, module.heads),
            'decoder': (module.decoder_depth or module.depth, module.decoder_heads or module.heads)}
  for stack, (depth, heads) in stacks.items():
    rows.append(Row(f'model.{stack}.embed_positions.weight', f'{stack}/pos_embed', SAME))
    for i in range(depth):
      theirs, ours = f'model.{stack}.layers.{i}', f'{stack}/block_{i}'
      rows += norm(f'{theirs}.self_attn_layer_norm', f'{ours}/norm1')
      rows += _attention(f'{theirs}.self_attn', f'{ours}/attn', heads)
      if stack == 'decoder':
        rows += norm(f'{theirs}.encoder_attn_layer_norm', f'{ours}/cross_norm')
        rows += _attention(f'{theirs}.encoder_attn', f'{ours}/cross', heads)
      rows += norm(f'{theirs}.final_layer_norm', f'{ours}/norm2')
      rows += dense(f'{theirs}.fc1', f'{ours}/mlp/fc1') + dense(f'{theirs}.fc2', f'{ours}/mlp/fc2')
    rows += norm(f'model.{stack}.layer_norm', f'{stack}/norm')
  return rows


def _attention(theirs: str, ours: str, heads: int) -> list[Row]:
  """The rows of an attention whose key has no bias."""
  rows = [Row(f'{theirs}.k_proj.weight', f'{ours}/key/kernel', heads_in(heads)),
          Row(f'{theirs}.out_proj.weight', f'{ours}/out/kernel', heads_out(heads)),
          Row(f'{theirs}.out_proj.bias', f'{ours}/out/bias', SAME)]
  for part in ('query', 'value'):
    rows += [Row(f'{theirs}.{part[0]}_proj.weight', f'{ours}/{part}/kernel', heads_in(heads)),
             Row(f'{theirs}.{part[0]}_proj.bias', f'{ours}/{part}/bias', heads_bias(heads))]
  return rows


FAMILY = Family(
  base='model.', module=_module, config=_config, rows=_rows, kind=Whisper, bare=(),
  example=lambda config: (np.zeros((1, 2, config.get('num_mel_bins', 80)), np.float32), np.zeros((1, 1), np.int32)),
  twins=lambda config: _TIED)
