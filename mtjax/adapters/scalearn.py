"""ScaLearn: a task learns how much of each source task's adapter it wants.

Frohmann et al., "ScaLearn: Simple and Highly Parameter-Efficient Task Transfer by Learning to Scale", Findings of ACL
2024, https://arxiv.org/abs/2310.01217.

    z = mlp_out + attn_res,   h = norm(z),   u_k = f_k(h),     y = norm(z + sum_k omega_k * u_k)

f_k: the trained `pfeiffer` adapters of n sources, which are kept as what is not learnt (`with_sources`). omega is not
constrained; it begins at N(2 / n, 1e-3^2), and is itself dropped out in training. Its four shapes, a layer of width D:

    ScaLearn [n, D] a layer,   Uniform [n, 1] a layer,   ++ [n, D] of all layers,   Uniform++ [n, 1] of all layers

At site='output' with match r'norm2$', as the sources were.
"""
import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.adapters.bottleneck import bottleneck
from mtjax.adapters.intercept import FIXED, MARK
from mtjax.adapters.merging import sites_of
from mtjax.adapters.method import Leaves, Method, check_positive, check_sizes
from mtjax.adapters.sites import Site
from mtjax.adapters.spec import Spec

SOURCE = ('down', 'down_bias', 'up', 'up_bias')


@dataclasses.dataclass(frozen=True)
class Composition(Method):
  """What methods over frozen source adapters have in common.

  Not learnt: down [n, D, r], down_bias [n, r], up [n, r, D], up_bias [n, D], zeros until `with_sources`.

  Attributes:
    sources: n.
    rank: r of the sources; None = D / reduction.
    reduction: see `rank`.
    activation: of the sources.
  """
  sources: int = 1
  rank: int | None = None
  reduction: float = 16.0
  activation: str = 'relu'
  kinds: ClassVar = ('output',)
  reenters: ClassVar = True

  def __post_init__(self):
    check_sizes(self, 'sources', *(() if self.rank is None else ('rank',)))
    check_positive(self, 'reduction')

  def fits(self, site: Site) -> bool:
    return 'scale' in site.params and 'kernel' not in site.params

  def fixed(self, site: Site) -> Leaves:
    n, width = self.sources, self.rank or max(1, int(site.d_out / self.reduction))
    return {'down': jnp.zeros((n, site.d_out, width)), 'down_bias': jnp.zeros((n, width)),
            'up': jnp.zeros((n, width, site.d_out)), 'up_bias': jnp.zeros((n, site.d_out))}

  def source_outputs(self, p: Leaves, h: jax.Array) -> jax.Array:
    """u [n, L, D] of h [L, D]."""
    return jax.vmap(lambda p: bottleneck(p, h, self.activation))({leaf: p[leaf] for leaf in SOURCE})


@dataclasses.dataclass(frozen=True)
class ScaLearn(Composition):
  """ScaLearn.  Parameters: omega [n, D], [n, 1] with uniform; with shared_by_layers of all sites, else of one.

  Attributes:
    uniform: one number a source in place of one a feature.
    shared_by_layers: the ++ of the names.
    omega_dropout: of omega, in training; the paper has 0.3, and 0 for the uniform ones.
    (others as `Composition`'s.)
  """
  uniform: bool = False
  shared_by_layers: bool = False
  omega_dropout: float = 0.0
  ndim: ClassVar = {'omega': 2}

  def __post_init__(self):
    super().__post_init__()
    if not 0 <= self.omega_dropout < 1:
      raise ValueError(f'ScaLearn has omega_dropout={self.omega_dropout!r}; allowed is 0 … 1 (exclusive).')

  @property
  def leaf_dropout(self):
    return {'omega': self.omega_dropout}

  def init(self, key: jax.Array, site: Site) -> Leaves:
    return {} if self.shared_by_layers else {'omega': self._omega(key, site)}

  def shared(self, key: jax.Array, sites: Sequence[Site]) -> Leaves:
    if not self.shared_by_layers:
      return {}
    if len({site.d_out for site in sites}) > 1:
      raise ValueError(f'ScaLearn has shared_by_layers=True, but layers are {sorted({s.d_out for s in sites})} wide.')
    return {'omega': self._omega(key, sites[0])}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    return x + jnp.sum(p['omega'][:, None] * self.source_outputs(p, y), axis=0)

  def _omega(self, key, site):
    shape = (self.sources, 1 if self.uniform else site.d_out)
    return 2 / self.sources + 1e-3 * jax.random.normal(key, shape)

  def num_params(self, site: Site) -> int:
    return 0 if self.shared_by_layers else self.sources * (1 if self.uniform else site.d_out)

  def num_shared(self, sites: Sequence[Site]) -> int:
    return self.sources * (1 if self.uniform else sites[0].d_out) if self.shared_by_layers else 0


def with_sources(state: dict[str, Any], spec: Spec, source_state: dict[str, Any], source_spec: Spec) -> dict[str, Any]:
  """The state of a composition with the trained adapters of its sources in it.

  Args:
    state, spec: of one `Composition`, of ScaLearn or AdapterFusion.
    source_state, source_spec: of one Pfeiffer rule in a bank a task; the order of its tasks is that of the sources.

  Raises ValueError where sites or shapes differ.
  """
  rule, source = spec.rules[0], source_spec.rules[0]
  found = {path: leaves for path, leaves, _, layers in sites_of(source_state, source)}
  fixed = tree.flatten(state['stats']['sites'])
  wanted = {path.partition(f'/{MARK}{rule.name}{FIXED}/')[0] for path in fixed}
  if set(found) != wanted:
    raise ValueError(f'The sources are at {sorted(found)}, but are wanted at {sorted(wanted)}.')
  for path, leaves in found.items():
    for leaf in SOURCE:
      place = f'{path}/{MARK}{rule.name}{FIXED}/{leaf}'
      if fixed[place].shape != leaves[leaf].shape:
        raise ValueError(f'The sources have {leaf} {list(leaves[leaf].shape)} at {path!r}, but wanted is '
                         f'{list(fixed[place].shape)}: sources={rule.method.sources}, rank={rule.method.rank}.')
      fixed[place] = leaves[leaf]
  return {**state, 'stats': {**state['stats'], 'sites': tree.unflatten(fixed)}}
