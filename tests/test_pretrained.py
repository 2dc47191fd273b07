"""Runs that begin with a published checkpoint: its weights, its tokens, and what is refused."""
import json

import jax
import numpy as np
import pytest
import toy

from mtjax import experiment
from mtjax.encoders import BERT, EfficientNetLite, Whisper, efficientnet_lite
from mtjax.interop import ctranslate2, hf
from mtjax.interop.tokenizers import Tokens, TokenTypes
from mtjax.precision import Precision

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', *map(str, range(10)), 'is', 'odd', 'even']


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
  """A folder with a tiny BERT and a tokenizer of ours."""
  tokenizers = pytest.importorskip('tokenizers')
  folder = tmp_path_factory.mktemp('bert')
  module = BERT(vocab_size=len(WORDS), width=16, depth=1, heads=2, hidden=32, max_length=8, pool='cls')
  params = module.init(jax.random.key(7), np.zeros((1, 4), np.int32))['params']
  hf.save(module, params, folder)
  words = tokenizers.Tokenizer(tokenizers.models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token='[UNK]'))
  words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  words.save(str(folder / 'tokenizer.json'))
  return folder, params


def config(folder, **fields):
  return toy.config(
    data=dict(name='toy:Toy', batch_size=32, inputs='tokens',
              format={'tokens': dict(name='tokens', column='text', path=str(folder), length=6)}),
    tasks={'odd': dict(label='odd', head=dict(name='classification', classes=2))},
    encoder=dict(name='hf', directory=str(folder), **fields), steps=8)


def test_a_run_begins_with_the_weights_and_trains_them(checkpoint, tmp_path):
  folder, params = checkpoint
  run = experiment.build(config(folder), tmp_path)
  state = run.init()
  own = jax.device_get(state.params['encoder'])
  jax.tree.map(np.testing.assert_array_equal, own, jax.device_get(params))
  other = run.with_seed(5).init().params
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(other['encoder']), own)
  assert not np.array_equal(other['heads']['odd']['out']['kernel'], state.params['heads']['odd']['out']['kernel'])
  state, metrics = run.train(state)
  assert metrics['eval/odd/accuracy'] >= 0 and not np.array_equal(
    state.params['encoder']['block_0']['mlp']['fc1']['kernel'], own['block_0']['mlp']['fc1']['kernel'])
  again = experiment.build(config(folder), tmp_path)  # goes on from its checkpoint, not from the weights
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again.init().params), jax.device_get(state.params))


def test_fields_of_the_module_can_be_changed(checkpoint):
  folder, _ = checkpoint
  run = experiment.build(config(folder, pool='mean', dropout_rate=0.1))
  assert run.objective.encoder.pool == 'mean' and run.objective.encoder.dropout_rate == 0.1
  with pytest.raises(ValueError, match="'encoder.pol'.*Did you mean pool|Unknown config key 'encoder.pol'"):
    experiment.build(config(folder, pol='mean'))
  with pytest.raises(ValueError, match='has not, or of another shape: .*block_1'):
    experiment.build(config(folder, depth=2))


def test_a_run_begins_with_an_efficientnet(tmp_path, monkeypatch):
  shapes = jax.eval_shape(EfficientNetLite(classes=5).init, jax.random.key(0), np.zeros((1, 32, 32, 3), np.uint8))
  rng = np.random.default_rng(0)
  given = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes['params'])
  monkeypatch.setattr(efficientnet_lite, 'convert', lambda weights, variant: dict(given))     # its names are tested apart
  np.savez(tmp_path / 'weights.npz')
  head = dict(name='depth', size=(32, 32))
  run = experiment.build(dict(
    data=dict(name='rendered_scenes', config='sample', batch_size=8), steps=1,
    tasks={'depth': dict(label='depth', head=head)},
    encoder=dict(name='pretrained_efficientnet_lite', directory=str(tmp_path), classes=None)))
  own = jax.device_get(run.init().params['encoder'])
  assert 'fc' not in own
  given.pop('fc')
  jax.tree.map(np.testing.assert_array_equal, own, given)


def test_a_whisper_of_ctranslate2_by_config(monkeypatch, tmp_path):
  module = Whisper(vocab_size=259, width=8, depth=1, heads=2, hidden=8, mels=4, frames=4, max_length=8, start_id=0)
  sound = np.zeros((1, 8, 4), np.float32)
  weights = jax.tree.map(lambda x: np.full(x.shape, 0.25, np.float16), jax.eval_shape(
    module.init, jax.random.key(0), (sound, np.zeros((1, 8), np.int32)))['params'])
  seen = []
  monkeypatch.setattr(ctranslate2, 'load', lambda path: (seen.append(path), (module, weights))[1])
  encoder, found = experiment._encoder(dict(name='ctranslate2', directory=str(tmp_path), dropout_rate=0.5), Precision(), 'none')
  assert encoder == module.clone(dropout_rate=0.5) and found is weights and seen == [tmp_path]
  with pytest.raises(FileNotFoundError, match='model.bin'):
    monkeypatch.undo()
    experiment._encoder(dict(name='ctranslate2', directory=str(tmp_path)), Precision(), 'none')


