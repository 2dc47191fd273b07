"""Checkpoints: written and read back, under every name that is in use, and refused with all that is wrong at once."""
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from jax.sharding import NamedSharding, PartitionSpec

from mtjax import encoders, tree
from mtjax.interop import _safetensors, hf
from mtjax.parallel import make_mesh

SMALL = dict(width=8, depth=2, heads=4, hidden=12)
TOKENS = np.ones((1, 3), np.int32)
IMAGES = np.ones((1, 4, 4, 3), np.float32)
SOUND = np.ones((1, 5, 3), np.float32)
T5 = dict(vocab_size=20, decoder_depth=3, head_dim=3, buckets=6, max_distance=9, **SMALL)
# module -> (an input, the architecture, some tensors of its file with their shapes, how many there are)
CASES = {
  'bert': (encoders.BERT(vocab_size=20, max_length=6, **SMALL), TOKENS, 'BertModel', {
    'embeddings.word_embeddings.weight': (20, 8), 'encoder.layer.1.attention.self.query.weight': (8, 8),
    'encoder.layer.0.attention.output.dense.weight': (8, 8), 'encoder.layer.0.intermediate.dense.weight': (12, 8),
    'pooler.dense.bias': (8,)}, 39),
  'bert_mlm': (encoders.BERT(vocab_size=20, head='mlm', pool='cls', **SMALL), TOKENS, 'BertForMaskedLM', {
    'bert.encoder.layer.1.output.LayerNorm.weight': (8,), 'cls.predictions.transform.dense.weight': (8, 8),
    'cls.predictions.bias': (20,)}, 42),
  'bert_classifier': (encoders.BERT(vocab_size=20, head='classifier', classes=3, **SMALL), TOKENS,
                      'BertForSequenceClassification', {'bert.pooler.dense.weight': (8, 8), 'classifier.weight': (3, 8)}, 41),
  'vit': (encoders.ViT(patch=2, pool='pooler', norm_eps=1e-12, **SMALL), IMAGES, 'ViTModel', {
    'embeddings.cls_token': (1, 1, 8), 'embeddings.position_embeddings': (1, 5, 8),
    'embeddings.patch_embeddings.projection.weight': (8, 3, 2, 2),
    'encoder.layer.0.attention.attention.query.weight': (8, 8)}, 40),
  'vit_classifier': (encoders.ViT(patch=2, classes=5, **SMALL), IMAGES, 'ViTForImageClassification', {
    'vit.layernorm.weight': (8,), 'classifier.bias': (5,)}, 40),
  'gpt2': (encoders.GPT2(vocab_size=20, max_length=6, **SMALL), TOKENS, 'GPT2LMHeadModel', {
    'transformer.h.1.attn.c_attn.weight': (8, 24), 'transformer.h.0.attn.c_attn.bias': (24,),
    'transformer.h.0.mlp.c_fc.weight': (8, 12), 'transformer.wpe.weight': (6, 8)}, 28),
  'gpt2_bare': (encoders.GPT2(vocab_size=20, max_length=6, head=None, **SMALL), TOKENS, 'GPT2Model', {
    'h.0.ln_1.weight': (8,), 'wte.weight': (20, 8)}, 28),
  'llama': (encoders.Llama(vocab_size=20, kv_heads=2, head='untied', **SMALL), TOKENS, 'LlamaForCausalLM', {
    'model.layers.1.self_attn.k_proj.weight': (4, 8), 'model.layers.0.mlp.gate_proj.weight': (12, 8),
    'lm_head.weight': (20, 8)}, 21),
  'mistral': (encoders.Llama(vocab_size=20, kv_heads=2, window=3, rope_scaling=dict(rope_type='linear', factor=2.0),
                             **SMALL), TOKENS, 'MistralForCausalLM', {'model.norm.weight': (8,)}, 20),
  't5': (encoders.T5(head='tied', scale_head=True, **T5), (TOKENS, TOKENS), 'T5ForConditionalGeneration', {
    'shared.weight': (20, 8), 'decoder.block.0.layer.1.EncDecAttention.k.weight': (12, 8),
    'encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight': (6, 4),
    'decoder.block.2.layer.2.DenseReluDense.wi.weight': (12, 8), 'encoder.block.1.layer.1.layer_norm.weight': (8,)}, 60),
  't5_v11': (encoders.T5(head='untied', scale_head=False, gated=True, activation='gelu_tanh', **T5), (TOKENS, TOKENS),
             'T5ForConditionalGeneration', {'encoder.block.0.layer.1.DenseReluDense.wi_1.weight': (12, 8),
                                            'lm_head.weight': (20, 8)}, 66),
  't5_encoder': (encoders.T5(head=None, **{**T5, 'decoder_depth': 0}), TOKENS, 'T5EncoderModel', {
    'shared.weight': (20, 8), 'encoder.final_layer_norm.weight': (8,)}, 19),
  'mamba': (encoders.Mamba(vocab_size=20, width=8, depth=2, state_size=3, rank=2, logits=True), TOKENS, 'MambaForCausalLM', {
    'backbone.embeddings.weight': (20, 8), 'backbone.layers.1.mixer.conv1d.weight': (16, 1, 4),
    'backbone.layers.0.mixer.x_proj.weight': (8, 16), 'backbone.norm_f.weight': (8,)}, 22),
  'mamba2': (encoders.Mamba2(vocab_size=20, width=8, depth=2, state_size=3, head_size=4, groups=2, dt_limit=(0.0, 9.0),
                             logits=True, tie=False), TOKENS, 'Mamba2ForCausalLM', {
    'backbone.layers.1.mixer.in_proj.weight': (48, 8), 'backbone.layers.0.mixer.dt_bias': (4,),
    'backbone.layers.0.mixer.norm.weight': (16,), 'lm_head.weight': (20, 8)}, 21),
  'mamba_bare': (encoders.Mamba(vocab_size=20, width=8, depth=1, rank=1), TOKENS, 'MambaModel', {
    'layers.0.mixer.A_log': (16, 16), 'norm_f.weight': (8,)}, 12),
  'swin': (encoders.Swin(patch=2, width=8, depths=(1, 2), heads=(2, 4), window=2), IMAGES, 'SwinModel', {
    'encoder.layers.1.blocks.1.attention.self.relative_position_bias_table': (9, 4),
    'encoder.layers.0.downsample.reduction.weight': (16, 32), 'layernorm.bias': (16,)}, 60),
  'swin_classifier': (encoders.Swin(patch=2, width=8, depths=(1, 1), heads=(2, 4), window=2, qkv_bias=False, classes=3), IMAGES,
                      'SwinForImageClassification', {'classifier.weight': (3, 16)}, 39),
  'whisper': (encoders.Whisper(vocab_size=20, decoder_depth=1, decoder_heads=2, decoder_hidden=10, mels=3, frames=4,
                               max_length=6, pad_id=0, start_id=2, **SMALL), (SOUND, TOKENS),
              'WhisperForConditionalGeneration', {
    'model.encoder.conv1.weight': (8, 3, 3), 'model.encoder.embed_positions.weight': (4, 8),
    'model.decoder.layers.0.encoder_attn.v_proj.bias': (8,), 'model.decoder.layers.0.fc1.weight': (10, 8)}, 65),
  'ast': (encoders.AST(mels=3, frames=5, patch=2, stride=(1, 2), norm_eps=1e-12, **SMALL), SOUND, 'ASTModel', {
    'embeddings.distillation_token': (1, 1, 8), 'embeddings.position_embeddings': (1, 6, 8),
    'embeddings.patch_embeddings.projection.weight': (8, 1, 2, 2),
    'encoder.layer.1.attention.attention.query.weight': (8, 8)}, 39),
  'ast_classifier': (encoders.AST(mels=3, frames=5, patch=2, stride=1, classes=4, **SMALL), SOUND,
                     'ASTForAudioClassification', {'classifier.layernorm.weight': (8,), 'classifier.dense.weight': (4, 8),
                                                   'audio_spectrogram_transformer.layernorm.bias': (8,)}, 43),
}


