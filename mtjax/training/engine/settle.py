"""Between the heads and the trunk: raw sums become losses, and what is absent or not finite is masked."""
import jax
import jax.numpy as jnp

from mtjax.autodiff.graph import Graph
from mtjax.objective import Losses
from mtjax.training.engine.passes import Heads


class Settled:
  """Turns the heads' raw sums into losses, and scales their gradients by weight / normaliser.

  A task without a labelled row does not take part; one whose loss or head gradient is not finite is masked.

  Args:
    task_weights: [T], factors of the losses.

  Attributes (after the call):
    values: [T], weighted mean losses; 0 where not active.
    active, bad: [T] bool.
  """

  def __init__(self, task_weights: jax.Array):
    self.task_weights = task_weights

  def __call__(self, graph: Graph, found: Heads) -> Heads:
    labelled, fine = found.normalisers > 0, found.finite()
    self.active, self.bad = labelled & fine, labelled & ~fine
    factor = jnp.where(self.active, self.task_weights / jnp.where(labelled, found.normalisers, 1), 0)
    self._sums, self._normalisers = found.sums, found.normalisers
    self.factor = factor
    self.values = jnp.where(self.active, found.sums, 0) * factor
    return found.scale(graph, factor)

  def losses(self, active: jax.Array) -> Losses:
    """The losses of the tasks that took part."""
    return Losses(jnp.where(active, self._sums, 0), jnp.where(active, self._normalisers, 0))
