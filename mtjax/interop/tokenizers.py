"""Tokenizers of published checkpoints: texts -> token ids with a padding mask, and back.

A thin cover over `tokenizers` (tokenizer.json, https://huggingface.co/docs/tokenizers) and `sentencepiece` (*.model,
https://github.com/google/sentencepiece), which do the work.
"""
import dataclasses
import functools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class Tokenizer:
  """Texts <-> ids.

  Args:
    path: a tokenizer.json, a sentencepiece *.model, or a directory with one of them (the former first); or a
      `tokenizers.Tokenizer` (of a GGUF file: `mtjax.interop.gguf.tokenizer`).
    pad_id: what fills up short rows; None = the tokenizer's own padding, or its '[PAD]' or '<pad>', or 0 where it has
      none of these. That 0 is then a token like others: what is filled up only the mask tells.

  Example:
    tokenizer = Tokenizer('all-MiniLM-L6-v2')
    tokens, mask = tokenizer(['I eat food.', 'It rains.'], length=16)
    features = module.apply({'params': params}, {'tokens': tokens, 'mask': mask})
  """

  def __init__(self, path: Any, pad_id: int | None = None):
    if isinstance(path, (str, pathlib.Path)):
      path = _find(pathlib.Path(path).expanduser())
      self._backend = _json(path) if path.suffix == '.json' else _SentencePiece(path)
    else:
      self._backend = _Fast(path)
    self._padding = self._backend.pad_id if pad_id is None else pad_id
    self.pad_id = 0 if self._padding is None else self._padding
    self.vocab_size = self._backend.vocab_size

  def __call__(self, texts: Sequence[str], length: int | None = None, *, pairs: Sequence[str] | None = None,
               special: bool = True, side: str = 'right') -> tuple[np.ndarray, np.ndarray]:
    """Encodes a batch.

    Args:
      texts: B texts.
      length: tokens a row; longer rows are cut at their end. None = as many as the longest row has.
      pairs: B second texts, put behind the first as the checkpoint's template says (tokenizer.json alone).
      special: whether the template's marks are added ([CLS], [SEP], </s>, …); they outlive the cut.
      side: where the padding is, 'right' or 'left'.

    Returns:
      (tokens [B, length] int32, mask [B, length] bool, True where there is a token).
    """
    if isinstance(texts, str):
      raise TypeError(f'texts is one string, {texts[:40]!r}; allowed is a list of them.')
    if side not in ('right', 'left'):
      raise ValueError(f"side is {side!r}; allowed are 'right', 'left'.")
    if length is not None and length < 1:
      raise ValueError(f'length is {length}; allowed is an integer >= 1.')
    if pairs is not None and len(pairs) != len(texts):
      raise ValueError(f'{len(texts)} texts have {len(pairs)} pairs; allowed is one each.')
    rows = self._backend.encode(list(texts), None if pairs is None else list(pairs), length, special)
    length = length or max(map(len, rows), default=0)
    tokens = np.full((len(rows), length), self.pad_id, np.int32)
    mask = np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
      at = slice(0, len(row)) if side == 'right' else slice(length - len(row), length)
      tokens[i, at], mask[i, at] = row, True
    return tokens, mask

  def decode(self, tokens: Any, mask: Any = None, *, special: bool = False) -> list[str]:
    """Rows of ids -> texts.

    Args:
      tokens: [B, L] int, or B lists.
      mask: [B, L] bool, the ids that count; None = all but the padding, and all where the tokenizer knows of none.
      special: whether the marks are written out.
    """
    texts = []
    for i, row in enumerate(tokens):
      row = np.asarray(row)
      if mask is not None:
        row = row[np.asarray(mask[i], bool)]
      elif self._padding is not None:
        row = row[row != self._padding]
      texts.append(self._backend.decode([int(token) for token in row], special))
    return texts

  def token_types(self, texts: Sequence[str], pairs: Sequence[str], length: int) -> np.ndarray:
    """[B, length] int32: 1 for the tokens of the second text, else 0 (BERT), for rows padded on the right."""
    return self._backend.token_types(list(texts), list(pairs), length)


@dataclasses.dataclass(frozen=True)
class Tokens:
  """A format (`mtjax.data.formats`): text as a checkpoint's token ids, int32 [N, length], padded on the right.

  Args:
    column: a text column, or two, of which the second is the pair of the first.
    path: as of `Tokenizer`, or 'fetched:NAME' of `python -m mtjax.data.fetch`.
    length: tokens a row; longer texts are cut.
  """

  column: str | Sequence[str]
  path: str
  length: int

  def __post_init__(self):
    if not isinstance(self.length, int) or self.length < 1 or not 1 <= len(self.columns) <= 2:
      raise ValueError(f'tokens needs length >= 1 and one or two columns, got {self.length!r} and {self.column!r}.')

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that are read."""
    return (self.column,) if isinstance(self.column, str) else tuple(self.column)

  @functools.cached_property
  def _tokenizer(self) -> Tokenizer:
    return Tokenizer(local(self.path))

  def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Encodes the text of `rows`, each a str or UTF-8 bytes."""
    texts, *pairs = self._texts(rows)
    return self._tokenizer(texts, self.length, pairs=pairs[0] if pairs else None)[0]

  def _texts(self, rows: Mapping[str, np.ndarray]) -> list[list[str]]:
    return [[x.decode() if isinstance(x, bytes) else x for x in rows[name]] for name in self.columns]


