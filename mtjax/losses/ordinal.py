"""The likelihood of an ordered class under cumulative links.

McCullagh, "Regression Models for Ordinal Data", Journal of the Royal Statistical Society B 42, 1980.

    P(y > k) = sigmoid(o_k),  o_0 > o_1 > … > o_{C-2};     P(y = c) = sigmoid(o_{c-1}) - sigmoid(o_c)

with o_{-1} = inf and o_{C-1} = -inf. For a > b:  sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - exp(b - a)),
whose logarithm is finite, with finite gradients, however large the log-odds.
"""
import jax
import jax.numpy as jnp

_MIN_GAP = 1e-6


def log_probabilities(outputs: jax.Array) -> jax.Array:
  """log P(y = c): log-odds [..., C - 1] that decrease -> [..., C] float32."""
  outputs = outputs.astype(jnp.float32)
  above = jax.nn.log_sigmoid(outputs)       # log P(y > k)
  below = jax.nn.log_sigmoid(-outputs)      # log P(y <= k)
  gap = jnp.maximum(outputs[..., :-1] - outputs[..., 1:], _MIN_GAP)
  middle = above[..., :-1] + below[..., 1:] + jnp.log(-jnp.expm1(-gap))
  return jnp.concatenate([below[..., :1], middle, above[..., -1:]], axis=-1)


def ordinal_nll(outputs: jax.Array, label: jax.Array) -> jax.Array:
  """-log P(y = label).

  Args:
    outputs: log-odds of y > k, [..., C - 1], decreasing in k.
    label: int [...], 0 … C - 1.

  Returns:
    [...] float32.
  """
  chosen = jax.nn.one_hot(label, outputs.shape[-1] + 1)
  return -jnp.sum(chosen * log_probabilities(outputs), axis=-1)
