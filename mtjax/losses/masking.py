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


def row_mean(values: jax.Array, valid: jax.Array) -> jax.Array:
  """The mean over the valid entries of each row: [B, …], bool [B, …] -> [B]; 0 for a row without any.

  What is not valid may be anything finite; make it so before (`sanitise`), for the sake of gradients.
  """
  values = jnp.where(valid, values, 0.0).reshape(len(values), -1)
  return values.sum(axis=-1) / jnp.maximum(valid.reshape(len(values), -1).sum(axis=-1), 1)


def valid_entries(known: jax.Array, mask: jax.Array | None) -> jax.Array:
  """`known` (bool, of the shape of the entries) and the mask [B] or [B, …]; a mask of more axes counts where all do."""
  if mask is None:
    return known
  if mask.ndim > known.ndim:
    mask = mask.all(tuple(range(known.ndim, mask.ndim)))
  return known & mask.reshape(*mask.shape, *[1] * (known.ndim - mask.ndim))
