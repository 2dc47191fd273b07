"""Masked labels, made harmless before a loss sees them."""
import jax
import jax.numpy as jnp


def sanitise(label: jax.Array, mask: jax.Array) -> jax.Array:
  """Labels with zeros where `mask` is False, so that garbage there (NaN, -1) gives finite losses and gradients.

  Multiplying a loss by a zero weight is not enough: 0 * NaN is NaN, in the backward pass too.

  Args:
    label: [B, …].
    mask: bool, [B] or of the shape of `label`.
  """
  label = jnp.asarray(label)
  mask = jnp.reshape(mask, (*mask.shape, *[1] * (label.ndim - mask.ndim)))
  return jnp.where(mask, label, jnp.zeros((), label.dtype))
