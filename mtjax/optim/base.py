"""What every aggregator and weighting is: an optax transform of stacked gradients that says what it needs.

T tasks. `jac`: a tree whose leaves are [T, *shape], row t the gradient g_t of task t's loss. G = J J^T: [T, T], the
Gramian, summed over all leaves, at least float32. w: [T]. An aggregator maps J to the update d; most do it by weights,

    d = J^T w(G, losses, state),

and so need no more of J than its Gramian, or none of it. `needs` says which: 'losses', 'gramian' or 'jacobian'.
"""
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mtjax import tree
from mtjax.optim._checks import check_stacked
from mtjax.optim.stacked import combine, cross_gramian, gramian, mask_rows

NEEDS = ('losses', 'gramian', 'jacobian')


@flax.struct.dataclass
class Info:
  """What weights are computed from at one step; what is not there is None.

  Attributes:
    gramian: [T, T], G = J J^T.
    losses: [T].
    active: [T] bool, the tasks that take part; None = all. Of the others losses and Gramian entries mean nothing.
    key: of the step's random draws; None = derived from the transform's seed and its own count of steps.
    epoch_end: bool scalar, whether this is the last step of an epoch.
    validation_losses: [T], on a held-out batch.
    params: what the gradients were taken at, so the representation where they are features; only for methods that need
      all of J.
  """

  gramian: jax.Array | None = None
  losses: jax.Array | None = None
  active: jax.Array | None = None
  key: jax.Array | None = None
  epoch_end: jax.Array | None = None
  validation_losses: jax.Array | None = None
  params: Any = None

  @property
  def num_tasks(self) -> int:
    """T."""
    for x in (self.gramian, self.losses, self.active):
      if x is not None:
        return x.shape[0]
    raise ValueError('Info holds neither a Gramian nor losses, so the number of tasks is unknown.')

  @property
  def mask(self) -> jax.Array:
    """`active` as an array."""
    return jnp.ones(self.num_tasks, bool) if self.active is None else self.active


@flax.struct.dataclass
class State:
  """The state of an aggregator.

  Attributes:
    inner: the method's own, arrays of fixed shape.
    ndims: of the parameters' leaves, by which gradients that are not stacked are recognised.
  """

  inner: Any
  ndims: tuple[int, ...] = flax.struct.field(pytree_node=False, default=())


class Aggregator(optax.GradientTransformationExtraArgs):
  """An optax transform of stacked gradients: `update(jac, state, params, losses=losses) -> (d, state)`.

  First member of an `optax.chain`. Extra arguments of `update`, each optional unless the method says otherwise:
  `losses` [T], `active` [T] bool, `key`, `epoch_end`, `validation_losses` [T], `losses_after` [T] (those of the batch
  before, after its step; see `observe`).

  Attributes:
    init: (params, num_tasks=None) -> state. Without `num_tasks` a state that depends on T gets its shape at the first
      update; give it where shapes may not change, as in `lax.scan`.
    update: as above.
    aggregate: the same, but returns (d, w [T] or None, state).
    name: of the method.
    needs: 'losses', 'gramian' or 'jacobian'.
    weights: (state, info) -> (w [T], state); absent where needs is 'jacobian'.
    scalarise: (losses, state, active=None) -> a scalar whose gradient in the losses is w at that state, differentiable
      in a learned parameter of the state too; absent where there is none.
    observe: (state, losses_after, active=None) -> state, for methods that look at the losses of the same batch after
      the step; else None.
    observes: 'nothing', 'losses_after' or 'validation_losses': what a training loop has to deliver besides.
    double_sampling: whether the Gramian should be that of two independent batches, A = J_1 J_2^T (not symmetric): pass
      `jac_other`, the stacked gradients of another batch. Without it the method runs on the biased J J^T.
    head_gradients: (gradients, leaves, owners, rows, w, active) -> gradients of task-owned parameters that are not
      trained by their task's loss; else None. The first three are {path: …}, `rows` the stacked gradients.
    head_weights: (w [T] or None, info) -> [T], what the gradient of each task's own parameters is multiplied by.
    layer: a regular expression; the Gramian is that of the parameters whose path it finds. None = all that are given.
    at: 'parameters' or 'features', where the method's gradients are meant to be taken.
  """

  at = 'parameters'
  head_gradients = None

  def __new__(cls, init, aggregate, *, name: str, needs: str, weights=None, scalarise=None, observe=None,
              observes: str = 'nothing', double_sampling: bool = False, head_weights=None, layer: str | None = None):
    if needs not in NEEDS:
      raise ValueError(f'{name}: needs must be one of {NEEDS}, got {needs!r}.')

    def update(updates, state, params=None, **extra):
      d, _, state = aggregate(updates, state, params, **extra)
      return d, state

    self = super().__new__(cls, init, update)
    self.aggregate, self.name, self.needs = aggregate, name, needs
    self.observe, self.observes, self.double_sampling = observe, observes, double_sampling
    self.head_weights, self.layer = head_weights or own_gradient, layer
    if weights is not None:
      self.weights = weights
    if scalarise is not None:
      self.scalarise = scalarise
    return self

  def __repr__(self):
    return f'Aggregator({self.name}, needs={self.needs!r})'


