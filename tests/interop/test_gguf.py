"""GGUF: blocks worked by hand, a file against the checkpoint that it was made of, tokenizers, damage of all kinds."""
import struct

import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
from interop.gguf_files import BF16, F16, F32, Q4_0, Q4_1, Q8_0, gguf_bytes
from jax.sharding import NamedSharding, PartitionSpec

from mtjax import encoders, tree
from mtjax.interop import _gguf_file, gguf
from mtjax.parallel import make_mesh

HALF = np.float16
NIBBLES = bytes(i | (15 - i) << 4 for i in range(16))     # numbers 0, 1, … 15, then 15, 14, … 0
UP, DOWN = np.arange(16.0), np.arange(15.0, -1.0, -1.0)
# type -> (shape, the bytes, the numbers)
STORED = {
  F32: ((2,), np.array([1.5, -2], '<f4').tobytes(), [1.5, -2]),
  F16: ((2,), np.array([1.5, -2], '<f2').tobytes(), [1.5, -2]),
  BF16: ((2,), bytes([0xC0, 0x3F, 0x00, 0xC0]), [1.5, -2]),     # the upper halves of 3FC00000, C0000000
  Q4_0: ((32,), HALF(0.5).tobytes() + NIBBLES, [*(0.5 * (UP - 8)), *(0.5 * (DOWN - 8))]),
  Q4_1: ((32,), HALF(0.25).tobytes() + HALF(-1).tobytes() + NIBBLES, [*(UP / 4 - 1), *(DOWN / 4 - 1)]),
  Q8_0: ((32,), HALF(-2).tobytes() + bytes(range(240, 256)) + bytes(range(16)), [*(-2 * (UP - 16)), *(-2 * UP)]),
}
SMALL = encoders.Llama(vocab_size=6, width=8, depth=2, heads=2, kv_heads=1, head_dim=4, hidden=12, norm_eps=2.0**-10)
CONFIG = {
  'general.architecture': 'llama', 'llama.embedding_length': 8, 'llama.block_count': 2, 'llama.feed_forward_length': 12,
  'llama.attention.head_count': 2, 'llama.attention.head_count_kv': 1,
  'llama.attention.layer_norm_rms_epsilon': 2.0**-10}
