"""Formats: new columns computed from a data set's columns, a batch of rows at a time.

A format is `fn(rows: dict of arrays [N, …]) -> array [N, …]`, with `.columns`, the columns it reads. In a config:
`config.data.format = {'tokens': dict(name='bytes', column='text', length=128)}`.
"""
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

PAD, BOS, EOS, FIRST_BYTE = 0, 1, 2, 3


@dataclasses.dataclass(frozen=True)
class Bytes:
  """Text as bytes: int32 [N, length] of 1 (beginning), byte + 3 …, 2 (end), 0 (padding).

  Args:
    column: a text column, or several, joined by the end mark (sentence pairs).
    length: tokens a row; longer texts are cut, keeping the end mark.
  """

  column: str | Sequence[str]
  length: int

  def __post_init__(self):
    if self.length < 3:
      raise ValueError(f'bytes needs length >= 3 (a mark at both ends and one byte), got {self.length}.')

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that are read."""
    return (self.column,) if isinstance(self.column, str) else tuple(self.column)

  def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Encodes the text of `rows`, each a str or UTF-8 bytes."""
    texts = [rows[name] for name in self.columns]
    out = np.zeros((len(texts[0]), self.length), np.int32)
    for row, parts in enumerate(zip(*texts)):
      ids = [BOS]
      for part in parts:
        ids.extend(byte + FIRST_BYTE for byte in (part.encode() if isinstance(part, str) else part))
        ids.append(EOS)
      if len(ids) > self.length:
        ids = [*ids[: self.length - 1], EOS]
      out[row, : len(ids)] = ids
    return out


def decode_bytes(tokens: np.ndarray) -> str:
  """The text of one row of `Bytes` ids; marks and padding are dropped, undecodable bytes replaced."""
  return bytes(int(t) - FIRST_BYTE for t in tokens if t >= FIRST_BYTE).decode('utf-8', 'replace')


class ByteText:
  """Rows of `Bytes` ids -> texts, as a tokenizer decodes.

  Example:
    >>> ByteText().decode(Bytes('text', length=6)({'text': ['ab', 'cd']}))
    ['ab', 'cd']
  """

  def decode(self, tokens: np.ndarray, mask: np.ndarray | None = None) -> list[str]:
    """tokens [B, L] -> B texts; those with mask [B, L] False do not count."""
    rows = [np.asarray(row) for row in tokens]
    return [decode_bytes(row if mask is None else row[np.asarray(mask[i], bool)]) for i, row in enumerate(rows)]


@dataclasses.dataclass(frozen=True)
class HashedWords:
  """Text as a bag of words and of word n-grams, hashed: float32 [N, features], rows of length 1 (0 of an empty text).

  Weinberger et al., "Feature Hashing for Large Scale Multitask Learning", ICML 2009, https://arxiv.org/abs/0902.2206:
  each n-gram adds its sign (by a second hash) at its hash modulo `features`. Lower case, words of two letters or more.

  Args:
    column: a text column.
    features: width of the row.
    ngrams: the longest run of words that counts as one; 1 = words alone.
  """

  column: str
  features: int = 4096
  ngrams: int = 2

  def __post_init__(self):
    if self.features < 2 or self.ngrams < 1:
      raise ValueError(f'hashed_words needs features >= 2 and ngrams >= 1, got {self.features} and {self.ngrams}.')

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that are read."""
    return (self.column,)

  def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Hashes the text of `rows`, each a str or UTF-8 bytes."""
    from sklearn.feature_extraction.text import HashingVectorizer  # here, because `import mtjax` stays light

    hasher = HashingVectorizer(n_features=self.features, ngram_range=(1, self.ngrams), dtype=np.float32)
    return hasher.transform(list(rows[self.column])).toarray()
