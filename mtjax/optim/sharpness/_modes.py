"""How F-MTL makes one update of the gradients g_t (loss) and their changes h_t (flatness) of T tasks.

    decomposed   Agg({g_t}) + Agg({h_t})
    direct       Agg({g_t + h_t})
    second       Agg({Agg({g_t}), Agg({h_t})})
    each         Agg({u_t}),  u_t = Agg({g_t, h_t})

g, h: trees of leaves [T, *shape]. Each place at which the aggregator is called has a state of its own: ROLES.
A rule may be undefined where an h_t is 0 (0 / ||h_t||). Such a row stays, as it counts in 1/T, and if what the rule
then gives is not finite, there is no flatness part.
"""
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtjax.optim import base
from mtjax.optim.sharpness._algebra import add, dot
from mtjax.optim.stacked import combine, gramian

ROLES = {'decomposed': ('loss', 'flat'), 'direct': ('tasks',), 'second': ('loss', 'flat', 'pair'),
         'each': ('pair', 'tasks')}


class Parts(NamedTuple):
  """What a step makes of the rows.

  Attributes:
    d: the update, like the parameters.
    loss: its loss part Agg({g_t}) where the mode has one, else None.
    w: [T], the weights of the tasks; None where the aggregator has none.
    rules: {role: state of the aggregator there}.
    gramian: [2T, 2T] of the rows (g, h); None where it was not needed.
  """

  d: Any
  loss: Any
  w: jax.Array | None
  rules: dict[str, Any]
  gramian: jax.Array | None = None


def init_rules(aggregator: base.Aggregator, mode: str, params: Any, num_tasks: int) -> dict[str, Any]:
  """The states of the aggregator. In `each` it has one for every pair (g_t, h_t), with a leading axis T."""
  rules = {role: aggregator.init(params, 2 if role == 'pair' else num_tasks) for role in ROLES[mode]}
  if mode == 'each':
    rules['pair'] = jax.tree.map(lambda x: jnp.repeat(jnp.asarray(x)[None], num_tasks, axis=0), rules['pair'])
  return rules


def aggregate(aggregator: base.Aggregator, mode: str, g: Any, h: Any, rules: dict[str, Any], params: Any,
              arguments: dict[str, Any]) -> Parts:
  """One update of the 2T rows.

  Args:
    aggregator: Agg.
    mode: as above.
    g, h: the rows; 0 where a task is not active.
    rules: {role: state}.
    params: the parameters.
    arguments: extra ones of the aggregator; at least `losses` (or None), `active` [T] and `key` (or None).
  """
  losses, active = arguments['losses'], arguments['active']

  def of_tasks(role, rows):
    return aggregator.aggregate(rows, rules[role], params, **arguments)

  def of_pair(state, rows, loss):
    pair_losses = None if loss is None else jnp.stack([loss, loss])
    u, _, state = aggregator.aggregate(rows, state, params, losses=pair_losses, key=arguments['key'])
    return u, state

  squares = jax.vmap(dot)(h, h)
  still = active & (squares == 0)
  if mode == 'direct':
    d, w, tasks = of_tasks('tasks', add(g, h))
    return Parts(d, None, w, {'tasks': tasks})
  if mode == 'each':
    u, pair = jax.vmap(of_pair)(rules['pair'], _stack(g, h, axis=1), losses)
    d, w, tasks = of_tasks('tasks', _defined(u, still, g))
    return Parts(d, None, w, {'pair': pair, 'tasks': tasks})

  if aggregator.needs == 'gramian' and getattr(aggregator, 'layer', None) is None:
    (d_loss, w, loss), (d_flat, flat), gram = _by_gramian(aggregator, g, h, rules, squares > 0, arguments)
  else:
    (d_loss, w, loss), (d_flat, _, flat), gram = of_tasks('loss', g), of_tasks('flat', h), None
  d_flat = _defined(d_flat, still.any() & jnp.isfinite(squares.sum()), jax.tree.map(jnp.zeros_like, d_flat))
  new = {'loss': loss, 'flat': flat}
  if mode == 'decomposed':
    return Parts(add(d_loss, d_flat), d_loss, w, new, gram)
  mean_loss = None if losses is None else jnp.where(active, losses, 0).sum() / jnp.maximum(active.sum(), 1)
  d, new['pair'] = of_pair(rules['pair'], _stack(d_loss, d_flat), mean_loss)
  return Parts(_defined(d, dot(d_flat, d_flat) == 0, d_loss), d_loss, w, new, gram)


def _by_gramian(aggregator, g, h, rules, moved, arguments):
  """(Agg({g_t}), w, state), (Agg({h_t}), state), and the Gramian, out of one pass over all 2T rows."""
  gram = gramian(jax.tree.map(lambda x, y: jnp.concatenate([x, y]), g, h))
  num_tasks = moved.shape[0]
  losses_after = arguments.get('losses_after')
  given = {name: arguments.get(name) for name in base.Info.__dataclass_fields__}

  def weigh(state, block):
    if aggregator.observe is not None and losses_after is not None:
      state = aggregator.observe(state, losses_after)
    return aggregator.weights(state, base.Info(**{**given, 'gramian': block}))

  w, loss = weigh(rules['loss'], gram[:num_tasks, :num_tasks])
  w_flat, flat = weigh(rules['flat'], gram[num_tasks:, num_tasks:])
  return (combine(g, w), w, loss), (combine(h, jnp.where(moved, w_flat, 0)), flat), gram


def _stack(x: Any, y: Any, axis: int = 0) -> Any:
  return jax.tree.map(lambda a, b: jnp.stack([a, b], axis), x, y)


def _defined(x: Any, undefined: jax.Array, fallback: Any) -> Any:
  """x, with `fallback` in place of what is not finite where `undefined` (a scalar, or one entry a row) holds."""
  def leaf(a, b):
    where = undefined.reshape(-1, *[1] * (a.ndim - 1)) if undefined.ndim else undefined
    return jnp.where(where & ~jnp.isfinite(a), b, a)

  return jax.tree.map(leaf, x, fallback)
