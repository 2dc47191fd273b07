"""Runs that begin with a published checkpoint: its weights, its tokens, and what is refused."""
import json

import jax
import numpy as np
import pytest
import toy

from mtjax import experiment
from mtjax.encoders import BERT, Whisper
from mtjax.interop import ctranslate2, hf
from mtjax.interop.tokenizers import Tokens

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


def test_a_whisper_of_ctranslate2_by_config(monkeypatch, tmp_path):
  module = Whisper(vocab_size=259, width=8, depth=1, heads=2, hidden=8, mels=4, frames=4, max_length=8, start_id=0)
  sound = np.zeros((1, 8, 4), np.float32)
  weights = jax.tree.map(lambda x: np.full(x.shape, 0.25, np.float16), jax.eval_shape(
    module.init, jax.random.key(0), (sound, np.zeros((1, 8), np.int32)))['params'])
  seen = []
  monkeypatch.setattr(ctranslate2, 'load', lambda path: (seen.append(path), (module, weights))[1])
  encoder, found = experiment._encoder(dict(name='ctranslate2', directory=str(tmp_path), dropout_rate=0.5))
  assert encoder == module.clone(dropout_rate=0.5) and found is weights and seen == [tmp_path]
  with pytest.raises(FileNotFoundError, match='model.bin'):
    monkeypatch.undo()
    experiment._encoder(dict(name='ctranslate2', directory=str(tmp_path)))


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
