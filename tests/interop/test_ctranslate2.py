"""CTranslate2: files written here, read back; Whisper by Hugging Face's names; damage of all kinds."""
import struct

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from mtjax import encoders, tree
from mtjax.interop import _safetensors, ctranslate2, hf

KINDS = {np.dtype(dtype): kind for dtype, kind in (
  (np.float32, 0), (np.int8, 1), (np.int16, 2), (np.int32, 3), (np.float16, 4), (ml_dtypes.bfloat16, 5))}
SMALL = encoders.Whisper(vocab_size=7, width=8, depth=2, decoder_depth=1, heads=2, decoder_heads=4, hidden=12,
                         decoder_hidden=10, mels=3, frames=5, max_length=6, pad_id=50256, start_id=50257)
SETTINGS = {'decoder/activation': np.int8(3), 'decoder/alibi': np.int8(0), 'decoder/alignment_layer': np.int16(-1),
            'decoder/num_heads': np.int16(4), 'decoder/pre_norm': np.int8(1), 'decoder/scale_embeddings': np.int8(0),
            'decoder/start_from_zero_embedding': np.int8(0), 'encoder/num_heads': np.int16(2)}
OUTPUT = {'decoder/projection/weight': 'decoder/embeddings/weight'}


def text(name):
  return struct.pack('<H', len(name) + 1) + name.encode() + b'\0'


def ct2_bytes(arrays, aliases=OUTPUT, spec='WhisperSpec', version=6):
  data = struct.pack('<I', version) + text(spec) + struct.pack('<II', 3, len(arrays))
  for name, x in arrays.items():
    x = np.asarray(x)
    data += text(name) + struct.pack(f'<B{x.ndim}I', x.ndim, *x.shape) + struct.pack('<BI', KINDS[x.dtype], x.nbytes)
    data += x.tobytes()
  return data + struct.pack('<I', len(aliases)) + b''.join(text(a) + text(b) for a, b in aliases.items())


def write(folder, *args, **kwargs):
  (folder / 'model.bin').write_bytes(ct2_bytes(*args, **kwargs))
  return folder / 'model.bin'


@pytest.fixture(scope='module')
def whisper():
  """(Hugging Face's tensors, the variables of a file): a Whisper of 2 + 1 layers, in half precision."""
  rng, theirs = np.random.default_rng(0), {}

  def new(name, *shape):
    theirs[f'model.{name}'] = rng.normal(size=shape).astype(np.float16)
    return theirs[f'model.{name}']

  variables = dict(SETTINGS)

  def linear(own, out, inner, *names):
    """Several of their layers behind one another; what has no bias there has a zero one here."""
    variables[f'{own}/weight'] = np.concatenate([new(f'{name}.weight', out, inner) for name in names])
    variables[f'{own}/bias'] = np.concatenate([
      np.zeros(out, np.float16) if name.endswith('k_proj') else new(f'{name}.bias', out) for name in names])

  def norm(own, name):
    variables[f'{own}/gamma'], variables[f'{own}/beta'] = new(f'{name}.weight', 8), new(f'{name}.bias', 8)

  for side, depth, hidden, length in (('encoder', 2, 12, 5), ('decoder', 1, 10, 6)):
    variables[f'{side}/position_encodings/encodings'] = new(f'{side}.embed_positions.weight', length, 8)
    norm(f'{side}/layer_norm', f'{side}.layer_norm')
    for i in range(depth):
      own, name = f'{side}/layer_{i}', f'{side}.layers.{i}'
      norm(f'{own}/self_attention/layer_norm', f'{name}.self_attn_layer_norm')
      linear(f'{own}/self_attention/linear_0', 8, 8, *(f'{name}.self_attn.{part}_proj' for part in 'qkv'))
      linear(f'{own}/self_attention/linear_1', 8, 8, f'{name}.self_attn.out_proj')
      if side == 'decoder':
        norm(f'{own}/attention/layer_norm', f'{name}.encoder_attn_layer_norm')
        linear(f'{own}/attention/linear_0', 8, 8, f'{name}.encoder_attn.q_proj')
        linear(f'{own}/attention/linear_1', 8, 8, f'{name}.encoder_attn.k_proj', f'{name}.encoder_attn.v_proj')
        linear(f'{own}/attention/linear_2', 8, 8, f'{name}.encoder_attn.out_proj')
      norm(f'{own}/ffn/layer_norm', f'{name}.final_layer_norm')
      linear(f'{own}/ffn/linear_0', hidden, 8, f'{name}.fc1')
      linear(f'{own}/ffn/linear_1', 8, hidden, f'{name}.fc2')
  for conv, channels in (('conv1', 3), ('conv2', 8)):
    variables[f'encoder/{conv}/weight'] = new(f'encoder.{conv}.weight', 8, channels, 3)
    variables[f'encoder/{conv}/bias'] = new(f'encoder.{conv}.bias', 8)
  variables['decoder/embeddings/weight'] = new('decoder.embed_tokens.weight', 7, 8)
  return theirs, variables


