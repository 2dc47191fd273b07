"""Euclidean projection onto the probability simplex.

Held, Wolfe & Crowder, "Validation of subgradient optimization", Mathematical Programming 6, 1974,
https://doi.org/10.1007/BF01580223.

    P(v) = argmin_{w >= 0, sum(w) = 1} ||w - v||^2 = max(v - theta, 0),   theta such that the sum is 1

v, w: [T]. Sorted decreasingly, theta = (v_1 + ... + v_k - 1) / k for the largest k with v_k > theta_k.
"""
import jax
import jax.numpy as jnp


def project_simplex(v: jax.Array, active: jax.Array | None = None) -> jax.Array:
  """v [T] -> w [T]; with a mask, the projection of the active entries, 0 for the others (and for all if none is)."""
  active = jnp.ones(v.shape, bool) if active is None else active
  v = jnp.where(active, v, -jnp.inf)
  v = v - jnp.where(active.any(), v.max(), 0)      # the projection does not see a shift; large values would lose the 1
  ordered = -jnp.sort(-v)
  finite = jnp.isfinite(ordered)
  ranks = jnp.arange(1, v.shape[0] + 1, dtype=v.dtype)
  thetas = (jnp.cumsum(jnp.where(finite, ordered, 0)) - 1) / ranks
  last = jnp.maximum(jnp.sum(finite & (ordered > thetas)) - 1, 0)
  return jnp.where(active, jnp.maximum(v - thetas[last], 0), 0)
