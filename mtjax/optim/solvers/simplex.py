"""Euclidean projection onto the probability simplex, by sorting.

Held, Wolfe & Crowder, "Validation of subgradient optimization", Mathematical Programming 6, 1974,
https://doi.org/10.1007/BF01580223.

    P(v) = argmin_{w >= 0, sum(w) = 1} ||w - v||^2 = max(v - theta, 0)
    theta = (v_1 + ... + v_k - 1) / k,   v sorted decreasingly, k the largest with v_k > theta

v, w: [T].
"""
import jax
import jax.numpy as jnp


def project_simplex(v: jax.Array, active: jax.Array | None = None) -> jax.Array:
  """v [T] -> w [T]; with `active` [T] bool the projection of those entries alone, 0 elsewhere (everywhere if none is).

  Example:
    >>> print(project_simplex(jnp.array([1.2, 0.1, -0.4])))
    [1. 0. 0.]
  """
  active = jnp.ones(v.shape, bool) if active is None else active
  # The projection does not see a common shift, and no entry that lies 1 or more below the largest: with both taken
  # out, the 1 of the constraint is not lost beside large numbers.
  v = jnp.clip(jnp.where(active, v - jnp.max(v, where=active, initial=-jnp.inf), -1), -1, 0)
  ordered = -jnp.sort(-v)
  thetas = (jnp.cumsum(ordered) - 1) / jnp.arange(1, len(v) + 1, dtype=v.dtype)
  k = jnp.sum(ordered > thetas)
  return jnp.where(active, jnp.maximum(v - thetas[k - 1], 0), 0)
