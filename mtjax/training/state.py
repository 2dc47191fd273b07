"""The train state, and the step that advances it."""
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mtjax import tree
from mtjax.objective import Losses, stream_key
from mtjax.precision import narrow_like, widen
from mtjax.training import accumulation
from mtjax.training.engine.diagnostics import Diagnostics
from mtjax.training.gradients import Engine

Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
  """All that a run needs to go on. The data position is `step` itself.

  Attributes:
    step: int32 scalar, updates made so far.
    params: every parameter, trainable or frozen.
    opt_state: of the trainable parameters only.
    ema: moving average of the trainable parameters, or {} where `ema` is 0.
    gradients: state of the gradient engine, or {} where the loss is a plain weighted sum.
    window: sums since the last log line.
    first_bad: [T + 1] int32, the step at which each task's loss (last entry: the gradient) was first not finite; -1.
  """

  step: jax.Array
  params: Params
  opt_state: Any
  ema: Params
  gradients: Any
  window: 'Window'
  first_bad: jax.Array


@flax.struct.dataclass
class Window:
  """What training metrics average over, kept on the device until a log step reads it.

  Attributes:
    losses: summed over the steps of the window.
    grad_norm: sum of the global gradient norms.
    steps: their number, int32.
    diagnostics: of conflict; {} without a gradient engine.
  """

  losses: Losses
  grad_norm: jax.Array
  steps: jax.Array
  diagnostics: Any

  @classmethod
  def zero(cls, num_tasks: int, conflict: bool = False, affinity: bool = False) -> 'Window':
    """An empty window; `conflict`: with diagnostics of it, `affinity`: and those of affinity."""
    return cls(Losses.zero(num_tasks), jnp.zeros(()), jnp.zeros((), jnp.int32),
               Diagnostics.zero(num_tasks, affinity) if conflict else {})


def init_state(params: Params, tx: optax.GradientTransformation, trainable: Mapping[str, bool], num_tasks: int,
               ema: float = 0.0, step: Any = 0, old_ema: Params | None = None, gradients: Any = None,
               affinity: bool = False) -> TrainState:
  """A state at the start of a stage: parameters go on, the optimizer starts afresh.

  Args:
    params: every parameter.
    tx: the optimizer of the trainable ones.
    trainable: {path: bool}.
    num_tasks: T.
    ema: decay of the moving average, 0 = none.
    step: updates made before.
    old_ema: the average of the stage before; where it has a leaf, it goes on.
    gradients: state of the gradient engine, where there is one.
    affinity: whether the engine measures it.
  """
  learnt, _ = tree.partition(params, trainable)
  average = {}
  if ema:
    before = tree.flatten(old_ema or {})
    average = tree.map_with_path(lambda path, x: before.get(path, x).astype(jnp.float32), learnt)
  return TrainState(
    step=jnp.asarray(step, jnp.int32),
    params=params,
    opt_state=tx.init(widen(learnt)),
    ema=jax.tree.map(jnp.copy, average),
    gradients={} if gradients is None else gradients,
    window=Window.zero(num_tasks, conflict=gradients is not None, affinity=affinity),
    first_bad=jnp.full(num_tasks + 1, -1, jnp.int32),
  )


def eval_params(state: TrainState) -> Params:
  """The parameters to evaluate: the moving average where there is one."""
  average = tree.flatten(state.ema)
  return tree.map_with_path(lambda path, x: average.get(path, x).astype(x.dtype), state.params)


def make_train_step(
  objective: Callable[..., Losses],
  tx: optax.GradientTransformation,
  trainable: Mapping[str, bool],
  task_weights: jax.Array,
  ema: float = 0.0,
  engine: Engine | None = None,
  accumulate: int = 1,
) -> Callable[[TrainState, Any, jax.Array], TrainState]:
  """One update as a pure function `(state, batch, rng) -> state`.

      minimise  sum_t w_t * losses.values[t]      over the trainable parameters

  or descend along what the gradient engine makes of the task gradients. `rng` is the key of dropout; it is folded with
  the step, so that a resumed run draws the same. It is an argument, so that runs which differ in their seed share one
  compiled program. Of parameters that are kept in less than float32 (`mtjax.precision`) the step makes a float32 copy.

  Args:
    objective: (params, batch, rng, step) -> Losses.
    tx: optimizer of the trainable parameters.
    trainable: {path: bool}; only these are differentiated.
    task_weights: w, [T].
    ema: decay of the moving average of the parameters, 0 = none.
    engine: the gradient engine; None = the plain weighted sum. Where its method looks at validation losses, `batch` is
      a pair (training batch, validation batch).
    accumulate: micro-batches that the plain weighted sum is made of; an engine has its own number, in its options.
  """

  def plain(state, batch, rng):
    learnt, frozen = tree.partition(state.params, trainable)

    def losses_of(learnt, batch, rng):
      return objective(tree.merge(learnt, frozen), batch, rng, state.step)

    gradient, losses = accumulation.weighted_gradient(losses_of, learnt, batch, rng, task_weights, accumulate)
    return gradient, losses, state.gradients, {}, {}

  def resolved(state, batch, rng):
    validation_losses = None
    if engine.aggregator.observes == 'validation_losses':
      batch, held_out = batch
      found = accumulation.losses(objective, state.params, held_out, rng, state.step, engine.options.accumulate)
      validation_losses = found.values * task_weights
    out = engine(state.params, state.gradients, batch, rng, state.step, validation_losses=validation_losses)
    drawn = jnp.argmax(jnp.where(out.losses.active, jnp.abs(out.state.weights), -1))
    extra, noted = {'task': drawn}, out.diagnostics
    if every := engine.options.affinity_every:
      learnt, _ = tree.partition(state.params, trainable)
      update = lambda gradient: tx.update(gradient, state.opt_state, learnt, **extra)[0]
      empty = Diagnostics.zero(len(task_weights), affinity=True)
      found, counted = jax.lax.cond(
        state.step % every == 0, lambda: engine.affinity(state.params, batch, rng, state.step, update),
        lambda: (empty.affinity, empty.affinities))
      noted = noted.replace(affinity=found, affinities=counted)
    return out.gradient, out.losses, out.state, noted, extra

  def train_step(state: TrainState, batch: Any, rng: jax.Array) -> TrainState:
    kept, frozen = tree.partition(state.params, trainable)
    learnt, state = widen(kept), state.replace(params=widen(state.params))
    gradient, losses, gradients, noted, extra = (plain if engine is None else resolved)(state, batch, rng)
    updates, opt_state = tx.update(gradient, state.opt_state, learnt, **extra)
    learnt = optax.apply_updates(learnt, updates)
    params = tree.merge(narrow_like(learnt, kept, stream_key(rng, 'rounding', state.step)), frozen)
    if engine is not None and engine.aggregator.observes == 'losses_after':
      gradients = engine.observe(params, gradients, batch, rng, state.step)

    grad_norm = optax.tree.norm(gradient)
    bad = ~jnp.isfinite(jnp.append(losses.sums, grad_norm))
    average = jax.tree.map(lambda m, p: ema * m + (1 - ema) * p, state.ema, learnt) if ema else {}
    return TrainState(
      step=state.step + 1,
      params=params,
      opt_state=opt_state,
      ema=average,
      gradients=gradients,
      window=Window(state.window.losses + losses, state.window.grad_norm + grad_norm, state.window.steps + 1,
                    state.window.diagnostics + noted if engine is not None else {}),
      first_bad=jnp.where((state.first_bad < 0) & bad, state.step, state.first_bad),
    )

  return train_step