def test_what_is_no_checkpoint_is_refused(checkpoint, tmp_path, monkeypatch):
  bad = config(tmp_path / 'none')
  bad.data.format.tokens.path = str(checkpoint[0])
  with pytest.raises(FileNotFoundError, match='config.json'):
    experiment.build(bad)
  with pytest.raises(ValueError, match="'encoder.directory' must name a checkpoint"):
    experiment.build(toy.config(encoder=dict(name='hf')))
  monkeypatch.setenv('MTJAX_DATA', str(tmp_path))
  with pytest.raises(FileNotFoundError, match='python -m mtjax.data.fetch whisper_base'):
    experiment.build(toy.config(encoder=dict(name='hf', directory='fetched:whisper_base')))


def test_tokens_of_a_column_and_of_pairs(checkpoint):
  folder, _ = checkpoint
  rows = {'text': np.array([b'3 is odd', b'4 is even'], object), 'more': np.array(['1', '2 is'], object)}
  found = Tokens('text', str(folder), 5)(rows)
  index = {word: i for i, word in enumerate(WORDS)}
  assert found.dtype == np.int32 and found.tolist() == [
    [index['3'], index['is'], index['odd'], 0, 0], [index['4'], index['is'], index['even'], 0, 0]]
  assert Tokens(('text', 'more'), str(folder), 5)(rows)[0].tolist()[:4] == [*found[0].tolist()[:3], index['1']]
  for wrong in (dict(length=0), dict(length=2, column=('a', 'b', 'c'))):
    with pytest.raises(ValueError, match='tokens needs'):
      Tokens(**{'column': 'text', 'path': str(folder), **wrong})
  assert json.loads((folder / 'config.json').read_text())['architectures'] == ['BertModel']


@pytest.fixture(scope='module')
def pair_checkpoint(checkpoint, tmp_path_factory):
  """A copy of the folder whose tokenizer has BERT's template for pairs."""
  import tokenizers
  folder = tmp_path_factory.mktemp('pairs')
  for name in ('config.json', 'model.safetensors'):
    (folder / name).write_bytes((checkpoint[0] / name).read_bytes())
  words = tokenizers.Tokenizer.from_file(str(checkpoint[0] / 'tokenizer.json'))
  words.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
  words.save(str(folder / 'tokenizer.json'))
  return folder


def test_types_stand_beside_the_tokens_of_pairs(pair_checkpoint):
  rows = {'text': np.array([b'3 is odd', b'4'], object), 'more': np.array(['1', '2 is even'], object)}
  path, both = str(pair_checkpoint), ('text', 'more')
  tokens, types = Tokens(both, path, 7)(rows), TokenTypes(both, path, 7)(rows)
  # [CLS] 3 is odd [SEP] 1 [SEP]   and   [CLS] 4 [SEP] 2 is even [SEP]
  assert types.dtype == np.int32 and types.tolist() == [[0, 0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1, 1]]
  np.testing.assert_array_equal((tokens == 3).cumsum(1) - (tokens == 3) == 1, types)   # one mark before it
  short = TokenTypes(both, path, 5)(rows)
  np.testing.assert_array_equal(Tokens(both, path, 5)(rows)[:, -1], [3, 3])
  assert short.shape == (2, 5) and short[:, -1].tolist() == [1, 1]
  with pytest.raises(ValueError, match="token_types needs two columns, a text and its pair, got 'text'"):
    TokenTypes('text', path, 7)


def test_a_run_of_two_streams_of_different_lengths_one_of_them_pairs(pair_checkpoint, tmp_path):
  path = str(pair_checkpoint)
  pair = dict(column=('text', 'text'), path=path)
  single = dict(name='toy:Toy', batch_size=16, inputs='tokens',
                format={'tokens': dict(name='tokens', column='text', path=path, length=6)})
  pairs = dict(name='toy:Toy', batch_size=8, inputs=('tokens', 'token_types'),
               format={name: dict(name=name, length=8, **pair) for name in ('tokens', 'token_types')})
  made = toy.config(
    data=dict(streams=dict(single=single, pairs=pairs)),
    tasks={name: dict(label='odd', head=dict(name='classification', classes=2), stream=name)
           for name in ('single', 'pairs')},
    encoder=dict(name='hf', directory=path), steps=4)
  run = experiment.build(made, tmp_path)
  before = run.init()
  old = jax.device_get(before.params['encoder']['type_embed'])
  state, metrics = run.train(before)
  assert metrics['eval/single/n'] > 0 and metrics['eval/pairs/n'] > 0
  assert not np.array_equal(state.params['encoder']['type_embed'][1], old[1])   # only pairs have the second type