def own_gradient(w: jax.Array | None, info: Info) -> jax.Array:
  """Each task's own parameters get the gradient of its own loss, unweighted."""
  return info.mask.astype(jnp.float32 if w is None else w.dtype)


def scaled_by_weight(w: jax.Array, info: Info) -> jax.Array:
  """The weight multiplies the whole loss, so each task's own parameters feel it too."""
  del info
  return w


def from_weights(
  weights: Callable[[Any, Info], tuple[jax.Array, Any]],
  *,
  name: str,
  needs: str,
  init: Callable[[int], Any] | None = None,
  scale_heads: bool = False,
  head_weights: Callable[[jax.Array, Info], jax.Array] | None = None,
  scalarise: Callable[[jax.Array, Any, jax.Array], jax.Array] | None = None,
  observe: Callable[[Any, jax.Array, jax.Array], Any] | None = None,
  observes: str = 'nothing',
  double_sampling: bool = False,
  layer: str | None = None,
) -> Aggregator:
  """An aggregator whose update is d = J^T w.

  Args:
    weights: (state, info) -> (w [T], state); must honour `info.active`: w of the active tasks is what it would be if
      the others' rows were not there. (Their own w is set to 0 here.)
    name: of the method, for errors.
    needs: 'losses' or 'gramian'.
    init: T -> state, called with T = 0 where T is unknown yet: what is over tasks has the leading axis T.
    scale_heads: whether w multiplies the gradients of task-owned parameters too.
    head_weights: (w, info) -> [T], in place of `scale_heads`.
    scalarise: (losses [T], state, active [T]) -> scalar, see `Aggregator`.
    observe: (state, losses_after [T], active [T]) -> state; must itself know which tasks it waits for, since `active`
      is all where `losses_after` come by `update`.
    observes, double_sampling, layer: see `Aggregator`.
  """
  make = init or (lambda num_tasks: optax.EmptyState())

  def sized_weights(state, info):
    info = _as_info(info)
    if needs == 'losses' and info.losses is None:
      raise ValueError(f'{name} weighs losses: pass losses=[T] to update.')
    with jax.default_matmul_precision('highest'):
      w, inner = weights(_sized(state.inner, info.num_tasks, make), info)
    return jnp.where(info.mask, w, 0), state.replace(inner=inner)

  def sized_observe(state, losses_after, active=None):
    active = jnp.ones(losses_after.shape, bool) if active is None else active
    return state.replace(inner=observe(_sized(state.inner, losses_after.shape[0], make), losses_after, active))

  def sized_scalarise(losses, state, active=None):
    active = jnp.ones(losses.shape, bool) if active is None else active
    return scalarise(losses, _sized(state.inner, losses.shape[0], make), active)

  def init_fn(params, num_tasks=None):
    return State(_strong(make(num_tasks or 0)), _ndims(params))

  def aggregate(updates, state, params=None, *, losses=None, losses_after=None, **extra):
    num_tasks = check_stacked(updates, state, params, losses, name)
    if observe is not None and losses_after is not None:
      state = sized_observe(state, losses_after)    # `active` is that of this step, they belong to the one before
    gram = None
    if needs == 'gramian' and extra.get('jac_other') is not None:
      gram = cross_gramian(_only(layer, updates), _only(layer, extra['jac_other']), extra.get('active'))
    elif needs == 'gramian':
      gram = gramian(_only(layer, updates), extra.get('active'))
    info = _info(num_tasks, gram, losses, extra)
    w, state = sized_weights(state, info)
    return combine(mask_rows(updates, info.active), w), w, state

  return Aggregator(
    init_fn, aggregate, name=name, needs=needs, weights=sized_weights,
    scalarise=sized_scalarise if scalarise else None, observe=sized_observe if observe else None, observes=observes,
    double_sampling=double_sampling, layer=layer,
    head_weights=head_weights or (scaled_by_weight if scale_heads else own_gradient))


