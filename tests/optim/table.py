"""The list of aggregators that the shared tests run on. An entry is one line; being on the list is the entry ticket.

Properties, as the shared tests check them (J the matrix of gradients, d the update from a fresh state):
  P1  no task is harmed, min_t g_t . d >= 0: always ('P1'), at full row rank ('P1 full rank'), for T = 2 ('P1 two tasks')
  P2  permuting the rows of J leaves d unchanged
  P3  d(diag(c) J) is linear in c > 0
  P4  d = 0 only where some w > 0 has J^T w = 0
  P6  the direction of d is unchanged by g_t -> c_t g_t
All of them: P5, d(s J) = s^degree d(J); P7, d = J^T w (unless `row_space` is False) and finite whatever J is; jit, masks,
dtypes.
"""
import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from optim.calls import quick_jit

from mtjax import optim
from mtjax.optim import base
from mtjax.optim.stacked import equal_shares


@dataclasses.dataclass(frozen=True)
class Method:
  """One aggregator with fixed settings, and what holds for it.

  Attributes:
    name: for the test's id.
    make: -> the aggregator.
    properties: which of the above hold, comma-separated.
    degree: of homogeneity.
    row_space: whether d is a combination of the rows.
    min_tasks: the smallest T.
    draws_orders: whether it draws orders of tasks, which depend on how many there are.
    slack: how far P1 and P3 may be off, relative to ||J||, by the method's own regularisation.
  """

  name: str
  make: Callable[[], base.Aggregator]
  properties: str = ''
  degree: float = 1.0
  row_space: bool = True
  min_tasks: int = 1
  draws_orders: bool = False
  slack: float = 0.0

  def has(self, name: str) -> bool:
    """Whether a property is on the list."""
    return name in [p.strip() for p in self.properties.split(',')]

  def __str__(self):
    return self.name


def mean() -> base.Aggregator:
  """The yardstick: d = the mean of the rows."""
  return base.from_weights(lambda state, info: (equal_shares(info.mask, info.gramian.dtype), state),
                           name='mean', needs='gramian')


P = functools.partial
METHODS = (
  Method('mean', mean, 'P2, P3'),
  Method('mgda', optim.mgda, 'P1, P2', slack=1e-6),
  Method('mgda fw', P(optim.mgda, solver='fw'), 'P2'),
  Method('mgda loss+', P(optim.mgda, normalize='loss+'), 'P2'),
  Method('mgda_ub', optim.mgda_ub, 'P1, P2', slack=1e-6),
  Method('upgrad', optim.upgrad, 'P1, P2, P3, P4', slack=1e-6),
  Method('upgrad exact', P(optim.upgrad, regularisation=0.0), 'P1, P2, P3, P4'),
  Method('dualproj', optim.dualproj, 'P1, P2, P4', slack=1e-6),
  Method('cagrad', optim.cagrad, 'P2'),
  Method('cagrad c=1', P(optim.cagrad, c=1.0), 'P1, P2', slack=1e-8),
  Method('imtl_g', optim.imtl_g, 'P2, P6'),
  Method('config', optim.config, 'P1 full rank, P2, P3, P6'),
  Method('m_config', optim.m_config, 'P1 full rank, P2, P3, P6'),
  Method('nash_mtl', P(optim.nash_mtl, max_norm=None), 'P1 full rank, P2', degree=0.0),
  Method('nash_mtl every 3', P(optim.nash_mtl, max_norm=None, every_k=3), 'P1 full rank, P2', degree=0.0),
  Method('fairgrad 2', P(optim.fairgrad, alpha=2.0), 'P1 full rank, P2', degree=-1 / 3),
  Method('fairgrad 0.5', P(optim.fairgrad, alpha=0.5), 'P1 full rank, P2', degree=1 / 3),
  Method('aligned_mtl', optim.aligned_mtl, 'P2'),
  Method('aligned_mtl median', P(optim.aligned_mtl, mode='median'), 'P2'),
  Method('aligned_mtl rmse', P(optim.aligned_mtl, mode='rmse'), 'P2'),
  Method('pcd', P(optim.pcd, tau=0.0), 'P1 full rank'),
  Method('pcgrad', optim.pcgrad, 'P1 two tasks', draws_orders=True),
  Method('pcgrad mean', P(optim.pcgrad, reduction='mean'), 'P1 two tasks', draws_orders=True),
  Method('gradvac', optim.gradvac, 'P1 two tasks', draws_orders=True),
  Method('gradvac matrix', P(optim.gradvac, groups='matrix'), 'P1 two tasks', draws_orders=True),
  Method('krum', optim.krum, 'P2', min_tasks=5),  # of 4, two nearest neighbours always tie
  Method('trimmed_mean', optim.trimmed_mean, 'P2', row_space=False, min_tasks=3),
  Method('cr_mogm', lambda: optim.cr_mogm(optim.upgrad()), 'P1, P2, P3, P4', slack=1e-6),
)


# One program a method and dtype serves all sizes: what is smaller is padded with absent tasks and columns of zeros.
MAX_TASKS, MAX_COLUMNS = 20, 100


@functools.cache
def compiled(method: Method, num_tasks: int, num_columns: int):
  """A jitted (J, active, losses) -> (d, w) from a fresh state."""
  tx = method.make()

  def update(jac, active, losses):
    state = tx.init({'w': jnp.zeros(num_columns, jac.dtype)}, num_tasks)
    d, w, _ = tx.aggregate({'w': jac}, state, active=active, losses=losses)
    return d['w'], w

  return quick_jit(update)


def run(method: Method, jac: np.ndarray, dtype=np.float64, *, padded: bool = True,
        losses: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray | None]:
  """(d, w) of a numpy matrix J, as float64; NaN where an absent task's row would be read. Losses are 1, 2, 3, 1, ..."""
  num_tasks, num_columns = jac.shape
  rows, columns = (MAX_TASKS, MAX_COLUMNS) if padded else jac.shape
  full = np.zeros((rows, columns))
  full[:num_tasks, :num_columns] = jac
  full[num_tasks:] = np.nan
  all_losses = np.full(rows, np.nan)
  all_losses[:num_tasks] = 1 + np.arange(num_tasks) % 3 if losses is None else losses
  with jax.enable_x64(dtype == np.float64):
    arrays = jnp.asarray(full, dtype), jnp.arange(rows) < num_tasks, jnp.asarray(all_losses, dtype)
    d, w = compiled(method, rows, columns)(*arrays)
    d, w = np.asarray(d, np.float64), None if w is None else np.asarray(w, np.float64)
  assert not d[num_columns:].any() and (w is None or not w[num_tasks:].any())
  return d[:num_columns], None if w is None else w[:num_tasks]
