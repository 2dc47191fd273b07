"""Tokenizers: padding, cutting, pairs, and back, on vocabularies small enough to read."""
import numpy as np
import pytest
import sentencepiece
import tokenizers

from mtjax.interop import Tokenizer

VOCABULARY = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', 'i', 'eat', 'food', 'it', 'rain', '##s']


@pytest.fixture(scope='module')
def word_pieces(tmp_path_factory):
  """A directory with a tokenizer.json, as BERT's."""
  backend = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(VOCABULARY)}, unk_token='[UNK]'))
  backend.normalizer = tokenizers.normalizers.Lowercase()
  backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  backend.post_processor = tokenizers.processors.TemplateProcessing(
    single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1', special_tokens=[('[CLS]', 2), ('[SEP]', 3)])
  backend.decoder = tokenizers.decoders.WordPiece()
  backend.add_special_tokens(['[PAD]', '[UNK]', '[CLS]', '[SEP]'])
  directory = tmp_path_factory.mktemp('words')
  backend.save(str(directory / 'tokenizer.json'))
  return directory


def test_batch_with_padding(word_pieces):
  tokenizer = Tokenizer(word_pieces)
  tokens, mask = tokenizer(['I eat food', 'it rains'], length=7)
  np.testing.assert_array_equal(tokens, [[2, 4, 5, 6, 3, 0, 0], [2, 7, 8, 9, 3, 0, 0]])
  np.testing.assert_array_equal(mask, tokens > 0)
  assert tokens.dtype == np.int32 and tokenizer.vocab_size == 10
  tokens, mask = tokenizer(['I eat food', 'it'], side='left')
  np.testing.assert_array_equal(tokens, [[2, 4, 5, 6, 3], [0, 0, 2, 7, 3]])
  np.testing.assert_array_equal(mask, tokens > 0)
  assert tokenizer.decode(tokens) == ['i eat food', 'it']
  assert tokenizer.decode(tokens, special=True)[1] == '[CLS] it [SEP]'


def test_cutting_keeps_the_marks(word_pieces):
  tokens, mask = Tokenizer(word_pieces)(['I eat food'], length=4)
  np.testing.assert_array_equal(tokens, [[2, 4, 5, 3]])
  assert mask.all()
  tokens, _ = Tokenizer(word_pieces)(['I eat food'], length=2, special=False)
  np.testing.assert_array_equal(tokens, [[4, 5]])
  np.testing.assert_array_equal(Tokenizer(word_pieces)(['I eat food'])[0], [[2, 4, 5, 6, 3]])


def test_pairs(word_pieces):
  tokenizer = Tokenizer(word_pieces)
  tokens, _ = tokenizer(['I eat'], 8, pairs=['it rain'])
  np.testing.assert_array_equal(tokens, [[2, 4, 5, 3, 7, 8, 3, 0]])
  np.testing.assert_array_equal(tokenizer.token_types(['I eat'], ['it rain'], 8), [[0, 0, 0, 0, 1, 1, 1, 0]])


def test_padding_of_ones_own(word_pieces):
  tokens, _ = Tokenizer(word_pieces, pad_id=9)(['it'], 5)
  np.testing.assert_array_equal(tokens, [[2, 7, 3, 9, 9]])


def test_token_0_is_a_token_where_there_is_no_padding():
  words = tokenizers.Tokenizer(tokenizers.models.WordLevel({'yes': 0, 'no': 1, '?': 2}, unk_token='?'))
  words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer = Tokenizer(words)
  tokens, mask = tokenizer(['no yes', 'yes'])
  np.testing.assert_array_equal(tokens, [[1, 0], [0, 0]])
  assert tokenizer.pad_id == 0 and tokenizer.decode(tokens, mask) == ['no yes', 'yes']
  assert tokenizer.decode(tokens) == ['no yes', 'yes yes']   # nothing but the mask tells a filling from a token
  assert tokenizer.decode([[0, 1]]) == ['yes no']
  assert Tokenizer(words, pad_id=0).decode(tokens) == ['no', '']   # here the caller says that 0 is none


def test_sentencepiece(tmp_path):
  text = ['the cat sat on the mat', 'a dog ran to the cat', 'the dog and the cat'] * 20
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(text), model_prefix=str(tmp_path / 'spiece'), vocab_size=21, pad_id=0, eos_id=1, unk_id=2,
    bos_id=-1, minloglevel=2)
  tokenizer = Tokenizer(tmp_path)
  tokens, mask = tokenizer(['the cat', 'the dog sat'], length=20)
  assert tokenizer.pad_id == 0 and tokenizer.vocab_size == 21
  np.testing.assert_array_equal(mask, tokens > 0)
  np.testing.assert_array_equal([row[m][-1] for row, m in zip(tokens, mask)], [1, 1])  # </s>
  assert tokenizer.decode(tokens) == ['the cat', 'the dog sat']
  cut, _ = tokenizer(['the dog sat'], length=3)
  np.testing.assert_array_equal(cut[0], [*tokens[1, :2], 1])
  with pytest.raises(ValueError, match='no template for pairs'):
    tokenizer(['a'], 3, pairs=['b'])


@pytest.mark.parametrize('act, error, text', [
  (lambda t: t('one'), TypeError, "texts is one string, 'one'; allowed is a list"),
  (lambda t: t(['a'], side='top'), ValueError, "side is 'top'; allowed are 'right', 'left'"),
  (lambda t: t(['a'], 0), ValueError, 'length is 0; allowed is an integer >= 1'),
  (lambda t: t(['a'], pairs=[]), ValueError, '1 texts have 0 pairs'),
  (lambda t: Tokenizer('words.txt'), ValueError, 'words.txt is no tokenizer'),
  (lambda t: Tokenizer('nowhere/tokenizer.json'), FileNotFoundError, 'does not exist'),
])
def test_errors(word_pieces, act, error, text):
  with pytest.raises(error, match=text):
    act(Tokenizer(word_pieces))