def random_params(module, inputs, dtype=np.float32):
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(module.init, jax.random.key(0), inputs)['params']
  return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(dtype), shapes)


def assert_equal(got, expected):
  got, expected = tree.flatten(got), tree.flatten(expected)
  assert got.keys() == expected.keys()
  for path, leaf in expected.items():
    assert got[path].dtype == leaf.dtype, path
    np.testing.assert_array_equal(np.asarray(got[path]), np.asarray(leaf), err_msg=path)


@pytest.fixture
def bert(tmp_path):
  """(module, params, directory, tensors in the file)."""
  module = CASES['bert'][0]
  params = random_params(module, TOKENS)
  hf.save(module, params, tmp_path)
  return module, params, tmp_path, safetensors.numpy.load_file(tmp_path / 'model.safetensors')


def rewrite(directory, tensors):
  safetensors.numpy.save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()},
                              directory / 'model.safetensors')


@pytest.mark.parametrize('name', CASES)
def test_saved_is_loaded_and_the_file_has_the_published_layout(name, tmp_path):
  module, inputs, architecture, some, count = CASES[name]
  params = random_params(module, inputs)
  hf.save(module, params, tmp_path)
  tensors = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  assert len(tensors) == count
  assert {tensor: tensors[tensor].shape for tensor in some} == some
  assert json.loads((tmp_path / 'config.json').read_text())['architectures'] == [architecture]
  loaded, got = hf.load(tmp_path)
  assert loaded == (module.clone(head_dim=2) if isinstance(module, encoders.Llama) else module)
  assert_equal(got, params)


