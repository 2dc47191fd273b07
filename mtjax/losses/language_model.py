"""The loss of a language model: each token from those before it.

    loss_b = mean over t of  -log p(x_{t+1} | x_1 … x_t),      p = softmax(outputs_t)

over the t for which x_t and x_{t+1} are valid and, in packed rows, of one segment. exp of the loss is the perplexity.
"""
import jax
import jax.numpy as jnp

from mtjax.losses.positions import position_xent


def next_tokens(tokens: jax.Array, mask: jax.Array | None = None, segment_ids: jax.Array | None = None) -> jax.Array:
  """What each position is to predict: int [B, L], -1 = nothing.

  Args:
    tokens: int [B, L]; negative = no token.
    mask: bool [B, L], the tokens that are not padding; None = all.
    segment_ids: int [B, L] of packed rows, 0 = padding; None = one segment a row.

  Example:
    >>> print(next_tokens(jnp.array([[5, 6, 7, 8]]), segment_ids=jnp.array([[1, 1, 2, 2]])))
    [[ 6 -1  8 -1]]
  """
  valid = tokens >= 0 if mask is None else (tokens >= 0) & mask
  follows = valid[:, :-1] & valid[:, 1:]
  if segment_ids is not None:
    follows = follows & (segment_ids[:, :-1] == segment_ids[:, 1:]) & (segment_ids[:, 1:] > 0)
  return jnp.pad(jnp.where(follows, tokens[:, 1:], -1), [(0, 0), (0, 1)], constant_values=-1)


def next_token_xent(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None,
                    label_smoothing: float = 0.0) -> jax.Array:
  """The loss of a language model on rows of one segment, whose labels are the tokens themselves.

  Args:
    outputs: logits [B, L, V]; position t speaks of the token at t + 1.
    label: int [B, L], the tokens that were read.
    mask: bool [B, L], the tokens that are not padding; None = all that are >= 0.
    label_smoothing: as in `softmax_xent`.

  Returns:
    [B] float32.
  """
  return position_xent(outputs, next_tokens(label, mask), label_smoothing=label_smoothing)
