"""What a decoder is to write, from a template; settings of generation, by config and as published."""
import doctest
import json

import numpy as np
import pytest

from mtjax.data.formats import ByteText
from mtjax.interop import targets
from mtjax.interop.generation import generation, published_suppression
from mtjax.interop.targets import Targets

WORDS = ['[UNK]', '<en>', '<it>', '<end>', 'yes', 'no', 'ciao']
ROWS = {'language': np.array([1, 0]), 'text': np.array([b'ciao', b'yes no'], object)}
TEMPLATE = '<{language}> {text}<end>'


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
  tokenizers = pytest.importorskip('tokenizers')
  words = tokenizers.Tokenizer(tokenizers.models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token='[UNK]'))
  words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  words.add_special_tokens(['<en>', '<it>', '<end>'])
  path = tmp_path_factory.mktemp('words') / 'tokenizer.json'
  words.save(str(path))
  return str(path)


def test_the_filled_template_and_then_nothing_that_counts(tokenizer):
  make = Targets(TEMPLATE, tokenizer, 6, {'language': ('en', 'it')})
  assert make.columns == ('language', 'text')
  assert make(ROWS).dtype == np.int32 and make(ROWS).tolist() == [[2, 6, 3, -100, -100, -100], [1, 4, 5, 3, -100, -100]]
  assert Targets(TEMPLATE, tokenizer, 3, {'language': ('en', 'it')})(ROWS)[1].tolist() == [1, 4, 5]     # cut at its end


def test_bytes_are_read_back():
  made = Targets('{text}?', 'bytes', 12)({'text': ['é', 'no']})
  assert ByteText().decode(made, made >= 0) == ['é?', 'no?'] == ByteText().decode(made)
  failed, tried = doctest.testmod(targets)
  assert tried and not failed


def test_errors():
  for how in (dict(template='text'), dict(template='{}'), dict(length=0)):
    with pytest.raises(ValueError, match='targets needs length >= 1 and a template'):
      Targets(**{'template': '{text}', 'path': 'bytes', 'length': 3, **how})
  with pytest.raises(ValueError, match="Unknown config key 'targets.names.lang'"):
    Targets('{text}', 'bytes', 3, {'lang': ('en',)})


def test_published_settings(tmp_path):
  with pytest.raises(FileNotFoundError, match='generation_config.json'):
    published_suppression(tmp_path)
  (tmp_path / 'config.json').write_text(json.dumps({'suppress_ids': [-1, 7], 'suppress_ids_begin': [2, 3]}))
  assert published_suppression(tmp_path) == {'suppress_tokens': (7,), 'begin_suppress_tokens': (2, 3)}
  (tmp_path / 'generation_config.json').write_text(json.dumps({'suppress_tokens': [5, 6]}))
  found = {'suppress_tokens': (5, 6), 'begin_suppress_tokens': (2, 3)}
  assert published_suppression(tmp_path) == found
  made = generation(dict(tokenizer='bytes', max_new_tokens=3, suppress=str(tmp_path), stop_tokens=[2], limit=4), 'here')
  assert made.options == {**found, 'stop_tokens': [2]} and isinstance(made.tokenizer, ByteText)
  assert (made.rows('validation'), made.rows('test')) == (4, np.inf)
  own = generation(dict(tokenizer='bytes', max_new_tokens=3, suppress=str(tmp_path), suppress_tokens=(1,)), 'here')
  assert own.options['suppress_tokens'] == [1]                                    # what is said here goes first


@pytest.mark.parametrize('spec, words', [
  (dict(max_new_tokens=3), "'here' needs a tokenizer"),
  (dict(tokenizer='bytes', max_new_tokens=0), "'here': generation has max_new_tokens=0"),
  (dict(tokenizer='bytes', max_new_tokens=3, top_p=1), "Unknown config key 'here.top_p'"),
])
def test_settings_that_are_refused(spec, words):
  with pytest.raises(ValueError, match=words):
    generation(spec, 'here')
