"""Task-balanced gradient normalisation: AdamW for batches of one task each, as Uni-Perceiver v2 is trained.

Li, Zhu, Jiang, Zhu, Li, Yuan, Wang, Qiao, Wang, Wang & Dai, "Uni-Perceiver v2: A Generalist Model for Large-Scale
Vision and Vision-Language Tasks", CVPR 2023, section 3.4, https://arxiv.org/abs/2211.09808.

    k ~ s,    g <- omega_k g / ||g||                         g = grad L_k, of all parameters
    m <- b1 m + (1 - b1) g / s_k,    v <- b2 v + (1 - b2) g^2 / s_k
    theta <- theta - alpha (m^ / (sqrt(v^) + eps) + decay theta)

s: [K], the sampling ratios of the tasks, sum 1; omega: [K], their coefficients; m^, v^: corrected for their start at 0.
In expectation m and v follow sum_k omega_k g_k / ||g_k|| and sum_k omega_k^2 g_k^2 / ||g_k||^2: how often a task is
drawn and how much it counts are two things. `mtjax.optim.unmixed` draws k.
The authors' code is not public. The paper writes b for 1 - b and omits bias correction and decay, which are AdamW's.
A normalised gradient does not vanish: let the learning rate decay. Clipping before it does nothing.
"""
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtjax.optim._checks import check_number, check_preference, check_sampling


class ScaleByTbgnState(NamedTuple):
  """Adam's moments.

  Attributes:
    count: int32, as many as leaves, the steps that each took part in: all, unless untouched leaves are masked.
    mu: m, like the parameters, float32 or more.
    nu: v, likewise.
  """
  count: Any
  mu: optax.Updates
  nu: optax.Updates


def normalised(grads: optax.Updates) -> optax.Updates:
  """g / ||g|| over all leaves, 0 where g = 0; in float32 or more."""
  grads = jax.tree.map(lambda g: g.astype(jnp.promote_types(g.dtype, jnp.float32)), grads)
  norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)))
  return jax.tree.map(lambda g: g / jnp.where(norm > 0, norm, 1).astype(g.dtype), grads)


def scale_by_tbgn(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, omega: Sequence[float] | None = None,
                  sampling: Sequence[float] | None = None,
                  mask_untouched: bool = False) -> optax.GradientTransformationExtraArgs:
  """m^ / (sqrt(v^) + eps), in place of `optax.scale_by_adam`; see `tbgn`.

  Example:
    >>> tx = mtjax.optim.scale_by_tbgn(b1=0.0, b2=0.0, sampling=(0.8, 0.2))
    >>> params = {'w': jnp.zeros(2)}
    >>> updates, _ = tx.update({'w': jnp.array([3., -4.])}, tx.init(params), params, task=1)
    >>> print(updates['w'].round(3))
    [ 2.236 -2.236]
  """
  check_number(b1, 'tbgn', 'b1', 0, 1, open_high=True)
  check_number(b2, 'tbgn', 'b2', 0, 1, open_high=True)
  check_number(eps, 'tbgn', 'eps', 0)
  omega = check_preference(omega, 'tbgn', field='omega')
  num_tasks = len(omega) if omega else None
  sampling = check_sampling(sampling, 'tbgn', num_tasks) if sampling is not None else None
  num_tasks = len(sampling) if sampling else num_tasks

  def of_task(values, task):
    return 1.0 if values is None else jnp.asarray(values, float)[task]

  def init(params):
    zeros = lambda: jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.result_type(x, jnp.float32)), params)
    return ScaleByTbgnState(jax.tree.map(lambda x: jnp.zeros((), jnp.int32), params), zeros(), zeros())

  def update(updates, state, params=None, *, task=None, **extra):
    del params, extra
    if task is None:
      if num_tasks not in (None, 1):
        raise ValueError(f'tbgn was given ratios or coefficients of {num_tasks} tasks: pass task=…, the index of the '
                         f'one that this gradient is of, to update.')
      task = 0
    if isinstance(task, int) and not 0 <= task < (num_tasks or task + 1):
      raise ValueError(f'tbgn: task must be in 0 … {num_tasks - 1}, got {task}.')
    omega_k, s_k = of_task(omega, task), of_task(sampling, task)

    def leaf_update(g, grad, count, m, v):
      touched = jnp.any(grad != 0) if mask_untouched else True
      g = (omega_k * g).astype(m.dtype)
      new_m = b1 * m + (1 - b1) * (g / s_k).astype(m.dtype)
      new_v = b2 * v + (1 - b2) * (g * g / s_k).astype(v.dtype)
      steps = optax.safe_increment(count)
      size = jnp.sqrt(new_v / (1 - b2 ** steps.astype(v.dtype))) + eps
      # With eps = 0 what never had a gradient is 0 / 0.
      step = new_m / (1 - b1 ** steps.astype(m.dtype)) / jnp.where(size > 0, size, 1)
      new = step.astype(grad.dtype), steps, new_m, new_v
      return tuple(jnp.where(touched, x, y) for x, y in zip(new, (jnp.zeros_like(grad), count, m, v)))

    new = jax.tree.map(leaf_update, normalised(updates), updates, *state)
    step, count, mu, nu = jax.tree.transpose(jax.tree.structure(updates), jax.tree.structure((0,) * 4), new)
    return step, ScaleByTbgnState(count, mu, nu)

  return optax.GradientTransformationExtraArgs(init, update)


def tbgn(learning_rate: optax.ScalarOrSchedule, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8,
         weight_decay: float = 0.0, mask: Any | Callable[[optax.Params], Any] | None = None,
         omega: Sequence[float] | None = None, sampling: Sequence[float] | None = None,
         mask_untouched: bool = False) -> optax.GradientTransformationExtraArgs:
  """Uni-Perceiver v2's AdamW. `update` takes the gradient of one task's loss and `task`, its index (traced int32).

  Args:
    learning_rate: alpha, a number or a schedule.
    b1, b2, eps, weight_decay, mask: as in `optax.adamw`.
    omega: the tasks' coefficients, >= 0; None = 1 each.
    sampling: how often each task is drawn, ratios > 0 that sum to 1; None = 1 each: no compensation.
    mask_untouched: whether a parameter with no gradient at all (of another task's head) keeps its moments as they are
      and gets no step (but for the weight decay), rather than the step of a gradient 0.

  Example:
    >>> tx = mtjax.optim.tbgn(1e-3, sampling=(0.8, 0.2))
    >>> params = {'w': jnp.zeros(2)}
    >>> updates, _ = tx.update({'w': jnp.array([3., -4.])}, tx.init(params), params, task=jnp.int32(1))
    >>> print(updates['w'].round(5))
    [-0.00224  0.00224]
  """
  check_number(weight_decay, 'tbgn', 'weight_decay', 0)
  return optax.chain(scale_by_tbgn(b1, b2, eps, omega, sampling, mask_untouched),
                     optax.add_decayed_weights(weight_decay, mask), optax.scale_by_learning_rate(learning_rate))