def test_orientation_of_the_kernels(bert):
  _, params, _, tensors = bert
  attn, mlp = params['block_0']['attn'], params['block_0']['mlp']
  x = np.random.default_rng(1).normal(size=8).astype(np.float32)
  theirs = tensors['encoder.layer.0.attention.self.key.weight'] @ x  # (out, in), heads one behind the other
  np.testing.assert_allclose(np.einsum('d,dhk->hk', x, attn['key']['kernel']).ravel(), theirs, atol=1e-5)
  theirs = tensors['encoder.layer.0.attention.output.dense.weight'] @ x
  np.testing.assert_allclose(np.einsum('hk,hkd->d', x.reshape(4, 2), attn['out']['kernel']), theirs, atol=1e-5)
  np.testing.assert_allclose(x @ mlp['fc1']['kernel'], tensors['encoder.layer.0.intermediate.dense.weight'] @ x, atol=1e-5)


def test_one_tensor_that_holds_query_key_and_value(tmp_path):
  module = CASES['gpt2'][0]
  params = random_params(module, TOKENS)
  hf.save(module, params, tmp_path)
  fused = safetensors.numpy.load_file(tmp_path / 'model.safetensors')['transformer.h.1.attn.c_attn.weight']
  for i, part in enumerate(('query', 'key', 'value')):
    np.testing.assert_array_equal(fused[:, 8 * i: 8 * i + 8], params['block_1']['attn'][part]['kernel'].reshape(8, 8))


