"""Cross-entropies.

Shapes: B rows (… any leading axes), C classes, K labels of a binary vector.
"""
import jax
import jax.numpy as jnp
import optax


def softmax_xent(outputs: jax.Array, label: jax.Array, label_smoothing: float = 0.0) -> jax.Array:
  """Cross-entropy of one class: -log softmax(outputs)[label].

  Args:
    outputs: logits [..., C].
    label: int [...], 0 … C - 1.
    label_smoothing: a in 0 … 1; the target is (1 - a) * one_hot + a / C (Szegedy et al., CVPR 2016).

  Returns:
    [...] float32.
  """
  if not 0 <= label_smoothing < 1:
    raise ValueError(f'label_smoothing must be in 0 … 1 (exclusive), got {label_smoothing}.')
  outputs = outputs.astype(jnp.float32)
  losses = optax.softmax_cross_entropy_with_integer_labels(outputs, label.astype(jnp.int32))
  if label_smoothing:
    uniform = -jnp.mean(jax.nn.log_softmax(outputs), axis=-1)
    losses = (1 - label_smoothing) * losses + label_smoothing * uniform
  return losses


def soft_xent(outputs: jax.Array, label: jax.Array) -> jax.Array:
  """Cross-entropy of a distribution over the classes: -sum_c label_c log softmax(outputs)_c.

  Args:
    outputs: logits [..., C].
    label: probabilities [..., C].

  Returns:
    [...] float32.
  """
  return -jnp.sum(label.astype(jnp.float32) * jax.nn.log_softmax(outputs.astype(jnp.float32)), axis=-1)


def sigmoid_xent(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """Cross-entropy of independent yes/no labels, the mean over those that are known.

      mean_k  log(1 + exp(-s_k outputs_k)),    s_k = 1 where label_k = 1, else -1

  Args:
    outputs: logits [B] or [B, K].
    label: 0 or 1, of the same shape (fractions are taken as probabilities).
    mask: bool [B, K], the labels that are known; None = all. A row of none has loss 0.

  Returns:
    [B] float32.
  """
  outputs, label = outputs.astype(jnp.float32), label.astype(jnp.float32)
  losses = optax.sigmoid_binary_cross_entropy(outputs, label)
  if losses.ndim == 1:
    return losses if mask is None else jnp.where(mask, losses, 0.0)
  mask = jnp.ones(losses.shape, bool) if mask is None else mask
  return jnp.sum(jnp.where(mask, losses, 0.0), axis=-1) / jnp.maximum(jnp.sum(mask, axis=-1), 1)