class TokenTypes(Tokens):
  """A format: the token types of `Tokens` of two columns, int32 [N, length]: 1 for the second text, else 0 (BERT).

  Devlin et al., NAACL 2019, section 3, https://arxiv.org/abs/1810.04805: both texts are one sequence,
  [CLS] first [SEP] second [SEP], and an embedding of its type is added to each token.

      format={'tokens': dict(name='tokens', column=('first', 'second'), path=…, length=96),
              'token_types': dict(name='token_types', column=('first', 'second'), path=…, length=96)}
      inputs=('tokens', 'token_types')

  Args:
    column: the two text columns.
    path: as of `Tokens`.
    length: as of the `Tokens` that stand beside it.
  """

  def __post_init__(self):
    super().__post_init__()
    if len(self.columns) != 2:
      raise ValueError(f'token_types needs two columns, a text and its pair, got {self.column!r}.')

  def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The types of the tokens of `rows`."""
    return self._tokenizer.token_types(*self._texts(rows), self.length)


def local(path: str) -> pathlib.Path:
  """A path, where 'fetched:NAME' is the folder of what was fetched; raises FileNotFoundError with the command."""
  kind, _, name = str(path).partition(':')
  if kind != 'fetched':
    return pathlib.Path(path).expanduser()
  from mtjax.data import fetch

  return fetch.require(name)


def _json(path: pathlib.Path) -> '_Fast':
  return _Fast(library('tokenizers').Tokenizer.from_file(str(path)))


class _Fast:
  """A `tokenizers.Tokenizer`."""

  def __init__(self, tokenizer: Any):
    self._tokenizer = tokenizer
    padding = self._tokenizer.padding
    ids = (self._tokenizer.token_to_id(name) for name in ('[PAD]', '<pad>'))
    self.pad_id = padding['pad_id'] if padding else next((i for i in ids if i is not None), None)
    self.vocab_size = self._tokenizer.get_vocab_size()
    self._tokenizer.no_padding()

  def _encodings(self, texts, pairs, length, special):
    if length is None:
      self._tokenizer.no_truncation()
    else:
      self._tokenizer.enable_truncation(length)
    both = texts if pairs is None else list(zip(texts, pairs))
    return self._tokenizer.encode_batch(both, add_special_tokens=special)

  def encode(self, texts, pairs, length, special):
    return [encoding.ids for encoding in self._encodings(texts, pairs, length, special)]

  def token_types(self, texts, pairs, length):
    types = np.zeros((len(texts), length), np.int32)
    for i, encoding in enumerate(self._encodings(texts, pairs, length, True)):
      types[i, : len(encoding.type_ids)] = encoding.type_ids
    return types

  def decode(self, ids, special):
    return self._tokenizer.decode(ids, skip_special_tokens=not special)


class _SentencePiece:
  """A sentencepiece model; its marks are <s> in front where it has one that T5 has not, and </s> behind."""

  def __init__(self, path: pathlib.Path):
    self._processor = library('sentencepiece').SentencePieceProcessor(model_file=str(path))
    self.pad_id = self._processor.pad_id() if self._processor.pad_id() >= 0 else None
    self.vocab_size = self._processor.vocab_size()

  def encode(self, texts, pairs, length, special):
    if pairs is not None:
      raise ValueError('A sentencepiece model has no template for pairs; join the texts yourself.')
    end = [self._processor.eos_id()] if special and self._processor.eos_id() >= 0 else []
    room = None if length is None else max(length - len(end), 0)
    return [(row[:room] + end)[:length] for row in self._processor.encode(texts)]

  def token_types(self, texts, pairs, length):
    raise ValueError('A sentencepiece model has no token types.')

  def decode(self, ids, special):
    if special:
      return ''.join(self._processor.id_to_piece(ids)).replace('▁', ' ').strip()
    return self._processor.decode([i for i in ids if not self._processor.is_control(i)])


def _find(path: pathlib.Path) -> pathlib.Path:
  if path.is_dir():
    files = [path / 'tokenizer.json', *sorted(path.glob('*.model'))]
    found = next((file for file in files if file.exists()), None)
    if found is None:
      raise FileNotFoundError(f'{path} has neither a tokenizer.json nor a sentencepiece *.model.')
    return found
  if path.suffix not in ('.json', '.model'):
    raise ValueError(f'{path} is no tokenizer; allowed are a tokenizer.json, a sentencepiece *.model, or a directory.')
  if not path.exists():
    raise FileNotFoundError(f'{path} does not exist.')
  return path


def library(name: str) -> Any:
  """A package of the extra `hf`. Raises ImportError with the line that installs it."""
  try:
    return __import__(name)
  except ImportError as error:
    raise ImportError(f"This tokenizer needs the package {name}: pip install 'mtjax[hf]'.") from error
