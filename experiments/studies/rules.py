"""Rules: how each family of methods makes one step; see `harness`.

`plain` and `engine` end in Adam at the trainer's schedule; `engine` runs any aggregator, weighting or sharpness-aware
transform through mtjax's gradient engine. `unmixed` trains one task a step under an optimizer of its own.
"""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import mtjax.optim
from experiments.studies.harness import Inputs, Problem, Rule
from mtjax.optim import stacked
from mtjax.training.gradients import losses_and_grads


def plain(problem: Problem):
  """Adam on the gradient of the (weighted) sum, without an engine: the plain step, and single-task training."""
  tx = optax.adam(problem.schedule)

  def init(params, batch):
    del batch
    return tx.init(params)

  def step(params, state, inputs):
    def total(params):
      losses = problem.losses(params, inputs)
      return losses.sum(), losses

    gradient, losses = jax.grad(total, has_aux=True)(params)
    updates, state = tx.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, losses

  return init, step


def engine(make: Callable[[Problem], mtjax.optim.Aggregator], *, clip: float | None = None,
           sharpness: Callable[[mtjax.optim.Aggregator, int], Any] | None = None, **options: Any) -> Rule:
  """Any aggregator or weighting.

  Args:
    make: problem -> the method, for those that depend on T, on an epoch's length or on a layer.
    clip: bound on the norm of the shared parameters' gradient.
    sharpness: (the method, T) -> a sharpness-aware transform.
    **options: of the engine; a function is called with the bed.
  """
  def rule(problem):
    aggregator = make(problem)
    fields = {name: value(problem.bed) if callable(value) else value for name, value in options.items()}
    fields.setdefault('at', aggregator.at)
    method = losses_and_grads(
      problem.objective, aggregator, task_weights=problem.weights,
      sharpness=sharpness(aggregator, problem.num_tasks) if sharpness else None, **fields)
    tx = optax.adam(problem.schedule)

    def init(params, batch):
      return method.init(params, batch), tx.init(params)

    def step(params, state, inputs):
      gradients, opt_state = state
      held_out = None
      if aggregator.observes == 'validation_losses':
        held_out = problem.losses(params, inputs._replace(batch=inputs.validation))
      found = method(params, gradients, inputs.batch, inputs.rng, inputs.step, epoch_end=inputs.epoch_end,
                     validation_losses=held_out)
      gradient = dict(found.gradient)
      if clip is not None:
        gradient['encoder'], _ = optax.clip_by_global_norm(clip).update(gradient['encoder'], optax.EmptyState())
      updates, opt_state = tx.update(gradient, opt_state, params)
      params = optax.apply_updates(params, updates)
      gradients = method.observe(params, found.state, inputs.batch, inputs.rng, inputs.step)
      return params, (gradients, opt_state), found.losses.values

    return init, step

  return rule


def unmixed(sampling: Callable[[Problem], Any], make: Callable[[Any, Any], optax.GradientTransformation]) -> Rule:
  """One task a step, drawn by fixed ratios.

  Args:
    sampling: problem -> the ratios.
    make: (ratios, schedule) -> an optimizer, which is told the `task`.
  """
  def rule(problem):
    ratios = tuple(sampling(problem))
    method = losses_and_grads(problem.objective, mtjax.optim.unmixed(ratios), task_weights=problem.weights)
    tx = optax.with_extra_args_support(make(ratios, problem.schedule))

    def init(params, batch):
      return method.init(params, batch), tx.init(params)

    def step(params, state, inputs):
      found = method(params, state[0], inputs.batch, inputs.rng, inputs.step)
      task = found.state.aggregator.inner.task
      updates, opt_state = tx.update(found.gradient, state[1], params, task=task)
      return optax.apply_updates(params, updates), (found.state, opt_state), found.losses.values

    return init, step

  return rule


def gradients(problem: Problem, params: Any, inputs: Inputs):
  """(losses [T], stacked gradients of the encoder, gradients of the heads)."""
  losses, pullback = jax.vjp(lambda encoder, heads: problem.losses({'encoder': encoder, 'heads': heads}, inputs),
                             params['encoder'], params['heads'])
  jac, heads = jax.lax.map(pullback, jnp.eye(problem.num_tasks))
  return losses, jac, jax.tree.map(lambda x: x.sum(0), heads)


def conflicts(problem: Problem, params: Any, inputs: Inputs) -> dict[str, jax.Array]:
  """For `watch`: the share of pairs of tasks whose gradients on the shared parameters point apart."""
  gram = stacked.gramian(gradients(problem, params, inputs)[1])
  pairs = jnp.triu_indices(problem.num_tasks, 1)
  return {'conflict': jnp.mean((gram[pairs] < 0).astype(jnp.float32))}
