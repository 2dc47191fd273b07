"""GradDrop: where the tasks' gradients disagree in sign, one sign is drawn and the others dropped.

Chen, Ngiam, Huang, Luong, Kretzschmar, Chai & Anguelov, "Just Pick a Sign: Optimizing Deep Multitask Models with
Gradient Sign Dropout", NeurIPS 2020, https://arxiv.org/abs/2010.06808.

    P = 1/2 (1 + sum_t g_t / sum_t |g_t|)        (1/2 where the sum is 0),    U ~ Uniform(0, 1)
    mask_t = [P > U and g_t > 0] or [P <= U and g_t < 0],    d = sum_t (l_t + (1 - l_t) mask_t) g_t

all elementwise. g: leaves [T, *shape]; l: [T], the leak.
Differs from the paper: P <= U in place of P < U, so that a draw of exactly 0 does not drop what all tasks agree on.

per='element': one P and one U for each parameter.
per='feature', as in the paper: g_t = dl_t/dz at a shared representation z [N, *features] (batch first), and P, U and
mask are those of sum_n sign(z_n) g_tn, one a feature, shared by the rows of the batch. The transform is then marked
`at='features'` and takes z for its `params`.
"""
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.optim import base
from mtjax.optim._checks import check_choice, check_number


class GradDropState(NamedTuple):
  """count: int32, the steps done; the draws depend on the seed and on it."""
  count: jax.Array


def positive_share(g: jax.Array) -> jax.Array:
  """P of g [T, ...], over the first axis; exactly 1 or 0 where all signs agree."""
  positive, negative = jnp.maximum(g, 0).sum(0), jnp.maximum(-g, 0).sum(0)
  total = positive + negative
  return jnp.where(total > 0, positive / jnp.where(total > 0, total, 1), 0.5)


def sign_mask(g: jax.Array, uniform: jax.Array) -> jax.Array:
  """g [T, ...], uniform [...] in [0, 1) -> bool [T, ...]: what is kept."""
  upwards = (positive_share(g) > uniform)[None]
  return jnp.where(upwards, g > 0, g < 0)


def drop_signs(g: jax.Array, uniform: jax.Array, leak: jax.Array, z: jax.Array | None = None) -> jax.Array:
  """d [...] of g [T, ...] and leak [T]; with z of the shape of d, one mask for all rows of its first axis."""
  if z is None:
    mask = sign_mask(g, uniform)
  else:
    mask = sign_mask((jnp.sign(z)[None] * g).sum(1), uniform)[:, None]
  leak = leak.reshape(-1, *[1] * (g.ndim - 1))
  return (jnp.where(mask, 1, leak) * g).sum(0)


def graddrop(leak: float | Sequence[float] = 0.0, per: str = 'element', seed: int = 0) -> base.Aggregator:
  """GradDrop as an optax transform of stacked gradients (or representation gradients).

  Args:
    leak: share of the gradient that passes whatever its sign, in 0 ... 1; one number, or one a task.
    per: 'element' or 'feature'.
    seed: of the draws.

  Example:
    >>> tx = optax.chain(mtjax.optim.graddrop(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[1., 2, -3], [1, -2, -3]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(abs(updates['w']))
    [2. 2. 6.]
  """
  leaks = tuple(leak) if isinstance(leak, Sequence) else (leak,)
  for value in leaks:
    check_number(value, 'graddrop', 'leak', 0, 1)
  check_choice(per, 'graddrop', 'per', ('element', 'feature'))

  def init(params, num_tasks):
    return GradDropState(jnp.zeros((), jnp.int32))

  def aggregate(jac, state, info):
    num_tasks = info.num_tasks
    if len(leaks) not in (1, num_tasks):
      raise ValueError(f'graddrop: leak has {len(leaks)} entries {list(leaks)}, but there are {num_tasks} tasks.')
    if per == 'feature' and info.params is None:
      raise ValueError("graddrop(per='feature') reads the signs of the representation: pass it as params to update.")
    key = base.step_key(info, seed, state.count)

    def leaf_update(path, g, z=None):
      kind = jnp.promote_types(g.dtype, jnp.float32)
      shape = g.shape[1:] if z is None else g.shape[2:]
      uniform = jax.random.uniform(jax.random.fold_in(key, zlib.crc32(path.encode())), shape, kind)
      d = drop_signs(g.astype(kind), uniform, jnp.broadcast_to(jnp.asarray(leaks, kind), num_tasks), z)
      return d.astype(g.dtype)

    rest = (info.params,) if per == 'feature' else ()
    return tree.map_with_path(leaf_update, jac, *rest), None, GradDropState(state.count + 1)

  tx = base.from_jacobian(aggregate, name='graddrop', init=init)
  tx.at = 'features' if per == 'feature' else 'parameters'
  return tx