TOKENIZER = {'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'smollm'}


def write(path, *args, **kwargs):
  path.write_bytes(gguf_bytes(*args, **kwargs))
  return path


def pairs(x, heads):
  """Rows of a query or key in the order of GGUF: of row i of each half, one behind the other."""
  x = x.reshape(heads, 2, -1, *x.shape[1:])
  return np.stack([x[h, half, i] for h in range(heads) for i in range(x.shape[2]) for half in (0, 1)])


@pytest.fixture(scope='module')
def model():
  """(our parameters, the tensors of a file): an untied Llama of two layers."""
  rng, tensors, params = np.random.default_rng(0), {}, {}

  def put(name, path, shape, ours, heads=None):
    x = rng.normal(size=shape).astype(np.float32)
    tensors[f'{name}.weight'] = x if heads is None else pairs(x, heads)
    params[path] = ours(x)

  put('token_embd', 'embed/embedding', (6, 8), lambda x: x)
  for i in range(2):
    put(f'blk.{i}.attn_norm', f'block_{i}/norm1/scale', (8,), lambda x: x)
    put(f'blk.{i}.attn_q', f'block_{i}/attn/query/kernel', (8, 8), lambda x: x.T.reshape(8, 2, 4), heads=2)
    put(f'blk.{i}.attn_k', f'block_{i}/attn/key/kernel', (4, 8), lambda x: x.T.reshape(8, 1, 4), heads=1)
    put(f'blk.{i}.attn_v', f'block_{i}/attn/value/kernel', (4, 8), lambda x: x.T.reshape(8, 1, 4))
    put(f'blk.{i}.attn_output', f'block_{i}/attn/out/kernel', (8, 8), lambda x: x.T.reshape(2, 4, 8))
    put(f'blk.{i}.ffn_norm', f'block_{i}/norm2/scale', (8,), lambda x: x)
    put(f'blk.{i}.ffn_gate', f'block_{i}/mlp/gate/kernel', (12, 8), lambda x: x.T)
    put(f'blk.{i}.ffn_up', f'block_{i}/mlp/fc1/kernel', (12, 8), lambda x: x.T)
    put(f'blk.{i}.ffn_down', f'block_{i}/mlp/fc2/kernel', (8, 12), lambda x: x.T)
  put('output_norm', 'norm/scale', (8,), lambda x: x)
  put('output', 'head/kernel', (6, 8), lambda x: x.T)
  return params, tensors


@pytest.mark.parametrize('version', [2, 3])
def test_metadata_of_all_types(version, tmp_path):
  nested = struct.pack('<IQ', 9, 2) + (struct.pack('<IQ', 4, 1) + struct.pack('<I', 5)) * 2
  metadata = {
    'u8': (0, b'\xff'), 'i8': (1, b'\xff'), 'u16': (2, b'\x01\x02'), 'i16': (3, b'\xff\xff'), 'u32': 7,
    'i32': (5, struct.pack('<i', -7)), 'f32': 0.5, 'bool': True, 'text': 'Ġ é', 'u64': (10, struct.pack('<Q', 2**63)),
    'i64': (11, struct.pack('<q', -2**40)), 'f64': (12, struct.pack('<d', 0.1)), 'texts': ['a', ''], 'nested': (9, nested)}
  got = gguf.scan(write(tmp_path / 'x.gguf', metadata | {'numbers': [1, 2]}, {}, version)).metadata
  np.testing.assert_array_equal(got.pop('numbers'), [1, 2])
  assert [list(x) for x in got.pop('nested')] == [[5], [5]]
  assert got == {'u8': 255, 'i8': -1, 'u16': 513, 'i16': -1, 'u32': 7, 'i32': -7, 'f32': 0.5, 'bool': True,
                 'text': 'Ġ é', 'u64': 2**63, 'i64': -2**40, 'f64': 0.1, 'texts': ['a', '']}


@pytest.mark.parametrize('alignment', [32, 8])
def test_numbers_of_all_types(alignment, tmp_path):
  stored = {f'type {kind}': (shape, kind, raw) for kind, (shape, raw, _) in STORED.items()}
  metadata = {} if alignment == 32 else {'general.alignment': alignment}
  contents = gguf.scan(write(tmp_path / 'x.gguf', metadata, stored, alignment=alignment))
  dtypes = {F16: np.float16, BF16: jnp.bfloat16}
  for kind, (_, _, numbers) in STORED.items():
    got = gguf.read(f'type {kind}', contents.tensors[f'type {kind}'])
    assert got.dtype == dtypes.get(kind, np.float32)
    np.testing.assert_array_equal(got.astype(np.float32), numbers)


def test_blocks_run_along_rows_and_are_read_by_and_by(tmp_path, monkeypatch):
  raw = b''.join(HALF(scale).tobytes() + bytes(range(32)) for scale in range(1, 13))
  tensor = gguf.scan(write(tmp_path / 'x.gguf', {}, {'x': ((3, 2, 64), Q8_0, raw)})).tensors['x']
  expected = np.arange(1.0, 13)[:, None] * np.arange(32.0)
  monkeypatch.setattr(_gguf_file, 'BLOCK', 2 * 128)
  assert [block.shape for _, block in _gguf_file.read_blocks('x', tensor)] == [(2, 2, 64), (1, 2, 64)]
  np.testing.assert_array_equal(gguf.read('x', tensor), expected.reshape(3, 2, 64))


@pytest.mark.parametrize('head', ['tied', 'untied'])
def test_a_file_is_the_checkpoint_that_it_was_made_of(head, model, tmp_path):
  params, tensors = ({key: x for key, x in part.items() if head == 'untied' or key not in ('head/kernel', 'output.weight')}
                     for part in model)
  module, got = gguf.load(write(tmp_path / 'x.gguf', CONFIG | {'llama.rope.freq_base': 500.0}, tensors))
  assert module == SMALL.clone(head=head, rope_theta=500.0)
  got = tree.flatten(got)
  assert got.keys() == params.keys()
  for path, x in params.items():
    np.testing.assert_array_equal(got[path], x, err_msg=path)


def test_dtype_and_sharding(model, tmp_path):
  tensors = dict(model[1])
  tensors['blk.1.attn_q.weight'] = ((8, 8), F16, tensors['blk.1.attn_q.weight'].astype('<f2').tobytes())
  tensors['output.weight'] = ((6, 32), Q4_0, STORED[Q4_0][1] * 6)
  path = write(tmp_path / 'x.gguf', CONFIG, tensors)
  with pytest.raises(ValueError, match=r'output.weight is \[6, 32\], expected \[6, 8\]'):
    gguf.load(path)
  del tensors['output.weight']
  params = tree.flatten(gguf.load(write(path, CONFIG, tensors))[1])
  assert {path for path, x in params.items() if x.dtype == jnp.float16} == {'block_1/attn/query/kernel'}
  sharding = NamedSharding(make_mesh(), PartitionSpec())
  module, params = gguf.load(path, dtype=jnp.bfloat16, sharding=sharding)
  assert module.dtype == jnp.bfloat16
  assert all(x.dtype == jnp.bfloat16 and x.sharding == sharding for x in tree.flatten(params).values())


def test_linear_scaling_and_biases(model, tmp_path):
  tensors, rng = dict(model[1]), np.random.default_rng(1)
  biases = {f'blk.{i}.{part}.bias': rng.normal(size=size).astype(np.float32)
            for i in range(2) for part, size in (('attn_q', 8), ('attn_k', 4), ('attn_v', 4), ('attn_output', 8))}
  scaling = {'llama.rope.scaling.type': 'linear', 'llama.rope.scaling.factor': 4.0}
  module, params = gguf.load(write(tmp_path / 'x.gguf', CONFIG | scaling, tensors | biases))
  assert module.use_bias and not module.mlp_bias
  assert module.rope_scaling == {'rope_type': 'linear', 'factor': 4.0}
  bias = params['block_1']['attn']['query']['bias']
  np.testing.assert_array_equal(pairs(np.asarray(bias).reshape(8), 2), biases['blk.1.attn_q.bias'])


@pytest.mark.parametrize('change, message', [
  ({'general.architecture': 'gpt2'}, "general.architecture='gpt2'; allowed is 'llama'"),
  ({'llama.block_count': None}, 'lacks llama.block_count'),
  ({'llama.embedding_length': 'eight'}, "llama.embedding_length='eight'; allowed is one integer >= 1"),
  ({'llama.attention.head_count': [2, 2]}, r'llama.attention.head_count=array\(\[2, 2\].*allowed is one integer'),
  ({'llama.rope.freq_base': -1.0}, 'llama.rope.freq_base=-1.0; allowed is a finite number > 0'),
  ({'llama.attention.key_length': 3}, 'heads of 3 numbers; allowed is an even number'),
  ({'llama.expert_count': 8}, 'llama.expert_count=8; implemented is 0'),
  ({'llama.rope.dimension_count': 2}, 'llama.rope.dimension_count=2; implemented is 4'),
  ({'llama.rope.scaling.type': 'yarn'}, "llama.rope.scaling.type='yarn'; allowed are 'none', 'linear'"),
  ({'split.count': 3}, 'one of 3 parts of a model'),
  ({'general.alignment': 0}, 'general.alignment=0; allowed is an integer >= 1'),
  ({'rope_freqs.weight': np.ones(2)}, 'rope_freqs.weight.*not implemented'),
  ({'token_embd.weight': None}, 'lacks the matrix token_embd.weight'),
  ({'blk.0.ffn_up.weight': None, 'blk.1.extra.weight': np.ones(2)},
   r'x.gguf are not those.*1 missing: blk.0.ffn_up.weight. 1 unknown: blk.1.extra.weight.'),
  ({'blk.0.attn_v.weight': ((4, 256), 12, bytes(4 * 144))},
   'blk.0.attn_v.weight as Q4_K; allowed are F32, F16, BF16, Q4_0, Q4_1, Q8_0'),
  ({'blk.0.attn_v.weight': ((4, 8), 77, b'')}, 'blk.0.attn_v.weight as type 77; allowed'),
  ({'blk.0.attn_v.weight': ((4, 8), Q8_0, b'')}, r'blk.0.attn_v.weight: of shape \[4, 8\], its rows are no whole blocks'),
  ({'blk.0.attn_v.weight': ((1, 1, 1, 1, 4), F32, bytes(16))}, 'it has 5 axes; allowed are up to 4'),
])
def test_what_is_not_implemented_or_wrong_is_named(change, message, model, tmp_path):
  weights = {name: x for name, x in change.items() if name.endswith('.weight')}
  metadata, tensors = ({name: x for name, x in (old | new).items() if x is not None} for old, new in (
    (CONFIG, {name: x for name, x in change.items() if name not in weights}), (model[1], weights)))
  with pytest.raises(ValueError, match=message):
    gguf.load(write(tmp_path / 'x.gguf', metadata, tensors))


@pytest.mark.parametrize('data, message', [
  (b'', r"no GGUF file: it begins with b''"),
  (b'PK\x03\x04 and so on', "no GGUF file: it begins with b'PK"),
  (b'GGUF' + struct.pack('<I', 1), 'of version 1; allowed are the versions 2 and 3'),
  (b'GGUF' + struct.pack('>I', 3), 'big-endian; allowed'),
  (gguf_bytes({'a': (13, b'')}, {}), 'damaged at a: a value of type 13'),
  (gguf_bytes({'a': (8, struct.pack('<Q', 1) + b'\xff')}, {}), 'damaged at a: a string is not UTF-8'),
  (gguf_bytes({'a': (9, struct.pack('<IQ', 9, 1) * 9)}, {}), 'damaged at a: .* at depth 4'),
  (gguf_bytes({'a': (9, struct.pack('<IQ', 4, 2**60))}, {}), 'cut off at a: 4611686018427387904 bytes are due'),
  (gguf_bytes({}, {'a': np.ones(2), 'b': np.ones(2)}).replace(b'\0b', b'\0a').replace(
    struct.pack('<Q', 1) + b'b', struct.pack('<Q', 1) + b'a'), "holds the tensor 'a' twice"),
  (gguf_bytes({'a': 1, 'b': 2}, {}).replace(b'b', b'a'), "metadata 'a' twice"),
])
def test_damaged_files(data, message, tmp_path):
  (tmp_path / 'x.gguf').write_bytes(data)
  with pytest.raises(ValueError, match=f'x.gguf.*{message}'):
    gguf.scan(tmp_path / 'x.gguf')


def test_wherever_a_file_is_cut_off_it_says_so(tmp_path):
  data = gguf_bytes({'n': 1, 'texts': ['a', 'b'], 'numbers': [1.0, 2.0]}, {'a': np.ones(3), 'b': np.ones((2, 2))})
  path = tmp_path / 'x.gguf'
  for length in range(len(data)):
    path.write_bytes(data[:length])
    with pytest.raises(ValueError, match='x.gguf'):
      gguf.scan(path)


def test_a_changed_byte_is_read_or_refused(tmp_path):
  data, rng = gguf_bytes(CONFIG | {'texts': ['a', 'b']}, {'a': np.ones(3)}), np.random.default_rng(0)
  refused = 0
  for at, new in zip(rng.integers(0, len(data), 300), rng.integers(0, 256, 300)):
    (tmp_path / 'x.gguf').write_bytes(data[:at] + bytes([new]) + data[at + 1:])
    try:
      gguf.scan(tmp_path / 'x.gguf')
    except ValueError:
      refused += 1
  assert refused > 50     # lengths and types are in many places


def vocabulary(*merges, marks=()):
  """Metadata of a byte-level BPE: all bytes, what the merges make, marks."""
  tokens = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()) + [merge.replace(' ', '') for merge in merges] + [*marks]
  return TOKENIZER | {
    'tokenizer.ggml.tokens': tokens, 'tokenizer.ggml.merges': [*merges],
    'tokenizer.ggml.token_type': [3 if token in marks else 1 for token in tokens]}


