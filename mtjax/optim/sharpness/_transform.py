"""What the variants of SAM share: an optax transform that takes a second gradient, and its checks.

    tx.update(g, state, params, grad_fn=grad_fn)

g: the gradient at `params`. grad_fn: params -> the gradient of the same loss at other parameters, on the same batch and
with the same key of dropout; statistics such as those of batch normalisation are updated in the first pass only. With
the batch sharded over devices both gradients are those of the whole batch, so is the ascent step.
"""
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mtjax.optim._checks import check_number

Radius = float | optax.Schedule


class SharpnessState(NamedTuple):
  """The state of a variant of SAM.

  Attributes:
    count: int32 scalar, the number of updates so far; schedules of rho are read at it.
    inner: the variant's own, () where it has none.
  """

  count: jax.Array
  inner: Any


def from_direction(
  direction: Callable[..., tuple[Any, Any]],
  *,
  name: str,
  rho: Radius,
  init: Callable[[Any], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
  """A variant of SAM.

  Args:
    direction: (g, inner, params, rho, gradient, count) -> (the gradient to descend along, inner), where `gradient` is
      the checked `grad_fn`.
    name: of the variant, for errors.
    rho: the radius, or a schedule of it over the updates.
    init: params -> inner.
  """
  check_radius(rho, name)

  def init_fn(params):
    return SharpnessState(jnp.zeros((), jnp.int32), init(params) if init else ())

  def update_fn(updates, state, params=None, *, grad_fn=None, **extra):
    del extra
    check_second_gradient(grad_fn, params, name, 'params -> gradient',
                          'tx.update(g, state, params, grad_fn=jax.grad(loss))')

    def gradient(at):
      return like(grad_fn(at), updates, name)

    d, inner = direction(updates, state.inner, params, radius(rho, state.count), gradient, state.count)
    return d, SharpnessState(optax.safe_increment(state.count), inner)

  return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def radius(rho: Radius, count: jax.Array) -> Any:
  """rho at this update."""
  return rho(count) if callable(rho) else rho


def like(gradient: Any, example: Any, name: str) -> Any:
  """A gradient in the dtypes of `example`. Raises ValueError when it has another structure or other shapes."""
  got, wanted = jax.tree.structure(gradient), jax.tree.structure(example)
  if got != wanted:
    raise ValueError(f'{name}: grad_fn must return a tree like the gradient that was given, {wanted}, but returned '
                     f'{got}. (Of jax.value_and_grad pass the gradient only.)')
  for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(example)):
    if jnp.shape(a) != jnp.shape(b):
      raise ValueError(f'{name}: grad_fn returned a leaf of shape {list(jnp.shape(a))} where the gradient that was '
                       f'given has {list(jnp.shape(b))}.')
  return jax.tree.map(lambda a, b: jnp.asarray(a, jnp.result_type(b)), gradient, example)


def check_radius(rho: Radius, name: str) -> None:
  """Raises ValueError unless rho is a schedule or a number >= 0."""
  if not callable(rho):
    check_number(rho, name, 'rho', 0)


def check_every(every_k: int, name: str) -> None:
  """Raises ValueError unless every_k is a whole number >= 1."""
  if not isinstance(every_k, int) or isinstance(every_k, bool) or every_k < 1:
    raise ValueError(f'{name}: every_k must be a whole number of steps >= 1, got {every_k!r}.')


def check_second_gradient(grad_fn: Any, params: Any, name: str, kind: str, call: str) -> None:
  """Raises ValueError where update was called without what a second gradient takes."""
  if params is None:
    raise ValueError(f'{name} moves the parameters: pass them to update, {call}.')
  if not callable(grad_fn):
    raise ValueError(f'{name} takes a second gradient: pass grad_fn ({kind}, the same loss on the same batch) to '
                     f'update, {call}; got {grad_fn!r}.')
