"""GradVac: PCGrad towards a target cosine of each pair instead of towards 0.

Wang et al., "Gradient Vaccine: Investigating and Improving Multi-task Optimization in Massively Multilingual Models",
ICLR 2021, https://arxiv.org/abs/2010.05874.

    g'_i = g_i;  for j != i in random order, phi = cos(g'_i, g_j):
      if phi < target_ij:  g'_i <- g'_i + a g_j,
        a = ||g'_i|| (target_ij sqrt(1 - phi^2) - phi sqrt(1 - target_ij^2)) / (||g_j|| sqrt(1 - target_ij^2))
      target_ij <- (1 - beta) target_ij + beta phi
    d = sum_i g'_i

After a step by a g_j, cos(g'_i, g_j) = target_ij. G = J J^T, targets: [T, T], 0 at first. g'_i = sum_j K_ij g_j with
K: [T, T], as in `pcgrad`. With groups 'layer' or 'matrix' each group of parameters has its own G, orders and targets.
Differs from the paper's text: targets are kept within 1e-6 of -1 and 1, where the step would divide by 0.
"""
import collections
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.config import did_you_mean
from mtjax.optim import base
from mtjax.optim._checks import check_number
from mtjax.optim.aggregators.pcgrad import random_orders
from mtjax.optim.solvers import unit_trace
from mtjax.optim.stacked import combine, drop_inactive, gramian

GROUPS = ('model', 'layer', 'matrix')


class GradVacState(NamedTuple):
  """What GradVac remembers.

  Attributes:
    targets: [T, T], or [T, T, groups], running averages of the cosines.
    count: int32, updates so far.
  """

  targets: jax.Array
  count: jax.Array


def gradvac_coefficients(gram: jax.Array, targets: jax.Array, orders: jax.Array,
                         beta: float) -> tuple[jax.Array, jax.Array]:
  """(K [T, T], new targets [T, T]).  gram [T, T], orders [T, n]: row i the tasks that i meets; itself counts not."""
  gram, _ = unit_trace(gram)
  rows = jnp.arange(len(gram))
  norms = jnp.sqrt(jnp.maximum(jnp.diagonal(gram), 0))
  tiny = jnp.finfo(gram.dtype).tiny

  def meet(position, carry):
    k, targets = carry
    j = orders[:, position]
    product = jnp.sum(k * gram[j], axis=1)                                  # g'_i . g_j
    norm = jnp.sqrt(jnp.maximum(jnp.sum(k * (k @ gram), axis=1), 0))        # ||g'_i||
    meets = (j != rows) & (norm * norms[j] > tiny)
    phi = jnp.clip(product / jnp.where(meets, norm * norms[j], 1), -1, 1)
    target = targets[rows, j]
    goal = jnp.clip(target, -1 + 1e-6, 1 - 1e-6)
    sine, goal_sine = jnp.sqrt((1 - phi) * (1 + phi)), jnp.sqrt((1 - goal) * (1 + goal))
    a = norm * (goal * sine - phi * goal_sine) / (jnp.where(meets, norms[j], 1) * goal_sine)
    k = k.at[rows, j].add(jnp.where(meets & (phi < goal), a, 0))
    return k, targets.at[rows, j].set(jnp.where(meets, (1 - beta) * target + beta * phi, target))

  return jax.lax.fori_loop(0, orders.shape[1], meet, (jnp.eye(len(gram), dtype=gram.dtype), targets.astype(gram.dtype)))


def group_names(params: Any, groups: str) -> list[str]:
  """The group of every leaf, in the order of the leaves: its path ('matrix') or the path of its layer ('layer')."""
  paths = tree.flatten(params)
  return [path if groups == 'matrix' else path.rpartition('/')[0] for path in paths]


def gradvac(beta: float = 0.01, groups: str = 'model', seed: int = 0, scale_heads: bool = False) -> base.Aggregator:
  """GradVac as an optax transform of stacked gradients.

  Args:
    beta: of the running averages, in [0, 1]; 0.01 in the paper, 0.5 in LibMTL and TorchJD.
    groups: 'model' (needs the Gramian only), or per 'layer' (leaves with the same parent) or 'matrix' (every leaf).
    seed: of the orders, where `update` is given no key.
    scale_heads: whether w multiplies the gradients of task-owned parameters too; needs groups='model'.

  Example:
    >>> tx = optax.chain(mtjax.optim.gradvac(), optax.sgd(1.0))
    >>> jac = {'w': jnp.array([[-4., 1, 1], [6, 1, 1]])}
    >>> updates, _ = tx.update(jac, tx.init({'w': jnp.zeros(3)}))
    >>> print(*(f'{x:.2f}' for x in updates['w']))
    -0.58 -3.80 -3.80
  """
  check_number(beta, 'gradvac', 'beta', 0, 1)
  if groups not in GROUPS:
    raise ValueError(f'gradvac: unknown groups {groups!r}. {did_you_mean(groups, GROUPS)}')
  if scale_heads and groups != 'model':
    raise ValueError(f"gradvac: scale_heads needs groups='model', since with {groups!r} a task has several weights.")

  def solve(gram, targets, orders, active):
    """(w [T], new targets) of one group."""
    coefficients, new = gradvac_coefficients(drop_inactive(gram, active, 0), targets, orders, beta)
    return jnp.where(active[:, None], coefficients, 0).sum(0), new.astype(targets.dtype)

  def weights(state, info):
    orders = random_orders(base.step_key(info, seed, state.count), info.num_tasks)
    w, targets = solve(info.gramian, state.targets, orders, info.mask)
    return w, GradVacState(targets, state.count + 1)

  def aggregate(jac, state, info):
    leaves, structure = jax.tree.flatten(jac)
    members = collections.defaultdict(list)
    for index, name in enumerate(group_names(jac, groups)):
      members[name].append(index)
    grams = jnp.stack([gramian([leaves[i] for i in indices]) for indices in members.values()])
    keys = jax.random.split(base.step_key(info, seed, state.count), len(members))
    orders = jax.vmap(lambda key: random_orders(key, info.num_tasks))(keys)
    w, targets = jax.vmap(solve, in_axes=(0, 2, 0, None), out_axes=(0, 2))(grams, state.targets, orders, info.active)
    combined = {i: combine(leaves[i], w[g]) for g, indices in enumerate(members.values()) for i in indices}
    d = structure.unflatten([combined[i] for i in range(len(leaves))])
    return d, None, GradVacState(targets, state.count + 1)

  def init(params, num_tasks):
    num_groups = len(set(group_names(params, groups)))
    return GradVacState(jnp.zeros((num_tasks, num_tasks, num_groups)), jnp.int32(0))

  if groups == 'model':
    return base.from_weights(weights, name='gradvac', needs='gramian', scale_heads=scale_heads,
                             init=lambda num_tasks: GradVacState(jnp.zeros((num_tasks, num_tasks)), jnp.int32(0)))
  return base.from_jacobian(aggregate, name='gradvac', init=init)
