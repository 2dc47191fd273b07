"""Banks: where a site's parameters come from, for each row of a batch.

    Bank()                                    one set for all tasks
    Bank(tasks=T)                             one set a task: row b gets theta[t_b]
    Bank(tasks=T, index={'up': (0, 0, 1)})    tasks share parts: here tasks 0 and 1 the leaves that 'up' finds
    Bank(tasks=T, skills=K, router=…)         an inventory: row b gets sum_k w_bk theta_k, w from the router
    Bank(…, splits=Q)                         each of Q parts of the features has weights of its own (MHR)
    Bank(tasks=T, generated_by=…)             theta_t comes out of a hypernetwork (`mtjax.hypernets`)

Parameters are mixed, then applied: the factors of a low-rank product are averaged, not the products. A hard choice is
a gather, so that T tasks cost what one does; with `ctx.mix` [B, T] rows mix tasks. Leaves lie as [slots, *shape].
Ponti et al., "Combining Parameter-efficient Modules for Task-level Generalisation", 2022,
https://arxiv.org/abs/2202.13914; Caccia et al., "Multi-Head Adapter Routing", 2023, https://arxiv.org/abs/2211.03831;
sharing tables: Sung et al., "VL-Adapter", 2022, https://arxiv.org/abs/2112.06825.
"""
import dataclasses
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax.adapters.method import Leaves
from mtjax.config import did_you_mean
from mtjax.context import Ctx

KINDS = ('shared', 'task', 'skill', 'generated')


