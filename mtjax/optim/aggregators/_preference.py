"""What a user prefers, as a vector over the tasks that take part."""
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from mtjax.optim._checks import check_preference
from mtjax.optim.stacked import equal_shares


def preference_vector(preference: Sequence[float] | None, active: jax.Array, dtype, name: str,
                      default: float | None = None) -> jax.Array:
  """[T], 0 for inactive tasks: the preference as given, not rescaled; without one `default` or equal shares."""
  if preference is not None:
    return jnp.where(active, jnp.asarray(check_preference(preference, name, len(active)), dtype), 0)
  return equal_shares(active, dtype) if default is None else jnp.where(active, default, 0).astype(dtype)
