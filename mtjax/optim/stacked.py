"""Linear algebra over stacked trees, with tasks that may be absent.

`jac`: a tree whose leaves are [T, *shape]. active: [T] bool, None = all.
"""
from typing import Any

import jax
import jax.numpy as jnp

_CHUNK = 8192


def gramian(jac: Any, active: jax.Array | None = None) -> jax.Array:
  """G = J J^T [T, T], summed leaf by leaf, in float32 or more. Rows and columns of inactive tasks are 0."""
  gram = cross_gramian(jac, jac, active)
  return 0.5 * (gram + gram.T)


def cross_gramian(jac: Any, other: Any, active: jax.Array | None = None) -> jax.Array:
  """A = J_1 J_2^T [T, T] of two stacks of the same tasks, as `gramian`; symmetric only in expectation.

  Leaves are contracted over all their own axes as they lie: to flatten one that is sharded would gather it. Where there
  is but one device they are flattened, for products over several axes are slow on a CPU.
  """
  def leaf_products(x, y):
    if jax.device_count() == 1:
      x, y = x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1)
      if x.shape[1] >= 2 * _CHUNK and jax.default_backend() == 'cpu':
        return _chunked_products(x, y)
    axes = tuple(range(1, x.ndim))
    return jax.lax.dot_general(x, y, ((axes, axes), ((), ())), precision=jax.lax.Precision.HIGHEST,
                               preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))

  return sum(jax.tree.leaves(jax.tree.map(leaf_products, mask_rows(jac, active), mask_rows(other, active))))


def _chunked_products(x: jax.Array, y: jax.Array) -> jax.Array:
  """x y^T of [T, P] by pieces that fit a cache: XLA's CPU kernel for few and very long rows is five times slower."""
  def partial(start, size):
    rows = [jax.lax.dynamic_slice_in_dim(z, start, size, 1) for z in (x, y)]
    return jnp.matmul(rows[0], rows[1].T, precision=jax.lax.Precision.HIGHEST,
                      preferred_element_type=jnp.promote_types(x.dtype, jnp.float32))

  whole, rest = divmod(x.shape[1], _CHUNK)
  total = jax.lax.fori_loop(0, whole, lambda i, total: total + partial(i * _CHUNK, _CHUNK),
                            jnp.zeros((x.shape[0], y.shape[0]), jnp.promote_types(x.dtype, jnp.float32)))
  return total + partial(whole * _CHUNK, rest) if rest else total


def combine(jac: Any, w: jax.Array) -> Any:
  """d = J^T w: leaves [T, *shape] -> [*shape], in the dtype of the leaf."""
  def leaf_sum(leaf):
    kind = jnp.promote_types(leaf.dtype, jnp.float32)
    d = jax.lax.dot_general(w.astype(kind), leaf.astype(kind), (((0,), (0,)), ((), ())),
                            precision=jax.lax.Precision.HIGHEST)
    return d.astype(leaf.dtype)

  return jax.tree.map(leaf_sum, jac)


def combine_finite(jac: Any, w: jax.Array) -> Any:
  """As `combine`, but rows with w_t = 0 count as 0 whatever they hold, NaN too. Row by row: slower, no copy of J."""
  def leaf_sum(leaf):
    kind = jnp.promote_types(leaf.dtype, jnp.float32)
    add = lambda t, d: d + jnp.where(w[t] == 0, 0, w[t].astype(kind) * leaf[t].astype(kind))
    return jax.lax.fori_loop(0, leaf.shape[0], add, jnp.zeros(leaf.shape[1:], kind)).astype(leaf.dtype)

  return jax.tree.map(leaf_sum, jac)


def mask_rows(jac: Any, active: jax.Array | None) -> Any:
  """Zeros in the rows of inactive tasks, whatever stood there (also NaN)."""
  if active is None:
    return jac
  return jax.tree.map(lambda x: jnp.where(active.reshape(-1, *[1] * (x.ndim - 1)), x, jnp.zeros((), x.dtype)), jac)


def blend_rows(old: Any, new: Any, rate: jax.Array, active: jax.Array) -> Any:
  """(1 - rate) old + rate new in the rows of active tasks, `old` in the others; in the dtype of `old`."""
  def leaf_blend(x, y):
    share = rate.astype(x.dtype)
    return jnp.where(active.reshape(-1, *[1] * (x.ndim - 1)), (1 - share) * x + share * y.astype(x.dtype), x)

  return jax.tree.map(leaf_blend, old, new)


def scale_rows(jac: Any, factors: jax.Array) -> Any:
  """diag(factors) J, in float32 or more."""
  def leaf_scale(x):
    kind = jnp.promote_types(x.dtype, jnp.float32)
    return x.astype(kind) * factors.astype(kind).reshape(-1, *[1] * (x.ndim - 1))

  return jax.tree.map(leaf_scale, jac)


def zero_rows(params: Any, num_tasks: int) -> Any:
  """A stack of zeros for T tasks, in float32 or more: leaves [*shape] -> [T, *shape]."""
  return jax.tree.map(lambda x: jnp.zeros((num_tasks, *jnp.shape(x)), jnp.result_type(x, jnp.float32)), params)


def cast_like(update: Any, jac: Any) -> Any:
  """The update in the dtypes of the gradients."""
  return jax.tree.map(lambda d, g: d.astype(g.dtype), update, jac)


def drop_inactive(gram: jax.Array, active: jax.Array, diagonal: float = 1.0) -> jax.Array:
  """G with the rows and columns of inactive tasks 0 and `diagonal` on their diagonal.

  It is invertible if the rest is, and what is solved on it splits into the active part and a harmless rest.
  """
  both = active[:, None] & active[None, :]
  return jnp.where(both, gram, 0) + jnp.diag(jnp.where(active, 0, diagonal).astype(gram.dtype))


def equal_shares(active: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
  """1 / (number of active tasks) for each of them, [T]."""
  active = active.astype(dtype)
  return active / jnp.maximum(active.sum(), 1)


def shares(preference: jax.Array | None, active: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
  """Preferences of the active tasks, scaled to sum 1; equal shares where `preference` is None.  [T]"""
  if preference is None:
    return equal_shares(active, dtype)
  chosen = jnp.where(active, jnp.asarray(preference, dtype), 0)
  return chosen / jnp.maximum(chosen.sum(), jnp.finfo(dtype).tiny)