@dataclasses.dataclass(frozen=True)
class Bank:
  """See above.

  Attributes:
    per: 'shared', 'task', 'skill' or 'generated'; None = what the other fields say. `Bank(per='task')` gets its tasks
      from the run.
    tasks: T, or the names of the tasks in the order of their ids.
    index: {expression over leaf names: the slot of each task}; leaves that none finds have one slot a task.
    skills: K.
    splits: Q, which divides the sizes of the split axes.
    router: what weights the skills; None = `ctx.mix` does.
    generated_by: a hypernetwork.
  """
  per: str | None = None
  tasks: int | Sequence[str] | None = None
  index: Mapping[str, Sequence[int]] | None = None
  skills: int | None = None
  splits: int = 1
  router: Any = None
  generated_by: Any = None

  def __post_init__(self):
    if self.tasks is not None and not isinstance(self.tasks, int):
      object.__setattr__(self, 'tasks', tuple(self.tasks))
      if len(set(self.tasks)) < len(self.tasks):
        raise ValueError(f'Bank has tasks={self.tasks!r}; a name may be there once.')
    inferred = ('generated' if self.generated_by is not None else 'skill' if self.skills is not None
                else 'task' if self.tasks is not None else 'shared')
    per = self.per or inferred
    object.__setattr__(self, 'per', per)
    if per not in KINDS:
      raise ValueError(f'Bank has per={per!r}. {did_you_mean(per, KINDS)}')
    if (per == 'generated') != (self.generated_by is not None) or (per == 'skill') != (self.skills is not None):
      raise ValueError(f"Bank has per={per!r}, skills={self.skills!r} and generated_by={self.generated_by!r}; allowed "
                       f"are skills with per='skill' alone, and generated_by with per='generated' alone.")
    for field in ('tasks', 'skills', 'splits'):
      value = getattr(self, field)
      if isinstance(value, (int, float)) and (isinstance(value, bool) or value != int(value) or value < 1):
        raise ValueError(f'Bank has {field}={value!r}; allowed is an integer >= 1.')
    if (self.router is not None or self.splits > 1) and per != 'skill':
      raise ValueError(f'Bank has a router or splits={self.splits} with per={per!r}; give skills=K, too.')
    if self.index is not None:
      if per != 'task':
        raise ValueError(f"Bank has an index with per={per!r}; it is for per='task'.")
      object.__setattr__(self, 'index', {name: tuple(ids) for name, ids in self.index.items()})
      for name, ids in self.index.items():
        if self.tasks is not None and len(ids) != self.num_tasks or sorted(set(ids)) != list(range(max(ids) + 1)):
          raise ValueError(f'Bank has index[{name!r}]={ids}; allowed is a slot for each of the {self.num_tasks} tasks, '
                           f'counted from 0 without gaps.')

  @property
  def num_tasks(self) -> int | None:
    """T, None where the bank does not know tasks."""
    return len(self.tasks) if isinstance(self.tasks, tuple) else self.tasks

  @property
  def has_slots(self) -> bool:
    """Whether stored leaves have a leading axis of slots."""
    return self.per in ('task', 'skill')

  def with_tasks(self, names: Sequence[str]) -> 'Bank':
    """The same bank for these tasks, where it is one that knows tasks and was not told which."""
    fixed = self.tasks is not None or self.per == 'shared' or self.per == 'skill' and self.router is None
    return self if fixed else dataclasses.replace(self, tasks=tuple(names))

  def task_index(self, task: int | str) -> int:
    """The id of a task that is given by name or id."""
    if isinstance(task, str):
      if not isinstance(self.tasks, tuple) or task not in self.tasks:
        names = self.tasks if isinstance(self.tasks, tuple) else [str(t) for t in range(self.num_tasks or 0)]
        raise ValueError(f'Unknown task {task!r}. {did_you_mean(task, names)}')
      return self.tasks.index(task)
    if self.num_tasks is not None and not 0 <= task < self.num_tasks:
      raise ValueError(f'task={task!r} is not one of the {self.num_tasks} tasks; allowed is 0 … {self.num_tasks - 1}.')
    return int(task)

  def slots_of(self, leaf: str) -> tuple[int, ...]:
    """The slot of each task, of a leaf of a bank a task."""
    for pattern, ids in (self.index or {}).items():
      if re.search(pattern, leaf):
        return ids
    return tuple(range(self.num_tasks))

  def num_slots(self, leaf: str = '') -> int:
    """How many parameter sets are stored of a leaf."""
    if self.per == 'task':
      return 1 + max(self.slots_of(leaf))
    return self.skills if self.per == 'skill' else 1 if self.per == 'shared' else 0

  def init(self, key: jax.Array, make: Callable[[jax.Array], Leaves]) -> Leaves:
    """The stored leaves; each task's own draws depend on its name, so that adding one leaves the others alone."""
    if self.per == 'shared':
      return make(key)
    if self.per == 'skill' or isinstance(self.tasks, int):
      names = range(self.skills or self.tasks)
    else:
      names = [zlib.crc32(name.encode()) for name in self.tasks]
    sets = jax.vmap(make)(jnp.stack([jax.random.fold_in(key, name) for name in names]))
    if self.index:
      sets = {leaf: x[:self.num_slots(leaf)] for leaf, x in sets.items()}
    return sets

  def rows(self, stored: Leaves, ctx: Ctx | None, rule: str, prepare: Callable[[Leaves], Leaves] | None = None,
           weights: jax.Array | None = None, split_axis: Mapping[str, int] | None = None) -> tuple[Leaves, bool]:
    """The parameters of each row.

    Args:
      stored: leaves with their slots.
      ctx: what rows are for.
      rule: the name of the rule, for errors, and to find its mixing weights where ctx.mix is a dict.
      prepare: of the method, for one parameter set.
      weights: [K] or [B, K], of a router; with splits [Q, K] or [B, Q, K].
      split_axis: {leaf: axis}, see `Method`.

    Returns:
      (leaves, whether they have a leading axis of rows).
    """
    prepare = prepare or (lambda p: p)
    if self.per == 'shared':
      return prepare(stored), False
    if self.per in ('task', 'generated') and (ctx is None or ctx.mix is None):
      return self._hard(stored, ctx, rule, prepare)
    if weights is None:
      weights = None if ctx is None else ctx.mix[rule] if isinstance(ctx.mix, Mapping) else ctx.mix
    if weights is None:
      raise ValueError(f"The bank of rule '{rule}' has no router: give ctx.mix [B, {self.skills}].")
    if self.index:
      stored = {leaf: x[jnp.array(self.slots_of(leaf))] for leaf, x in stored.items()}
    axes = split_axis or {}
    mixed = {leaf: mix_slots(x, weights, self.splits, axes.get(leaf)) for leaf, x in stored.items()}
    batched = weights.ndim == (2 if self.splits == 1 else 3)
    return (jax.vmap(prepare)(mixed) if batched else prepare(mixed)), batched

  def _hard(self, stored, ctx, rule, prepare):
    """One task a row."""
    ids = jnp.zeros((), jnp.int32) if self.num_tasks == 1 else None if ctx is None else ctx.task_id
    if ids is None:
      raise ValueError(f"The bank of rule '{rule}' has parameters a task, but ctx says of no row which it serves: give "
                       f'ctx=Ctx(task_id=ids) or Ctx(mix=weights).')
    if not jnp.issubdtype(ids.dtype, jnp.integer) or ids.ndim > 1:
      raise ValueError(f'ctx.task_id is {ids.dtype} {list(ids.shape)}; allowed are integers [B], or one.')

    def take(leaf, x):  # an id that no task has gives NaN
      slots = ids if not self.index else jnp.take(jnp.array(self.slots_of(leaf)), ids, mode='fill', fill_value=len(x))
      return jnp.take(x, slots, axis=0, mode='fill')

    if not ids.ndim:
      return prepare({leaf: take(leaf, x) for leaf, x in stored.items()}), False
    if self.index or self.num_tasks > ids.shape[0]:
      return jax.vmap(prepare)({leaf: take(leaf, x) for leaf, x in stored.items()}), True
    return {leaf: take(leaf, x) for leaf, x in jax.vmap(prepare)(stored).items()}, True


def mix_slots(x: jax.Array, weights: jax.Array, splits: int = 1, axis: int | None = None) -> jax.Array:
  """sum_k w_k x_k:  x [K, *shape], weights [..., K] -> [..., *shape].

  With splits, weights are [..., Q, K], and entry i of the shape's axis `axis` belongs to split i // (size / Q); a leaf
  without such an axis gets the mean of the splits' weights.
  """
  weights = weights.astype(x.dtype)
  if splits == 1 or axis is None:
    return jnp.tensordot(weights if splits == 1 else weights.mean(axis=-2), x, 1)
  size = x.shape[1 + axis]
  if size % splits:
    raise ValueError(f'Bank has splits={splits}, which does not divide the {size} features of an adapted module.')
  parts = jnp.moveaxis(x, 1 + axis, 1).reshape(x.shape[0], splits, size // splits, -1)
  mixed = jnp.einsum('...qk,kqiz->...qiz', weights, parts)
  rest = tuple(n for i, n in enumerate(x.shape[1:]) if i != axis)
  mixed = mixed.reshape(*weights.shape[:-2], size, *rest)
  lead = weights.ndim - 2
  return jnp.moveaxis(mixed, lead, lead + axis)