def from_jacobian(
  aggregate: Callable[[Any, Any, Info], tuple[Any, jax.Array | None, Any]],
  *,
  name: str,
  init: Callable[[Any, int], Any] | None = None,
  scale_heads: bool = False,
  head_weights: Callable[[jax.Array, Info], jax.Array] | None = None,
) -> Aggregator:
  """An aggregator that needs all of J.

  Args:
    aggregate: (jac, state, info) -> (d, w [T] or None, state), the state being the method's own; the rows of inactive
      tasks come as zeros.
    name: of the method.
    init: (params, T) -> state, called with T = 0 where T is unknown yet.
    scale_heads, head_weights: as in `from_weights`.
  """
  make = init or (lambda params, num_tasks: optax.EmptyState())

  def init_fn(params, num_tasks=None):
    return State(_strong(make(params, num_tasks or 0)), _ndims(params))

  def sized_aggregate(updates, state, params=None, *, losses=None, **extra):
    num_tasks = check_stacked(updates, state, params, losses, name)
    example = params if params is not None else jax.tree.map(lambda x: x[0], updates)
    info = _info(num_tasks, None, losses, extra)
    info = info.replace(active=jnp.ones(num_tasks, bool) if info.active is None else info.active, params=params)
    inner = _sized(state.inner, num_tasks, lambda n: make(example, n))
    with jax.default_matmul_precision('highest'):
      d, w, inner = aggregate(mask_rows(updates, info.active), inner, info)
    return d, w, state.replace(inner=inner)

  return Aggregator(init_fn, sized_aggregate, name=name, needs='jacobian',
                    head_weights=head_weights or (scaled_by_weight if scale_heads else own_gradient))


def step_key(info: Info, seed: int, count: jax.Array) -> jax.Array:
  """The key of this step's draws: the one given, or one derived from the seed and the number of the step."""
  return info.key if info.key is not None else jax.random.fold_in(jax.random.key(seed), count)


def _as_info(info: Any) -> Info:
  """An Info, also of an object or dict with (some of) its fields."""
  if isinstance(info, Info):
    return info
  get = info.get if isinstance(info, dict) else lambda field, default: getattr(info, field, default)
  return Info(**{field: get(field, None) for field in Info.__dataclass_fields__})


def _info(num_tasks: int, gram: jax.Array | None, losses: jax.Array | None, extra: dict[str, Any]) -> Info:
  """The Info of an update; extra arguments of other members of a chain are left alone."""
  fields = {name: extra.get(name) for name in ('active', 'key', 'epoch_end', 'validation_losses')}
  for name in ('active', 'validation_losses'):
    if fields[name] is not None and jnp.shape(fields[name]) != (num_tasks,):
      raise ValueError(f'{name} must have shape [{num_tasks}], one entry a task, got {list(jnp.shape(fields[name]))}.')
  if gram is None and losses is None and fields['active'] is None:
    fields['active'] = jnp.ones(num_tasks, bool)
  return Info(gram, losses, **fields)


def _sized(inner: Any, num_tasks: int, make: Callable[[int], Any]) -> Any:
  """The method's own state, made anew with its final shape where it was made without knowing T."""
  unknown = any(x.shape[:1] == (0,) for x in jax.tree.leaves(inner) if hasattr(x, 'shape'))
  return _strong(make(num_tasks)) if unknown else inner


def _strong(inner: Any) -> Any:
  """The state with dtypes of its own: a weakly typed number would turn strong at the first step, and compile anew."""
  return jax.tree.map(lambda x: x.astype(x.dtype) if hasattr(x, 'astype') else x, inner)


def _only(layer: str | None, jac: Any) -> Any:
  """The leaves whose path `layer` finds."""
  if layer is None:
    return jac
  keep = tree.select([layer], jac)
  return {path: leaf for path, leaf in tree.flatten(jac).items() if keep[path]}


def _ndims(params: Any) -> tuple[int, ...]:
  return tuple(jnp.ndim(leaf) for leaf in jax.tree.leaves(params))
