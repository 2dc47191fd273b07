"""What a Gramian says of a step's conflict, at T x T cost.

  cosine         C_st = G_st / sqrt(G_ss G_tt)
  conflicts      share of pairs s < t with G_st < 0
  norm_spread    n_max / n_min,  n_t = sqrt(G_tt)
  weights, entropy of |w| / sum |w|, divided by log T: 1 = equal weights
  progress       min_t d . g_t / ||g_t||^2 = min_t (G w)_t / G_tt: the worst task's; < 0 = this step harms it
  affinity       1 - L_j(after a step on task i alone) / L_j, where the engine measures it: see mtjax.training.affinity
  stationarity   ||g_w|| / ||g_0||, the min-norm point of the hull over the mean: 0 = Pareto stationary
"""
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from mtjax.optim import stacked
from mtjax.optim.solvers.min_norm import min_norm

_TINY = 1e-30


@flax.struct.dataclass
class Diagnostics:
  """Sums over steps; divide by `steps`. Pairs and norms count the steps at which both tasks were active.

  Attributes:
    cosine: [T, T].
    conflicts: [T, T], how often G_st < 0.
    pairs: [T, T], how often both were active.
    norms: [T].
    weights: [T].
    entropy, spread, progress: scalars.
    gram: [T, T], not a sum but the latest, of which the stationarity is told when it is read.
    steps: how many were added up; 0 for statistics that need a Gramian where there was none.
    gramians: how many of them had a Gramian.
    masked: [T], how often a task's gradient was not finite and was left out.
    affinity: [T, T]; () where it is not measured, so that it costs nothing.
    affinities: [T, T], how often it was finite; or ().
  """

  cosine: jax.Array
  conflicts: jax.Array
  pairs: jax.Array
  norms: jax.Array
  weights: jax.Array
  entropy: jax.Array
  spread: jax.Array
  progress: jax.Array
  gram: jax.Array
  steps: jax.Array
  gramians: jax.Array
  masked: jax.Array
  affinity: Any = ()
  affinities: Any = ()

  @classmethod
  def zero(cls, num_tasks: int, affinity: bool = False) -> 'Diagnostics':
    """No steps; `affinity`: with room for it."""
    sizes = {'cosine': 2, 'conflicts': 2, 'pairs': 2, 'gram': 2, 'norms': 1, 'weights': 1, 'masked': 1}
    optional = ('affinity', 'affinities')
    sizes |= dict.fromkeys(optional, 2)
    return cls(**{field: jnp.zeros((num_tasks,) * sizes.get(field, 0)) for field in cls.__dataclass_fields__
                  if affinity or field not in optional})

  def __add__(self, other: 'Diagnostics') -> 'Diagnostics':
    total = jax.tree.map(jnp.add, self, other)
    return total.replace(gram=jnp.where(other.gramians > 0, other.gram, self.gram))


def of_step(gram: jax.Array | None, w: jax.Array, active: jax.Array, masked: jax.Array) -> Diagnostics:
  """The diagnostics of one step.

  Args:
    gram: [T, T], or None.
    w: [T].
    active: [T] bool.
    masked: [T] bool.
  """
  num_tasks = len(w)
  share = jnp.abs(w) / jnp.maximum(jnp.sum(jnp.abs(w)), _TINY)
  entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, _TINY)), 0))
  entropy = entropy / max(float(np.log(num_tasks)), _TINY) if num_tasks > 1 else jnp.ones(())
  result = Diagnostics.zero(num_tasks).replace(
    weights=w, entropy=entropy, steps=jnp.ones(()), masked=masked.astype(jnp.float32))
  if gram is None:
    return result
  both = (active[:, None] & active[None, :]).astype(gram.dtype)
  gram = jnp.where(both > 0, gram, 0)
  norms = jnp.sqrt(jnp.maximum(jnp.diag(gram), 0))
  products = norms[:, None] * norms[None, :]
  cosine = jnp.where(products > 0, gram / jnp.where(products > 0, products, 1), 0)
  largest, smallest = jnp.max(norms), jnp.min(jnp.where(active & (norms > 0), norms, jnp.inf))
  progress = jnp.where(active & (norms > 0), (gram @ w) / jnp.where(norms > 0, norms, 1) ** 2, jnp.inf)
  return result.replace(
    cosine=cosine, conflicts=(gram < 0).astype(gram.dtype), pairs=both, norms=norms,
    spread=jnp.where(jnp.isfinite(smallest), largest / jnp.maximum(smallest, _TINY), 1.0),
    progress=jnp.where(jnp.isfinite(jnp.min(progress)), jnp.min(progress), 0.0),
    gram=gram, gramians=jnp.ones(()))


@jax.jit
def stationarity(gram: jax.Array) -> jax.Array:
  """||g_w|| / ||g_0||: the shortest vector of the hull of the gradients over their mean. Rows of 0 are absent."""
  active = jnp.diag(gram) > 0
  w, mean = min_norm(gram, active), stacked.equal_shares(active, gram.dtype)
  length = lambda v: jnp.sqrt(jnp.maximum(v @ gram @ v, 0))
  return length(w) / jnp.maximum(length(mean), _TINY)


def report(found: Diagnostics, names: list[str]) -> dict[str, float]:
  """Means over the steps as flat names: 'gradients/<what>[/<task>[/<task>]]'. Host side.

  Args:
    found: on the host.
    names: of the tasks.
  """
  found = jax.tree.map(np.asarray, found)
  if not found.steps:
    return {}
  values: dict[str, Any] = {f'gradients/weight/{name}': w / found.steps for name, w in zip(names, found.weights)}
  values['gradients/weight_entropy'] = found.entropy / found.steps
  values |= {f'gradients/masked/{name}': count for name, count in zip(names, found.masked) if count}
  if np.size(found.affinity):
    values |= {f'gradients/affinity/{a}/{b}': found.affinity[i, j] / found.affinities[i, j]
               for i, a in enumerate(names) for j, b in enumerate(names) if found.affinities[i, j]}
  if found.gramians:
    once = np.maximum(found.pairs, 1)
    upper = np.triu_indices(len(names), 1)
    pairs = found.pairs[upper].sum()
    values['gradients/conflicts'] = found.conflicts[upper].sum() / max(pairs, 1)
    values['gradients/norm_spread'] = found.spread / found.gramians
    values['gradients/worst_progress'] = found.progress / found.gramians
    values['gradients/stationarity'] = stationarity(found.gram)
    values |= {f'gradients/norm/{name}': norm / once[i, i] for i, (name, norm) in enumerate(zip(names, found.norms))}
    values |= {f'gradients/cosine/{names[i]}/{names[j]}': found.cosine[i, j] / once[i, j]
               for i, j in zip(*upper) if found.pairs[i, j]}
  return {name: float(value) for name, value in values.items()}