@pytest.mark.parametrize('dtype', [None, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize('stored', [np.float32, ml_dtypes.bfloat16])
def test_dtypes(dtype, stored, tmp_path):
  module = CASES['llama'][0]
  params = random_params(module, TOKENS, stored)
  hf.save(module, params, tmp_path)
  loaded, got = hf.load(tmp_path, dtype=dtype)
  assert_equal(got, jax.tree.map(lambda x: x.astype(dtype or stored), params))
  assert loaded.dtype == (dtype or jnp.float32)


def test_shards_are_written_read_and_replace_what_was_there(bert):
  module, params, directory, tensors = bert
  hf.save(module, params, directory, shard_bytes=1000)
  files = sorted(path.name for path in directory.glob('*.safetensors'))
  assert len(files) > 2 and files[0] == f'model-00001-of-{len(files):05d}.safetensors'
  index = json.loads((directory / 'model.safetensors.index.json').read_text())
  assert set(index['weight_map']) == set(tensors)
  assert index['metadata']['total_size'] == sum(x.nbytes for x in tensors.values())
  assert all((directory / name).stat().st_size < 3000 for name in files)  # 1000 bytes and a header
  assert_equal(hf.load(directory)[1], params)
  hf.save(module, params, directory)
  assert [path.name for path in directory.glob('model*')] == ['model.safetensors']
  assert_equal(hf.load(directory)[1], params)


@pytest.mark.parametrize('block', [1, 40, 1 << 24])
def test_tensors_are_read_once_in_blocks_of_any_size(bert, monkeypatch, block):
  sizes = []

  def read(name, entry, original=_safetensors.read):
    sizes.append(original(name, entry).size)
    return original(name, entry)

  monkeypatch.setattr(_safetensors, 'read', read)
  monkeypatch.setattr(_safetensors, 'BLOCK', block)
  assert_equal(hf.load(bert[2])[1], bert[1])
  assert sum(sizes) == sum(x.size for x in bert[3].values())


def test_other_spellings_of_the_names(bert):
  _, params, directory, tensors = bert
  old = {f'bert.{name}'.replace('LayerNorm.weight', 'LayerNorm.gamma').replace('LayerNorm.bias', 'LayerNorm.beta'): x
         for name, x in tensors.items()}
  rewrite(directory, old | {'bert.embeddings.position_ids': np.arange(6)[None],
                            'cls.seq_relationship.weight': np.zeros((2, 8), np.float32)})
  assert_equal(hf.load(directory)[1], params)


def test_names_of_vit_in_memory(tmp_path):
  module = CASES['vit'][0]
  params = random_params(module, IMAGES)
  hf.save(module, params, tmp_path)
  new = {}
  for name, x in safetensors.numpy.load_file(tmp_path / 'model.safetensors').items():
    for before, after in (('encoder.layer.', 'layers.'), ('attention.attention.query', 'attention.q_proj'),
                          ('attention.attention.key', 'attention.k_proj'), ('attention.output.dense', 'attention.o_proj'),
                          ('attention.attention.value', 'attention.v_proj'), ('intermediate.dense', 'mlp.fc1'),
                          ('output.dense', 'mlp.fc2')):
      name = name.replace(before, after)
    new[name] = x
  assert 'layers.1.attention.o_proj.bias' in new and 'layers.0.mlp.fc2.weight' in new
  rewrite(tmp_path, new)
  assert_equal(hf.load(tmp_path)[1], params)


@pytest.mark.parametrize('name, tied, own', [
  ('gpt2', 'lm_head.weight', 'transformer.wte.weight'), ('mistral', 'lm_head.weight', 'model.embed_tokens.weight'),
  ('bert_mlm', 'cls.predictions.decoder.weight', 'bert.embeddings.word_embeddings.weight')])
def test_tied_tensors_may_be_there_twice_or_under_the_other_name(name, tied, own, tmp_path):
  module, inputs = CASES[name][:2]
  params = random_params(module, inputs)
  hf.save(module, params, tmp_path)
  tensors = safetensors.numpy.load_file(tmp_path / 'model.safetensors')
  rewrite(tmp_path, tensors | {tied: tensors[own]})
  assert_equal(hf.load(tmp_path)[1], params)
  rewrite(tmp_path, {tied if key == own else key: x for key, x in tensors.items()})
  assert_equal(hf.load(tmp_path)[1], params)


def test_a_model_without_its_pooler(bert):
  _, params, directory, tensors = bert
  rewrite(directory, {name: x for name, x in tensors.items() if 'pooler' not in name})
  module, got = hf.load(directory)
  assert module.pool == 'cls'
  assert_equal(got, {name: x for name, x in params.items() if name != 'pooler'})


@pytest.mark.parametrize('how', ['one', 'function', 'tree'])
def test_sharding(bert, how):
  mesh = make_mesh()
  split, whole = NamedSharding(mesh, PartitionSpec('data')), NamedSharding(mesh, PartitionSpec())
  choose = lambda path, shape: split if path == 'pooler/kernel' else whole  # noqa: E731
  tree_of = tree.map_with_path(lambda path, x: choose(path, x.shape), bert[1])
  _, params = hf.load(bert[2], sharding={'one': whole, 'function': choose, 'tree': tree_of}[how])
  assert_equal(params, bert[1])
  for path, leaf in tree.flatten(params).items():
    assert leaf.sharding == (whole if how == 'one' else choose(path, leaf.shape)), path


def test_everything_that_does_not_fit_is_listed_at_once(bert):
  directory, tensors = bert[2:]
  tensors['encoder.layer.0.output.dense.weights'] = tensors.pop('encoder.layer.0.output.dense.weight')
  del tensors['embeddings.LayerNorm.bias']
  tensors['pooler.dense.bias'] = np.zeros(9, np.float32)
  rewrite(directory, tensors)
  with pytest.raises(ValueError) as error:
    hf.load(directory)
  for text in ('2 missing: bert.embeddings.LayerNorm.bias; bert.encoder.layer.0.output.dense.weight.',
               '1 unknown: encoder.layer.0.output.dense.weights.', '1 misshapen: pooler.dense.bias is [9], expected [8].'):
    assert text in str(error.value)


def test_pickles_are_refused_with_the_way_out(bert):
  directory = bert[2]
  (directory / 'model.safetensors').unlink()
  with pytest.raises(FileNotFoundError, match='neither model.safetensors nor model.safetensors.index.json'):
    hf.load(directory)
  (directory / 'pytorch_model.bin').write_bytes(b'')
  with pytest.raises(ValueError, match=r'no safetensors, but pytorch_model.bin.*safetensors.torch.save_file'):
    hf.load(directory)


def edit(directory, **fields):
  path = directory / 'config.json'
  path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize('fields, text', [
  (dict(architectures=['BertModle']), "architecture 'BertModle'. Did you mean 'BertModel'"),
  (dict(architectures=None), "architectures=.*allowed is one, e.g. .'BertModel'"),
  (dict(hidden_act='geul'), "hidden_act='geul'. Did you mean 'gelu'"),
  (dict(hidden_size=None, vocab_size=None), 'config.json lacks vocab_size, hidden_size'),
  (dict(position_embedding_type='relative_key'), "position_embedding_type='relative_key'; implemented is 'absolute'"),
  (dict(num_hidden_layers=1), r'16 unknown: encoder.layer.1'),
])
def test_errors_of_the_config(bert, fields, text):
  edit(bert[2], **fields)
  with pytest.raises(ValueError, match=text):
    hf.load(bert[2])


def test_errors_of_files(bert, tmp_path):
  directory = bert[2]
  with pytest.raises(FileNotFoundError, match='no checkpoint: it has no config.json'):
    hf.load(directory / 'nowhere')
  (directory / 'model.safetensors').unlink()
  (directory / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {'x': 'model-00001-of-00001.safetensors'}}))
  with pytest.raises(ValueError, match='not beside it: model-00001-of-00001.safetensors'):
    hf.load(directory)


