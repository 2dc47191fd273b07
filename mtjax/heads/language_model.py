"""A language model's output: one of V tokens at each position, from weights of its own or from the embeddings.

Press & Wolf, "Using the Output Embedding to Improve Language Models", EACL 2017, https://arxiv.org/abs/1608.05859
(tied).

    P(token = v at l) = softmax_v(W x_l)       W: the head's, or (tied) the encoder's table of embeddings

For next-token prediction the label column is the tokens that were read, and the loss looks one ahead (the default). For
masked language models and encoder-decoders the label column is what stands at each position (negative = ignored), and
the loss is 'position_xent'; metrics compare position by position in either case.
"""
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base


class LanguageModel(_base.Head):
  """features.tokens [B, L, D] -> logits [B, L, V] float32. Labels: integers [N, L], 0 … V - 1, negative = ignored.

  Parameters: out/kernel [D, V] without bias, behind fc1, …; none with tie=True, where the logits are those that the
  encoder made of its own embeddings, features.aux['logits'].

  Attributes:
    vocab_size: V >= 2.
    tie: whether to take the encoder's logits.
    hidden: widths of layers between the features and the logits (fc1, fc2, …, out).
    dtype: of the hidden layers; the last one is float32.
  """
  kind = 'softmax'
  default_loss = 'next_token_xent'
  default_metrics = ()

  vocab_size: int
  tie: bool = False
  hidden: Sequence[int] = ()
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'vocab_size', minimum=2)
    if self.tie and self.hidden:
      raise ValueError(f'LanguageModel has tie=True and hidden={self.hidden}; allowed is one of the two.')

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    if not self.tie:
      tokens = features.need('tokens', by='LanguageModel').tokens
      return _base.layers(self, tokens, self.vocab_size, use_bias=False)
    logits = features.aux.get('logits')
    if logits is None:
      raise ValueError("LanguageModel with tie=True reads features.aux['logits'], which this encoder does not fill. "
                       'Set logits=True on an encoder that has it, or tie=False here.')
    if logits.ndim != 3 or logits.shape[-1] != self.vocab_size:
      raise ValueError(f"LanguageModel has vocab_size={self.vocab_size}, but features.aux['logits'] has shape "
                       f'{list(logits.shape)}: allowed is [B, L, {self.vocab_size}].')
    return logits.astype(jnp.float32)

  def check_label(self, label: np.ndarray, name: str) -> None:
    _base.check_positions(label, 2, name, f'vocab_size={self.vocab_size}', limit=self.vocab_size)