@pytest.mark.parametrize('rule, pieces', [
  ('gpt-2', ['a', '123', 'Ġ1', '23', '4', '!', 'Ġa']), ('smollm', ['a', '1', '2', '3', 'Ġ', '1', '2', '3', '4', '!', 'Ġa']),
  ('llama-bpe', ['a', '123', 'Ġ', '123', '4', '!', 'Ġa'])])
def test_rules_by_which_texts_are_cut(rule, pieces, tmp_path):
  metadata = vocabulary('Ġ 1', '2 3', '1 23', 'Ġ a') | {
    'tokenizer.ggml.pre': rule, 'tokenizer.ggml.add_bos_token': False}
  names = metadata['tokenizer.ggml.tokens']
  tokenizer = gguf.tokenizer(write(tmp_path / 'x.gguf', metadata, {}))
  tokens, mask = tokenizer(['a123 1234! a'])
  assert [names[i] for i in tokens[0]] == pieces
  assert tokenizer.decode(tokens, mask) == ['a123 1234! a']
  assert tokenizer.vocab_size == len(names)


def test_marks_and_padding(tmp_path):
  metadata = vocabulary('a b', marks=('<s>', '</s>', '<pad>')) | {
    'tokenizer.ggml.bos_token_id': 257, 'tokenizer.ggml.eos_token_id': 258, 'tokenizer.ggml.padding_token_id': 259,
    'tokenizer.ggml.add_bos_token': True, 'tokenizer.ggml.add_eos_token': True}
  tokenizer = gguf.tokenizer(write(tmp_path / 'x.gguf', metadata, {}))
  names = metadata['tokenizer.ggml.tokens']
  tokens, mask = tokenizer(['ab</s>b', 'é'])
  assert [[names[i] for i in row] for row in tokens] == [
    ['<s>', 'ab', '</s>', 'b', '</s>'], ['<s>', 'Ã', '©', '</s>', '<pad>']]
  assert mask.sum() == 9 and tokenizer.pad_id == 259
  assert tokenizer.decode(tokens) == ['abb', 'é']
  plain, _ = tokenizer(['ab'], special=False)
  assert [names[i] for i in plain[0]] == ['ab']


