"""F-MTL: each task looks for its own flat region, and flatness is aggregated apart from the loss.

Phan, Tran, Tran, Ho, Phung & Le, "Improving Multi-task Learning via Seeking Task-based Flat Regions", 2022,
https://arxiv.org/abs/2211.13723.

    eps_t = rho g_t / (N_t + 1e-12),      eta_t = rho q_t / (N'_t + 1e-12)
    g_t^SAM, q_t^SAM = the gradients of l_t at (theta + eps_t, phi_t + eta_t),      h_t = g_t^SAM - g_t
    d = Agg({g_t}) + Agg({h_t})

g_t: the gradient of task t's loss in the shared parameters theta, row t of `jac`, whose leaves are [T, *shape].
q_t: its gradient in the parameters phi_t that only task t has. d: like theta; phi_t descends along q_t^SAM.
Split norms: N_t = ||g_t||, N'_t = ||q_t||. Joint: N_t = N'_t = sqrt(||g_t||^2 + ||q_t||^2). Adaptive ('asam'):
eps_t = rho theta^2 g_t / (|| |theta| g_t || + 1e-12), biases and norms included, and likewise eta_t and the norms.
The paper has split norms, its code for MultiMNIST joint ones. Ours besides: rows h_t that are rounding error are 0,
since a scale-free rule would blow them up; and `every_k`, LookSAM per task, to pay 1 + 1/k Jacobians a step and not 2.
"""
from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from mtjax.config import did_you_mean
from mtjax.optim import base
from mtjax.optim._checks import check_number, check_stacked
from mtjax.optim.sharpness import _modes
from mtjax.optim.sharpness._algebra import EPSILON, add, dot, norm, rounding
from mtjax.optim.sharpness._heads import map_owned, owners_of, squared_norms
from mtjax.optim.sharpness._transform import Radius, check_every, check_radius, check_second_gradient, like, radius
from mtjax.optim.sharpness.looksam import flat_part, orthogonal_part
from mtjax.optim.stacked import mask_rows

CALL = 'tx.update(jac, state, params, grad_fn=grad_fn)'


@flax.struct.dataclass
class FTLState:
  """The state of F-MTL.

  Attributes:
    count: int32 scalar, the number of updates so far.
    rules: {role: the aggregator's state there}, e.g. 'loss' for {g_t} and 'flat' for {h_t}.
    kept: what steps without a second Jacobian use again: leaves [T, *shape], or like the parameters when only the
      aggregate is stored; () if each step has a second one.
    gramian: [2T, 2T], the inner products of the latest rows (g_1 … g_T, h_1 … h_T): the block [:T, T:] says how far
      loss and flatness agree. 0 where it was not needed: modes 'direct' and 'each', aggregators not of the Gramian.
  """

  count: jax.Array
  rules: dict[str, Any]
  kept: Any
  gramian: jax.Array


class FTL(optax.GradientTransformationExtraArgs):
  """The transform that `ftl` returns.

  Attributes:
    init: (params, num_tasks=None) -> state; without a number of tasks, here or in `ftl`, the state gets its shapes at
      the first update.
    update: (jac, state, params, grad_fn=…, …) -> (d, state), where all parameters are shared.
    step: (jac, state, params, grad_fn=…, heads=…, head_grads=…, owners=…, …) -> (d, q_sam, state).
    aggregator: the rule that is used for both parts.
    observe, observes: as the aggregator's, for all its states.
    name, needs, double_sampling: as of an aggregator; it needs 'jacobian', and another one at other points.
  """

  name, needs, double_sampling = 'ftl', 'jacobian', False

  def __new__(cls, init, step, aggregator, observe):
    def update(updates, state, params=None, *, grad_fn=None, **extra):
      if extra.get('heads') is not None:
        raise ValueError('ftl: update returns the update of the shared parameters only; with heads call .step(…), '
                         'which returns (d, q_sam, state).')
      d, _, state = step(updates, state, params, grad_fn=grad_fn, **extra)
      return d, state

    self = super().__new__(cls, init, update)
    self.step, self.aggregator, self.observe, self.observes = step, aggregator, observe, aggregator.observes
    return self

  def __repr__(self):
    return f'FTL({self.aggregator!r})'


