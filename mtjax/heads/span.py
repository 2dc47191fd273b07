"""Spans: where in the text the answer begins, and where it ends.

Devlin et al., "BERT", NAACL 2019, section 4.2, https://arxiv.org/abs/1810.04805.

    P(start = l) = softmax_l(s . x_l),   P(end = m) = softmax_m(e . x_m);   answer = argmax_{l <= m} P(l) P(m)
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base


def best_span(outputs: jax.Array, max_length: int | None = None) -> jax.Array:
  """The likeliest pair with start <= end: logits [B, 2, L] -> int32 [B, 2].

  Args:
    outputs: those of `Span`.
    max_length: the most tokens of a span; None = any.

  Example:
    >>> logits = jnp.array([[[0.0, 0.0, 5.0, 0.0], [4.0, 1.0, 0.0, 2.0]]])      # start 2 and end 0 would be likelier
    >>> print(best_span(logits), best_span(logits, max_length=1))
    [[2 3]] [[2 2]]
  """
  length = outputs.shape[-1]
  behind = jnp.arange(length)[None] - jnp.arange(length)[:, None]                     # [L, L]: end - start
  allowed = (behind >= 0) & (behind < (length if max_length is None else max_length))
  scores = jnp.where(allowed[None], outputs[:, 0, :, None] + outputs[:, 1, None, :], -jnp.inf)
  best = jnp.argmax(scores.reshape(len(outputs), -1), axis=-1)
  return jnp.stack([best // length, best % length], axis=-1).astype(jnp.int32)


class Span(_base.Head):
  """features.tokens [B, L, D] -> logits [B, 2, L] float32 of start and end. Labels: integers [N, 2], 0 … L - 1.

  Where features.mask is False a logit is -1e9: no answer begins or ends in padding.

  Attributes:
    hidden: widths of layers between the features and the logits (fc1, fc2, …, out).
    dtype: of the hidden layers; the last one is float32.
  """
  kind = 'softmax'
  default_loss = 'position_xent'
  default_metrics = ('accuracy', 'log_loss')

  hidden: Sequence[int] = ()
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_hidden(self)

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    logits = _base.layers(self, features.need('tokens', by='Span').tokens, 2).transpose(0, 2, 1)
    return logits if features.mask is None else jnp.where(features.mask[:, None], logits, -1e9)

  def check_label(self, label: np.ndarray, name: str) -> None:
    label, setting = np.asarray(label), 'a start and an end'
    _base.check_shape(label, (2,), name, setting)
    _base.check_positions(label, 2, name, setting)
    _base.check_entries(label[:, 0], (label[:, 0] <= label[:, 1]) | (label < 0).any(1), name, setting,
                        'starts that are not behind their end', verb='has the starts')
