"""A format: what an encoder-decoder is to write, from a template of columns.

    '<|{language}|><|transcribe|><|notimestamps|> {transcript}<|endoftext|>'     (Whisper)

Tokens of the filled template, then -100, which losses and metrics pass over (`mtjax.encoders._pairs`).
"""
import dataclasses
import functools
import string
from collections.abc import Mapping, Sequence

import numpy as np

from mtjax.config import check_keys
from mtjax.data.formats import BOS, EOS, FIRST_BYTE
from mtjax.interop.tokenizers import Tokenizer, local

IGNORED = -100


@dataclasses.dataclass(frozen=True)
class Targets:
  """int32 [N, length] of tokens and, behind them, -100.

  Args:
    template: the text of a row, with columns in braces, and the tokenizer's marks written out where they are wanted.
    path: of the tokenizer, a path or 'fetched:NAME'; 'bytes' = byte + 3, between 1 (beginning) and 2 (end).
    length: tokens a row; longer texts are cut at their end.
    names: {column: what its classes 0, 1, … are called}, of columns that hold classes.

  Example:
    >>> Targets('{word}!', 'bytes', length=6)({'word': ['a', 'bc']}).tolist()
    [[1, 100, 36, 2, -100, -100], [1, 101, 102, 36, 2, -100]]
  """

  template: str
  path: str
  length: int
  names: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    if not isinstance(self.length, int) or self.length < 1 or not self.columns or not all(self.columns):
      raise ValueError(f'targets needs length >= 1 and a template with columns in braces, got {self.length!r} and '
                       f'{self.template!r}.')
    check_keys(self.names, self.columns, 'targets.names')

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that are read."""
    fields = (field for _, field, _, _ in string.Formatter().parse(self.template) if field is not None)
    return tuple(dict.fromkeys(fields))

  def __call__(self, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """Fills the template with each of the rows, and encodes it."""
    columns = [[self._word(name, value) for value in rows[name]] for name in self.columns]
    texts = [self.template.format(**dict(zip(self.columns, words))) for words in zip(*columns)]
    if self.path == 'bytes':
      tokens = [[BOS, *(byte + FIRST_BYTE for byte in text.encode()), EOS][: self.length] for text in texts]
      mask = np.arange(self.length) < np.array([len(row) for row in tokens])[:, None]
      out = np.full(mask.shape, IGNORED, np.int32)
      out[mask] = np.concatenate(tokens)
      return out
    tokens, mask = self._tokenizer(texts, self.length, special=False)
    return np.where(mask, tokens, np.int32(IGNORED))

  @functools.cached_property
  def _tokenizer(self) -> Tokenizer:
    return Tokenizer(local(self.path))

  def _word(self, name: str, value: object) -> str:
    if name in self.names:
      return self.names[name][int(value)]
    return value.decode() if isinstance(value, bytes) else str(value)