def test_damaged_files_are_noticed_before_anything_is_read(bert):
  path = bert[2] / 'model.safetensors'
  whole = path.read_bytes()
  for damaged, text in ((whole[:-1], 'damaged or cut off at the tensor'), (whole[:100], 'or cut off: 100 bytes'),
                        (whole[:8] + b'?' + whole[9:], 'its header is not JSON'), (b'', 'or cut off: 0 bytes')):
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=text):
      hf.load(bert[2])


def test_errors_of_saving(bert, tmp_path):
  module, params = bert[:2]
  wrong = {**{name: x for name, x in params.items() if name != 'pos_embed'}, 'extra': np.zeros(2)}
  with pytest.raises(ValueError, match='not the parameters of BERT. missing: pos_embed. unknown: extra'):
    hf.save(module, wrong, tmp_path)
  with pytest.raises(ValueError, match=r'misshapen: pos_embed is \[5, 8\], expected \[6, 8\]'):
    hf.save(module, params | {'pos_embed': params['pos_embed'][:5]}, tmp_path)
  with pytest.raises(ValueError, match='MLP has no published layout.*Known: AST, BERT, GPT2, Llama, Mamba, Mamba2, Swin, T5, ViT, Whisper'):
    hf.save(encoders.MLP(), {}, tmp_path)
  vit = encoders.ViT(patch=2, pool='mean', **SMALL)
  with pytest.raises(ValueError, match="pool='mean', which has no published layout"):
    hf.save(vit, random_params(vit, IMAGES), tmp_path)


def test_further_fields_of_the_config(bert):
  hf.save(*bert[:2], bert[2], extra={'bos_token_id': 7})
  assert json.loads((bert[2] / 'config.json').read_text())['bos_token_id'] == 7