def ascent_scales(g: jax.Array, q: jax.Array | None, rho: Any, norms: str) -> tuple[jax.Array, jax.Array | None]:
  """What g_t and q_t are multiplied by to give eps_t and eta_t.

  Args:
    g: [T], the squared norms of the rows (of T_w g_t in the adaptive variant).
    q: [T], likewise of the task-owned gradients; None without any.
    rho: the radius.
    norms: 'split' or 'joint'.
  """
  if q is None:
    return rho / (jnp.sqrt(g) + EPSILON), None
  if norms == 'joint':
    g = q = g + q
  return rho / (jnp.sqrt(g) + EPSILON), rho / (jnp.sqrt(q) + EPSILON)


def task_points(params: Any, jac: Any, scales: jax.Array, adaptive: bool) -> Any:
  """theta + eps_t for all tasks, leaves [T, *shape]; scales: [T]."""
  def point(g, scale):
    return add(params, _times(params, _times(params, g)) if adaptive else g, scale)

  return jax.vmap(point)(jac, scales)


def flatness(jac_sam: Any, jac: Any) -> Any:
  """h_t = g_t^SAM - g_t, leaves [T, *shape]; 0 in rows that are no more than rounding error."""
  h = add(jac_sam, jac, -1)
  before, after = jax.vmap(norm)(jac), jax.vmap(norm)(h)
  return mask_rows(h, ~(after <= rounding(after.dtype) * before))