@pytest.mark.parametrize('change, message', [
  ({'tokenizer.ggml.model': 'llama'}, "tokenizer.ggml.model='llama'; allowed is 'gpt2'"),
  ({'tokenizer.ggml.model': None}, 'tokenizer.ggml.model=None'),
  ({'tokenizer.ggml.merges': None}, 'lacks tokenizer.ggml.merges'),
  ({'tokenizer.ggml.pre': 'smolm'}, "tokenizer.ggml.pre='smolm'. Did you mean 'smollm'"),
  ({'tokenizer.ggml.merges': ['a b', 'a c']}, r"1 merges are no pairs of tokens that make a token, e.g. \('a', 'c'\)"),
  ({'tokenizer.ggml.tokens': ['a', 'a']}, '2 tokens, 1 of them different'),
  ({'tokenizer.ggml.add_bos_token': True, 'tokenizer.ggml.bos_token_id': 999}, 'bos_token_id=999; allowed is 0 <= id < 257'),
])
def test_what_a_tokenizer_lacks_is_named(change, message, tmp_path):
  metadata = {key: x for key, x in (vocabulary('a b') | change).items() if x is not None}
  with pytest.raises(ValueError, match=f'x.gguf.*{message}'):
    gguf.tokenizer(write(tmp_path / 'x.gguf', metadata, {}))