def test_arrays_of_all_types_and_aliases(tmp_path):
  arrays = {f'array of {dtype}': np.array([[1, -2], [3, 100]]).astype(dtype) for dtype in KINDS}
  arrays['scalar'] = np.int16(-7)
  got = ctranslate2.read(write(tmp_path, arrays, {'other': 'scalar'}, spec='TransformerSpec'))
  assert got.keys() == {*arrays, 'other'} and got['other'] is got['scalar']
  for name, x in arrays.items():
    assert got[name].dtype == x.dtype
    np.testing.assert_array_equal(got[name], x)


def test_whisper_has_the_tensors_of_hugging_face(whisper, tmp_path):
  theirs, variables = whisper
  path = write(tmp_path, variables)
  config, entries = ctranslate2.whisper(path)
  assert entries.keys() == theirs.keys()
  for name, x in theirs.items():
    np.testing.assert_array_equal(_safetensors.read(name, entries[name]), x, err_msg=name)
  assert config['decoder_start_token_id'] == 50257 and config['eos_token_id'] == 50256
  assert ctranslate2.whisper(tmp_path)[0] == config     # of the directory


def test_whisper_is_loaded_as_hugging_faces_checkpoint_is(whisper, tmp_path):
  import safetensors.numpy

  path = write(tmp_path, whisper[1])
  module, params = ctranslate2.load(path)
  assert module == SMALL
  hf.save(module, params, tmp_path)
  saved = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  assert saved.keys() == whisper[0].keys()
  for name, x in whisper[0].items():
    np.testing.assert_array_equal(saved[name], x, err_msg=name)
  module, params = ctranslate2.load(path, dtype=jnp.bfloat16)
  assert module.dtype == jnp.bfloat16 and {x.dtype for x in tree.flatten(params).values()} == {jnp.dtype('bfloat16')}


LINEAR = 'decoder/layer_0/attention/linear_1'


@pytest.mark.parametrize('change, message', [
  ({'decoder/alibi': np.int8(1)}, 'decoder/alibi=1; implemented is 0'),
  ({'decoder/activation': np.int8(9)}, r'decoder/activation=9; allowed are 0 \(relu\)'),
  ({f'{LINEAR}/weight_scale': np.ones(16, np.float32)}, rf'quantised to integers \(1 variables, e.g. {LINEAR}/weight_s'),
  ({f'{LINEAR}/bias': np.ones(16, np.float16)}, f'bias of keys in {LINEAR}/bias that is not zero'),
  ({f'{LINEAR}/weight': np.ones((15, 8), np.float16)}, rf'{LINEAR}/weight of shape \[15, 8\]; allowed is a multiple of 2'),
  ({f'{LINEAR}/weight': None, 'decoder/extra': np.int8(1)}, f'missing: {LINEAR}/weight. unknown: decoder/extra.'),
  ({'encoder/num_heads': None}, 'missing: encoder/num_heads'),
  ({'encoder/conv1/weight': np.ones((8, 9), np.float16)}, r'encoder/conv1/weight of shape \[8, 9\]; allowed are 3 axes'),
])
def test_what_is_no_whisper_is_named(change, message, whisper, tmp_path):
  variables = {name: x for name, x in (whisper[1] | change).items() if x is not None}
  with pytest.raises(ValueError, match=f'model.bin.*{message}'):
    ctranslate2.whisper(write(tmp_path, variables))


def test_other_models_and_output_layers_are_refused(whisper, tmp_path):
  with pytest.raises(ValueError, match="a model of 'TransformerSpec'; allowed is 'WhisperSpec'"):
    ctranslate2.whisper(write(tmp_path, whisper[1], spec='TransformerSpec'))
  own = whisper[1] | {'decoder/projection/weight': whisper[1]['decoder/embeddings/weight']}
  with pytest.raises(ValueError, match='an output layer of its own'):
    ctranslate2.whisper(write(tmp_path, own, {}))


@pytest.mark.parametrize('data, message', [
  (ct2_bytes({}, version=5), 'it begins with 5; allowed is 6'),
  (ct2_bytes({'a': np.int8(1)}, {}).replace(struct.pack('<BI', 1, 1), struct.pack('<BI', 9, 1)),
   r'a as type 9; allowed are 0 \(F32\), 1 \(I8\)'),
  (ct2_bytes({'a': np.int8(1)}, {}).replace(struct.pack('<BI', 1, 1), struct.pack('<BI', 2, 1)),
   r'damaged at a: I16 of shape \[\] takes 2 bytes, it has 1'),
  (ct2_bytes({'a': np.int8(1), 'b': np.int8(1)}, {}).replace(text('b'), text('a')), 'it holds a twice'),
  (ct2_bytes({'a': np.int8(1)}, {'b': 'c'}), 'b is another name of c, which it does not hold'),
])
def test_damaged_files(data, message, tmp_path):
  (tmp_path / 'model.bin').write_bytes(data)
  with pytest.raises(ValueError, match=f'model.bin.*{message}'):
    ctranslate2.scan(tmp_path / 'model.bin')


def test_wherever_a_file_is_cut_off_it_says_so(tmp_path):
  data = ct2_bytes({'a': np.ones((2, 2), np.float16), 'b': np.int8(1)}, {'c': 'a'})
  for length in range(len(data)):
    (tmp_path / 'model.bin').write_bytes(data[:length])
    with pytest.raises(ValueError, match='model.bin'):
      ctranslate2.scan(tmp_path / 'model.bin')