def ftl(
  rho: Radius = 0.05,
  aggregator: base.Aggregator | None = None,
  *,
  norms: str = 'split',
  variant: str = 'sam',
  mode: str = 'decomposed',
  every_k: int = 1,
  alpha: float = 0.7,
  store: str = 'tasks',
  num_tasks: int | None = None,
) -> FTL:
  """F-MTL as an optax transform of stacked gradients, `update(jac, state, params, grad_fn=grad_fn)`.

  Here `grad_fn` maps parameters with leaves [T, *shape], a point for each task, to the stacked gradients there: row t
  is the gradient of task t's loss at the t-th point. Optional extra arguments are those of an aggregator (`losses`,
  `active`, `key`, …); one `key` serves both parts.

  With task-owned parameters call `.step`, with besides
    heads: a tree of them, each leaf with one owner;
    owners: the tasks that own them, a tree of ints that `heads` may continue, or {path: int};
    head_grads: q, like `heads`, the gradient of the owner's loss in each leaf;
    grad_fn: (stacked parameters, perturbed heads) -> (stacked gradients, q^SAM like `heads`). All heads are perturbed
      at once, as each loss reads its own only.
  It returns (d, q_sam, state). q_sam is multiplied by the aggregator's `head_weights`, hence by w_t if the rule weighs
  whole losses, and is 0 for tasks that are not active.

  Args:
    rho: the radius, or a schedule of it over the updates; 2 with variant 'asam' in the paper's code.
    aggregator: the rule, e.g. `mtjax.optim.pcgrad()`.
    norms: 'split' or 'joint', whether a task's shared and own parameters are moved rho each or rho together.
    variant: 'sam' or 'asam'.
    mode: 'decomposed'; or for comparison 'direct', the rule on {g_t^SAM}; 'second', on the two aggregates; 'each', on
      each (g_t, h_t) and then over tasks.
    every_k: steps from one second Jacobian to the next. Between, h_t = alpha ||g_t|| / ||v_t|| v_t with v_t the part of
      the latest h_t orthogonal to the g_t of that step, and task-owned parameters take their plain gradient.
    alpha: as just said.
    store: 'tasks' keeps all v_t, T times the parameters; 'aggregate' only the part of Agg({h_t}) orthogonal to
      Agg({g_t}), which are then used as h_t and g_t are above; with mode 'decomposed'.
    num_tasks: T, where the state may not change its shape at the first update, as in a `lax.scan` over a chain.

  Example:
    >>> mean = mtjax.optim.from_weights(lambda state, info: (jnp.full(2, 0.5), state), name='mean', needs='gramian')
    >>> tx = optax.chain(mtjax.optim.ftl(0.1, mean), optax.sgd(1.0))
    >>> curvature = jnp.array([[1.0, 4.0], [2.0, 1.0]])  # of two tasks
    >>> grad_fn = lambda points: curvature * points
    >>> w = jnp.ones(2)
    >>> updates, state = tx.update(grad_fn(jnp.stack([w, w])), tx.init(w), w, grad_fn=grad_fn)
    >>> [round(float(x), 3) for x in updates]
    [-1.602, -2.716]
  """
  check_radius(rho, 'ftl')
  for field, value, known in (('norms', norms, ('split', 'joint')), ('variant', variant, ('sam', 'asam')),
                              ('mode', mode, tuple(_modes.ROLES)), ('store', store, ('tasks', 'aggregate'))):
    if value not in known:
      raise ValueError(f'ftl has no {field} {value!r}. {did_you_mean(value, known)}')
  check_every(every_k, 'ftl')
  check_number(alpha, 'ftl', 'alpha', 0)
  if not isinstance(aggregator, base.Aggregator):
    raise ValueError(f'ftl needs an aggregator, e.g. ftl(0.05, mtjax.optim.pcgrad()), got {aggregator!r}.')
  if mode in ('second', 'each') and aggregator.needs == 'losses':
    raise ValueError(f'ftl: mode {mode!r} weighs gradients against each other, but {aggregator.name} looks at losses '
                     f"only. Use mode 'decomposed' or 'direct', or an aggregator of gradients.")
  if store == 'aggregate' and mode != 'decomposed':
    raise ValueError(f"ftl: store 'aggregate' keeps Agg({{h_t}}), which mode {mode!r} does not add to Agg({{g_t}}). "
                     f"Use store 'tasks' or mode 'decomposed'.")
  if num_tasks is not None and (not isinstance(num_tasks, int) or num_tasks < 1):
    raise ValueError(f'ftl: num_tasks must be a whole number >= 1, got {num_tasks!r}.')
  adaptive = variant == 'asam'
  given_tasks = num_tasks

  def init(params, num_tasks=None):
    tasks = num_tasks or given_tasks or 0
    axis = (tasks,) if store == 'tasks' else ()
    kept = () if every_k == 1 else jax.tree.map(lambda p: jnp.zeros((*axis, *jnp.shape(p)), jnp.result_type(p)), params)
    gram = jnp.zeros((2 * tasks, 2 * tasks), jnp.result_type(jnp.float32, *jax.tree.leaves(params)))
    return FTLState(jnp.zeros((), jnp.int32), _modes.init_rules(aggregator, mode, params, tasks), kept, gram)

  def gradients_near_by(jac, params, heads, q, owner, active, grad_fn, rho):
    """g^SAM and q^SAM."""
    sizes = jax.vmap(lambda g: _squared_norm(params, g, adaptive))(jac)
    if heads is None:
      scales, _ = ascent_scales(sizes, None, rho, norms)
      return mask_rows(like(grad_fn(task_points(params, jac, scales, adaptive)), jac, 'ftl'), active), None
    head_sizes = squared_norms(_times(heads, q) if adaptive else q, owner, sizes.shape[0])
    scales, head_scales = ascent_scales(sizes, head_sizes, rho, norms)
    steps = _times(heads, _times(heads, q)) if adaptive else q
    heads = map_owned(lambda t, phi, eta: add(phi, eta, head_scales[t]), owner, heads, steps)
    near = grad_fn(task_points(params, jac, scales, adaptive), heads)
    if not isinstance(near, tuple) or len(near) != 2:
      raise ValueError('ftl: with heads, grad_fn must return the pair (stacked gradients, gradients of the heads).')
    return mask_rows(like(near[0], jac, 'ftl'), active), like(near[1], q, 'ftl, for heads')

  def step(jac, state, params, *, grad_fn=None, losses=None, active=None, key=None, heads=None, head_grads=None,
           owners=None, **extra):
    check_second_gradient(grad_fn, params, 'ftl', 'stacked parameters -> stacked gradients', CALL)
    tasks = check_stacked(jac, state, params, losses, 'ftl')
    state = _sized(state, tasks, lambda: init(params, tasks))
    if extra.get('jac_other') is not None:
      raise ValueError('ftl has no use for jac_other: the h_t of another batch would take two more Jacobians.')
    owner = None if heads is None else owners_of(owners, heads, head_grads, tasks)
    mask = jnp.ones(tasks, bool) if active is None else active
    jac = mask_rows(jac, active)
    q = None if heads is None else map_owned(lambda t, x: jnp.where(mask[t], x, 0), owner, head_grads)
    arguments = {'losses': losses, 'active': mask, 'key': key, **extra}

    def near_by():
      return gradients_near_by(jac, params, heads, q, owner, active, grad_fn, radius(rho, state.count))

    def combined(h):
      parts = _modes.aggregate(aggregator, mode, jac, h, state.rules, params, arguments)
      return parts._replace(gramian=state.gramian if parts.gramian is None else
                            parts.gramian.astype(state.gramian.dtype))

    def plain():
      jac_sam, q_sam = near_by()
      return combined(flatness(jac_sam, jac)), (), q_sam

    def by_task():
      def look():
        jac_sam, q_sam = near_by()
        v = jax.vmap(orthogonal_part)(jac_sam, jac)
        absent = mask_rows(state.kept, ~mask)  # a task that is not there now keeps what it had
        return flatness(jac_sam, jac), add(absent, mask_rows(v, mask)), q_sam

      def look_again():
        h = jax.vmap(lambda g, v: flat_part(g, v, alpha))(jac, state.kept)
        return _cast(h, jac), state.kept, q

      h, kept, q_sam = jax.lax.cond(state.count % every_k == 0, look, look_again)
      return combined(h), kept, q_sam

    def by_aggregate():
      def look():
        jac_sam, q_sam = near_by()
        parts = combined(flatness(jac_sam, jac))
        return parts, _cast(orthogonal_part(parts.d, parts.loss), state.kept), q_sam

      def look_again():
        d, w, rule = aggregator.aggregate(jac, state.rules['loss'], params, **arguments)
        rules = {**state.rules, 'loss': rule}
        return _modes.Parts(add(d, flat_part(d, state.kept, alpha)), d, w, rules, state.gramian), state.kept, q

      return jax.lax.cond(state.count % every_k == 0, look, look_again)

    parts, kept, q_sam = (plain if every_k == 1 else by_task if store == 'tasks' else by_aggregate)()
    if heads is not None:
      w = mask.astype(jnp.float32) if parts.w is None else parts.w
      factor = aggregator.head_weights(w, base.Info(losses=losses, active=mask, key=key))
      q_sam = map_owned(lambda t, x: jnp.where(mask[t], factor[t] * x, 0).astype(x.dtype), owner, q_sam)
    return parts.d, q_sam, FTLState(optax.safe_increment(state.count), parts.rules, kept, parts.gramian)

  def observe(state, losses_after, active=None):
    rules = {role: rule if role == 'pair' else aggregator.observe(rule, losses_after, active)
             for role, rule in state.rules.items()}  # the rows of a pair are no tasks
    return state.replace(rules=rules)

  return FTL(init, step, aggregator, observe if aggregator.observe else None)


def _sized(state: FTLState, num_tasks: int, make: Callable[[], FTLState]) -> FTLState:
  """The state, made anew with its final shapes where T was unknown."""
  known = state.gramian.shape[0] // 2
  if known not in (0, num_tasks):
    raise ValueError(f'ftl: the state is that of {known} tasks, but the gradients are those of {num_tasks}.')
  return state if known else make()


def _squared_norm(params: Any, g: Any, adaptive: bool) -> jax.Array:
  x = _times(params, g) if adaptive else g
  return dot(x, x)


def _times(w: Any, g: Any) -> Any:
  return jax.tree.map(jnp.multiply, w, g)


def _cast(x: Any, example: Any) -> Any:
  return jax.tree.map(lambda a, b: a.astype(b.dtype), x, example)
