"""What a head's raw outputs say: probabilities and predictions, by the head's kind.

  kind       outputs                           probabilities                     prediction
  softmax    logits [..., C]                   softmax, [..., C]                 argmax
  sigmoid    logits [...] or [..., K]          sigmoid, same shape               > 1/2
  ordinal    log-odds of y > k, [..., C - 1]   of each class, [..., C]           argmax
  identity   numbers                           -                                 the numbers
  text       strings, on the host              -                                 the strings
"""
import jax
import jax.numpy as jnp

from mtjax.losses.ordinal import log_probabilities

KINDS = ('softmax', 'sigmoid', 'ordinal', 'identity')


def check_kind(kind: str, allowed: tuple[str, ...], metric: str) -> None:
  """Raises ValueError unless `metric` can be computed for heads of this kind."""
  if kind not in allowed:
    raise ValueError(f'The metric {metric!r} is for heads of kind {", ".join(map(repr, allowed))}, got {kind!r}.')


def probabilities(outputs: jax.Array, kind: str) -> jax.Array:
  """Outputs -> probabilities, float32; see the table above."""
  check_kind(kind, KINDS[:3], 'probabilities')
  outputs = jnp.asarray(outputs, jnp.float32)
  if kind == 'softmax':
    return jax.nn.softmax(outputs)
  return jax.nn.sigmoid(outputs) if kind == 'sigmoid' else jnp.exp(log_probabilities(outputs))


def predictions(outputs: jax.Array, kind: str) -> jax.Array:
  """Outputs -> predictions: int32 classes or labels, or the numbers themselves; see the table above."""
  check_kind(kind, KINDS, 'predictions')
  outputs = jnp.asarray(outputs, jnp.float32)
  if kind == 'identity':
    return outputs
  if kind == 'sigmoid':
    return (outputs > 0).astype(jnp.int32)
  return jnp.argmax(outputs if kind == 'softmax' else log_probabilities(outputs), axis=-1).astype(jnp.int32)
