"""Errors of numbers, averaged over the numbers of a row.

Shapes: outputs and label [B] or [B, K]; mask, bool of that shape, says which numbers are known (None = all).
"""
import jax
import jax.numpy as jnp
import optax


def mse(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """Squared error, (outputs - label)^2, the mean over known numbers -> [B] float32."""
  return _mean(jnp.square(_error(outputs, label)), mask)


def mae(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """Absolute error, |outputs - label|, the mean over known numbers -> [B] float32."""
  return _mean(jnp.abs(_error(outputs, label)), mask)


def huber(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None, delta: float = 1.0) -> jax.Array:
  """Huber's loss: e^2 / 2 for |e| <= delta, delta (|e| - delta / 2) beyond; the mean over known numbers -> [B] float32.

  Huber, "Robust Estimation of a Location Parameter", Annals of Mathematical Statistics 35, 1964.
  """
  if not delta > 0:
    raise ValueError(f'huber needs delta > 0, got {delta}.')
  return _mean(optax.huber_loss(_error(outputs, label), delta=delta), mask)


def _error(outputs: jax.Array, label: jax.Array) -> jax.Array:
  if outputs.shape != label.shape:
    raise ValueError(f'Outputs have shape {list(outputs.shape)}, but labels {list(label.shape)}; they must agree.')
  return outputs.astype(jnp.float32) - label.astype(jnp.float32)


def _mean(errors: jax.Array, mask: jax.Array | None) -> jax.Array:
  """[B, …] -> [B], over the known entries of each row; a row of none gives 0."""
  if mask is None:
    return errors.reshape(len(errors), -1).mean(axis=-1) if errors.ndim > 1 else errors
  errors = jnp.where(mask, errors, 0.0).reshape(len(errors), -1)
  return errors.sum(axis=-1) / jnp.maximum(mask.reshape(len(mask), -1).sum(axis=-1), 1)
