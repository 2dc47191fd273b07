"""RotoGrad: the tasks' gradients at a shared representation brought to one length, and turned towards each other.

Javaloy & Valera, "RotoGrad: Gradient Homogenization in Multitask Learning", ICLR 2022,
https://arxiv.org/abs/2103.02631.

Lengths. u_t = dl_t/dz [N, p], n_t = ||u_t||, n0_t its value at step 0 and, after a burn-in, at step 20:

    kappa_t = (n_t / n0_t) / sum_j (n_j / n0_j),    d_z = sum_t u_t / n_t * sum_j kappa_j n_j

which is a Gramian weighting, w_t = sum_j kappa_j n_j / n_t, on gradients taken at the representation.

Directions. Head t reads R_t z (`mtjax.heads.Rotated`), R_t orthogonal, a constant to the task's loss. With
c_t = dl_t/d(R_t z), so u_t = R_t^T c_t, and the mean g = d_z / T of the rescaled u_t,

    min_{A_t} mean_n ||R_t g_n - c_tn||^2,    R_t = (I - S/2)^{-1} (I + S/2),  S = A_t - A_t^T

A_t: [m, m], 0 at first (R = I), turns the leading m <= p features. It is to be trained more slowly than the model.
Differs from the authors' code: Cayley's map in place of the matrix exponential, with which it agrees to second order;
an absent task, or one without a gradient, counts its steps 0 and 20 when it comes.
"""
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim._checks import check_count
from mtjax.optim.stacked import drop_inactive


class RotogradState(NamedTuple):
  """Where the lengths started.

  Attributes:
    initial: n0 [T], 0 while unknown.
    count: [T] int32, the steps that each task took part in.
  """
  initial: jax.Array
  count: jax.Array


def rotograd_weights(norms: jax.Array, initial: jax.Array) -> jax.Array:
  """n [T], n0 [T] -> w [T]; a length of 0 has weight 0."""
  known = (norms > 0) & (initial > 0)
  ratios = jnp.where(known, norms / jnp.where(known, initial, 1), 0)
  kappa = ratios / jnp.where(known.any(), ratios.sum(), 1)
  return jnp.where(known, jnp.sum(kappa * norms) / jnp.where(known, norms, 1), 0)


def cayley(a: jax.Array) -> jax.Array:
  """A rotation of any a [m, m]: [m, m], orthogonal, I at a = 0."""
  half = 0.5 * (a - a.T)
  eye = jnp.eye(len(a), dtype=a.dtype)
  return jnp.linalg.solve(eye - half, eye + half)


def rotate(rotation: jax.Array, x: jax.Array) -> jax.Array:
  """rotation [m, m], x [..., p] -> [..., p]: its leading m features turned, the others as they are."""
  size = len(rotation)
  turned = jnp.einsum('ij,...j->...i', rotation, x[..., :size].astype(rotation.dtype),
                      precision=jax.lax.Precision.HIGHEST)
  return jnp.concatenate([turned.astype(x.dtype), x[..., size:]], axis=-1)


def rotation_loss(a: jax.Array, mean_cotangent: jax.Array, cotangent: jax.Array) -> jax.Array:
  """mean_n ||R g_n - c_n||^2, R = cayley(a).  a [m, m], g = mean_cotangent and c = cotangent [..., p] -> scalar"""
  error = rotate(cayley(a), mean_cotangent) - cotangent
  return jnp.mean(jnp.sum(jnp.square(error), axis=-1))


def rotation_gradients(a: jax.Array, cotangents: jax.Array, update: jax.Array,
                       active: jax.Array | None = None) -> jax.Array:
  """The gradients of all rotation losses, from what an update at the representation knows.

  Args:
    a: [T, m, m].
    cotangents: u [T, ..., p], the tasks' gradients at the shared representation.
    update: d_z [..., p], their rescaled sum.
    active: [T] bool; those of the other tasks are 0.

  Returns: [T, m, m].
  """
  active = jnp.ones(len(a), bool) if active is None else active
  mean = update / jnp.maximum(active.sum(), 1).astype(update.dtype)

  def gradient(a, u):
    return jax.grad(rotation_loss)(a, mean, rotate(cayley(a), u))

  return jnp.where(active[:, None, None], jax.vmap(gradient)(a, cotangents), 0)


def rotograd(burn_in: int = 20) -> base.Aggregator:
  """RotoGrad's rescaling as an optax transform of stacked representation gradients.

  Alone it is RotoGrad with all R_t = I. To turn the directions too, put the heads into `mtjax.heads.Rotated`: the
  gradient engine then trains their rotations, as does what `mtjax.heads.with_rotation_gradients` gives.

  Args:
    burn_in: the step after which n0 is taken again.

  Example:
    >>> tx = mtjax.optim.rotograd()
    >>> u, z = jnp.array([[[3., 0]], [[0, 1]]]), jnp.zeros((1, 2))
    >>> d, _ = tx.update(u, tx.init(z), z)
    >>> print(d)
    [[2. 2.]]
  """
  check_count(burn_in, 'rotograd', 'burn_in', 0)

  def init(num_tasks):
    return RotogradState(jnp.zeros(num_tasks), jnp.zeros(num_tasks, jnp.int32))

  def weights(state, info):
    norms = jnp.sqrt(jnp.diagonal(drop_inactive(info.gramian, info.mask, 0)))
    initial = state.initial.astype(norms.dtype)
    take = ((state.count == 0) | (state.count == burn_in)) & (norms > 0)
    initial = jnp.where(take, norms, initial)
    count = state.count + (info.mask & (norms > 0))
    return rotograd_weights(norms, initial), RotogradState(initial.astype(state.initial.dtype), count)

  tx = base.from_weights(weights, name='rotograd', needs='gramian', init=init)
  tx.at, tx.head_gradients = 'features', _with_rotations
  return tx


def _with_rotations(gradients: dict, leaves: dict, owners: dict, rows: dict, w: jax.Array, active: jax.Array) -> dict:
  """The gradients of the heads, where leaves called '…/rotation' are the A_t of `mtjax.heads.Rotated`."""
  paths = {owners[path]: path for path in leaves if path.endswith('/rotation')}
  if not paths:
    return gradients
  if len(rows) != 1 or len(paths) != len(w):
    raise ValueError(f'rotograd turns one shared representation, and that of every task or of none: here are '
                     f'{len(rows)} representations and rotations of {len(paths)} of {len(w)} tasks.')
  cotangents, = rows.values()
  a = jnp.stack([leaves[paths[t]] for t in range(len(w))])
  turned = rotation_gradients(a, cotangents, jnp.tensordot(w.astype(cotangents.dtype), cotangents, 1), active)
  return {**gradients, **{paths[t]: turned[t] for t in range(len(w))}}
