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
