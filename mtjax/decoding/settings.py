"""How the texts of a task are written, where its metrics compare texts."""
import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from mtjax.config import check_keys

# What `generate` may be told besides; what it reads is said by `Generation`.
OPTIONS = ('method', 'num_beams', 'length_penalty', 'early_stopping', 'stop_tokens', 'pad_id', 'suppress_tokens',
           'begin_suppress_tokens')


class Decodes(Protocol):
  """Rows of tokens -> texts, as `mtjax.interop.Tokenizer` does it."""

  def decode(self, tokens: Any, mask: Any = None) -> list[str]:
    ...


@dataclasses.dataclass(frozen=True)
class Generation:
  """Settings of `mtjax.decoding.generate`, and what it reads of a batch.

  An encoder-decoder reads its inputs and begins with `start_id` and the first `prefix` tokens of the label; a decoder
  goes on from the tokens in the column `prompts`. What follows is decoded to text, without marks, and compared with the
  text of the label's other tokens (or of the column `references`).

  Attributes:
    tokenizer: makes texts of tokens.
    max_new_tokens: how many are written at most.
    prefix: of an encoder-decoder, how many tokens of the label are given (Whisper: 3, language, task, no timestamps).
    prompts: of a decoder, the column of prompts [B, P], padding negative or masked; of an encoder-decoder, a column
      [B, P'] that it begins with in place of start_id and prefix.
    references: a column of tokens [B, L]; None = the label.
    limit: how many rows are written of each split but 'test'; None = all. Of the test split all are.
    options: more of `generate`: method, num_beams, length_penalty, early_stopping, stop_tokens, pad_id,
      suppress_tokens, begin_suppress_tokens.
  """

  tokenizer: Decodes
  max_new_tokens: int
  prefix: int = 0
  prompts: str | None = None
  references: str | None = None
  limit: int | None = None
  options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    for field, low in (('max_new_tokens', 1), ('prefix', 0), ('limit', 1)):
      value = getattr(self, field)
      if not (field == 'limit' and value is None) and (
          not isinstance(value, int) or isinstance(value, bool) or value < low):
        raise ValueError(f"generation has {field}={value!r}; allowed is an integer >= {low}"
                         f"{' or None' if field == 'limit' else ''}.")
    if self.prefix and self.prompts:
      raise ValueError(f'generation has prefix={self.prefix} and prompts={self.prompts!r}; allowed is one of the two.')
    check_keys(self.options, OPTIONS, 'generation')

  @property
  def columns(self) -> tuple[str, ...]:
    """The columns that are read besides inputs and label."""
    return tuple(name for name in (self.prompts, self.references) if name)

  def rows(self, split: str) -> float:
    """How many rows of a split are written."""
    return np.inf if self.limit is None or split == 'test' else self.limit
