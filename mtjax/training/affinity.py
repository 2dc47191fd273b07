"""What task gradients say of each other: lookahead affinity, magnitudes, conflict.

TAG: Fifty et al., "Efficiently Identifying Task Groupings for Multi-Task Learning", NeurIPS 2021,
https://arxiv.org/abs/2109.04617, equation 2. Gradient magnitude similarity and the curvature measure: Yu et al.,
"Gradient Surgery for Multi-Task Learning" (PCGrad), NeurIPS 2020, https://arxiv.org/abs/2001.06782.

    affinity       Z[i, j] = 1 - L_j(theta + u_i, phi_j) / L_j(theta, phi_j),   u_i the update from g_i alone
    cosine         C[i, j] = g_i . g_j / (||g_i|| ||g_j||)
    magnitude      GMS[i, j] = 2 ||g_i|| ||g_j|| / (||g_i||^2 + ||g_j||^2)
    conflict       share of pairs i < j with C[i, j] < threshold
    curvature      xi[i, j] = (1 - C[i, j]^2) ||g_i - g_j||^2 / ||g_i + g_j||^2
    condition      lambda_max / lambda_min of G = J J^T

theta: the shared parameters, phi_j those of task j's own, which stay. G: [T, T]; T tasks. All but the affinity need G
alone; leading axes, such as steps, stay. Gradients and G in float32: bf16 changes the sign of small products.
Unlike the paper's code, which steps by plain SGD, the update may be the optimizer's own.
"""
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

Tree = Any
THRESHOLDS = (0.0, -0.02, -0.1, -0.3, -0.6)


def affinity(losses: Callable[[Tree], jax.Array], shared: Tree, update: Callable[[Tree], Tree]) -> jax.Array:
  """Z, [from, to]; average it over steps. Costs T backward and T + 1 forward passes, one task at a time.

  Args:
    losses: shared parameters -> [T], of one batch; the tasks' own parameters are closed over.
    shared: theta.
    update: gradient -> what is added to theta: `lambda g: tx.update(g, opt_state, shared)[0]`; see also `sgd`.

  Returns:
    [T, T] float32; NaN in the columns of tasks whose loss is 0.

  Example:
    >>> c = jnp.array([1.0, -1.0])
    >>> z = affinity(lambda theta: 0.5 * (theta - c) ** 2, jnp.zeros(()), sgd(0.1))
    >>> [[round(float(x), 2) for x in row] for row in z]
    [[0.19, -0.21], [-0.21, 0.19]]
  """
  before, pull = jax.vjp(losses, shared)
  if before.ndim != 1:
    raise ValueError(f'losses must give one number a task, [T]; got shape {before.shape}.')

  def lookahead(seed):
    moved = jax.tree.map(lambda x, change: x + change.astype(x.dtype), shared, update(pull(seed)[0]))
    return losses(moved)

  after = jax.lax.map(lookahead, jnp.eye(len(before), dtype=before.dtype)).astype(jnp.float32)  # [T, T]
  before = before.astype(jnp.float32)[None]
  return jnp.where(before == 0, jnp.nan, 1 - after / jnp.where(before == 0, 1, before))


def sgd(eta: float) -> Callable[[Tree], Tree]:
  """The paper's update, -eta g."""
  if not eta > 0:
    raise ValueError(f'eta must be > 0, got {eta!r}.')
  return lambda gradient: jax.tree.map(lambda g: -eta * g, gradient)


def norms(gram: jax.Array) -> jax.Array:
  """||g_t||: [..., T, T] -> [..., T]."""
  return jnp.sqrt(jnp.maximum(jnp.diagonal(gram, axis1=-2, axis2=-1), 0))


def norm_share(gram: jax.Array) -> jax.Array:
  """||g_t|| / sum ||g||: [..., T, T] -> [..., T]; equal shares where all are 0."""
  own = norms(gram)
  total = jnp.sum(own, -1, keepdims=True)
  return jnp.where(total > 0, own / jnp.where(total > 0, total, 1), 1 / own.shape[-1])


def cosines(gram: jax.Array) -> jax.Array:
  """C: [..., T, T] -> [..., T, T]; 0 where a gradient is 0.

  Example:
    >>> jac = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> print(f'{cosines(jac @ jac.T)[0, 1]:.4f}')
    -0.7071
  """
  own = norms(gram)
  products = own[..., :, None] * own[..., None, :]
  return jnp.where(products > 0, gram / jnp.where(products > 0, products, 1), 0)


def magnitude_similarity(gram: jax.Array) -> jax.Array:
  """GMS, 1 for equal lengths and towards 0 for unequal ones: [..., T, T] -> [..., T, T].

  Example:
    >>> jac = jnp.array([[1.0, 0.0], [-1.0, 1.0]])
    >>> print(f'{magnitude_similarity(jac @ jac.T)[0, 1]:.4f}')
    0.9428
  """
  own = norms(gram)
  longer = jnp.maximum(own[..., :, None], own[..., None, :])
  ratio = jnp.minimum(own[..., :, None], own[..., None, :]) / jnp.where(longer > 0, longer, 1)
  return jnp.where(longer > 0, 2 * ratio / (1 + ratio ** 2), 1)  # by the ratio: squares would under- and overflow


def conflict_rate(gram: jax.Array, thresholds: Sequence[float] = THRESHOLDS) -> jax.Array:
  """The share of pairs, over all leading axes, whose cosine is below each threshold: [..., T, T] -> [K].

  Pairs with a gradient of 0 are left out; without any pair the rate is 0.

  Example:
    >>> jac = jnp.array([[1.0, 0.0], [-1.0, 1.0], [1.0, 1.0]])
    >>> [round(float(x), 4) for x in conflict_rate(jac @ jac.T, [0.0, -0.8])]
    [0.3333, 0.0]
  """
  if any(not -1 <= x <= 1 for x in thresholds):
    raise ValueError(f'thresholds are cosines in [-1, 1], got {tuple(thresholds)}.')
  own = norms(gram)
  found = jnp.triu((own[..., :, None] > 0) & (own[..., None, :] > 0), 1)
  cosine = cosines(gram)
  below = jnp.stack([jnp.sum(found & (cosine < x)) for x in thresholds])
  return below / jnp.maximum(jnp.sum(found), 1)


def curvature_measure(gram: jax.Array) -> jax.Array:
  """xi: [..., T, T] -> [..., T, T]; infinite where gradients cancel but for rounding, 0 on the diagonal."""
  squares = jnp.diagonal(gram, axis1=-2, axis2=-1)
  both = squares[..., :, None] + squares[..., None, :]
  apart, together = jnp.maximum(both - 2 * gram, 0), jnp.maximum(both + 2 * gram, 0)
  turn = jnp.maximum(1 - cosines(gram) ** 2, 0)
  off = ~jnp.eye(gram.shape[-1], dtype=bool)
  value = jnp.where(together > 0, turn * apart / jnp.where(together > 0, together, 1), jnp.inf)
  return jnp.where(jnp.broadcast_to(off, gram.shape), value, 0)


def condition_number(gram: jax.Array) -> jax.Array:
  """lambda_max / lambda_min of G: [..., T, T] -> [...]; infinite where G is singular to rounding."""
  values = jnp.linalg.eigvalsh(gram)
  low, high = values[..., 0], values[..., -1]
  regular = low > high * gram.shape[-1] * jnp.finfo(gram.dtype).eps
  return jnp.where(regular, high / jnp.where(regular, low, 1), jnp.inf)
