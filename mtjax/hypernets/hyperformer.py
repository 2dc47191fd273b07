"""HyperFormer: one network generates the adapters of all tasks, so that tasks share what adapting takes.

Karimi Mahabadi et al., "Parameter-efficient Multi-task Fine-tuning for Transformers via Shared Hypernetworks", ACL
2021, https://arxiv.org/abs/2106.04489.

    I = norm(relu([z_t, e] M_1 + c_1) M_2 + c_2),     theta = I G + g        for every leaf theta of a method

z_t [Z]: the embedding of task t. HyperFormer: M, c, G, g are a site's own, and there is no e; the parameters grow with
the sites. HyperFormer++: they are shared by all sites, which are told apart by e [Z], an embedding a site learns;
leaves of one name and shape have one generator. G ~ N(0, std^2) and g = 0: everything generated is near 0 at first.
With bias='method', g is what the method would begin with, for methods that are not the identity near 0 (IA3).
The layers of a scan have embeddings of their own, and all else in common.

Differs from the paper: one embedding a site in place of one a layer and one a position in it.
Shapes: T tasks, Z embedding, F hidden (128), I [64].
"""
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax.hypernets import _checks

Leaves = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class HyperFormer:
  """A generator for `Bank(tasks=T, generated_by=HyperFormer())`.

  Parameters of all sites: task_embed [T, Z]. Of a site: mlp_in [Z, F], mlp_in_bias [F], mlp_out [F, I], mlp_out_bias
  [I], norm_scale [I], norm_bias [I]; for each leaf: gen_<leaf> [I, size], offset_<leaf> [size].

  Attributes:
    embedding: Z.
    hidden: F.
    features: of I.
    std: of G.
    bias: 'zeros' or 'method': g at first.
    task_embeddings: [T][Z] numbers that are given rather than learnt (of texts, or one-hot); None = learnt.
  """
  embedding: int = 64
  hidden: int = 128
  features: int = 64
  std: float = 0.01
  bias: str = 'zeros'
  task_embeddings: Sequence[Sequence[float]] | None = None

  def __post_init__(self):
    _checks.sizes(self, 'embedding', 'hidden', 'features')
    if self.bias not in ('zeros', 'method'):
      raise ValueError(f"{type(self).__name__} has bias={self.bias!r}; allowed are 'zeros', 'method'.")
    if not self.std >= 0:
      raise ValueError(f'{type(self).__name__} has std={self.std!r}; allowed is a number >= 0.')
    if self.task_embeddings is not None:
      rows = tuple(tuple(float(x) for x in row) for row in self.task_embeddings)
      if {len(row) for row in rows} != {self.embedding}:
        raise ValueError(f'{type(self).__name__} has task_embeddings of {sorted({len(row) for row in rows})} numbers, '
                         f'but embedding={self.embedding}.')
      object.__setattr__(self, 'task_embeddings', rows)

  def init_site(self, key: jax.Array, site: Any, method: Any) -> Leaves:
    """What a site stores."""
    keys = jax.random.split(key)
    return {**self._network(keys[0], self.embedding), **self._generators(keys[1], [site], method, by_leaf)}

  def init_shared(self, key: jax.Array, bank: Any, sites: Sequence[Any], method: Any) -> Leaves:
    """What all sites share."""
    _checks.no_common(self, method)
    return self._tasks(key, bank)

  def generate(self, leaves: Mapping[str, jax.Array], bank: Any, site: Any, method: Any) -> Leaves:
    """{leaf: [T, *shape]}.

    Args:
      leaves: of the site and of all sites together.
      bank: whose tasks they are.
      site: with its shapes.
      method: whose leaves are generated.
    """
    return self._generate(leaves, self._embedded(leaves), site, method, by_leaf)

  # --- parts

  def _tasks(self, key, bank) -> Leaves:
    if self.task_embeddings is not None:
      if len(self.task_embeddings) != bank.num_tasks:
        raise ValueError(f'{type(self).__name__} has {len(self.task_embeddings)} task_embeddings for {bank.num_tasks} '
                         f'tasks; allowed is one each.')
      return {}
    return {'task_embed': jax.random.normal(key, (bank.num_tasks, self.embedding))}

  def _embedded(self, leaves) -> jax.Array:
    """[T, Z]."""
    return leaves['task_embed'] if self.task_embeddings is None else jnp.array(self.task_embeddings)

  def _network(self, key, size) -> Leaves:
    keys = jax.random.split(key)
    lecun = lambda key, shape: shape[0]**-0.5 * jax.random.normal(key, shape)
    return {'mlp_in': lecun(keys[0], (size, self.hidden)), 'mlp_in_bias': jnp.zeros(self.hidden),
            'mlp_out': lecun(keys[1], (self.hidden, self.features)), 'mlp_out_bias': jnp.zeros(self.features),
            'norm_scale': jnp.ones(self.features), 'norm_bias': jnp.zeros(self.features)}

  def _generators(self, key, sites, method, name) -> Leaves:
    found: Leaves = {}
    for site in sites:
      for leaf, shape in shapes_of(method, site).items():
        if f'gen_{name(leaf, shape)}' in found:
          continue
        key, own = jax.random.split(key)
        found[f'gen_{name(leaf, shape)}'] = self.std * jax.random.normal(own, (self.features, math.prod(shape)))
        bias = jnp.zeros(shape) if self.bias == 'zeros' else method.init(own, site)[leaf]
        found[f'offset_{name(leaf, shape)}'] = bias.reshape(-1)
    return found

  def _generate(self, leaves, embedded, site, method, name) -> Leaves:
    features = hidden_features(leaves, embedded)
    found = {}
    for leaf, shape in shapes_of(method, site).items():
      flat = features @ leaves[f'gen_{name(leaf, shape)}'] + leaves[f'offset_{name(leaf, shape)}'][None]
      found[leaf] = flat.reshape(-1, *shape)
    return found


@dataclasses.dataclass(frozen=True)
class HyperFormerPlus(HyperFormer):
  """HyperFormer++: one network for all sites.  Parameters of a site: site_embed [Z]; all else is shared.

  Generators are called gen_<leaf>_<shape>, offset_<leaf>_<shape>. The first layer reads 2 Z numbers. Attributes as
  `HyperFormer`'s.
  """

  def init_site(self, key: jax.Array, site: Any, method: Any) -> Leaves:
    return {'site_embed': jax.random.normal(key, (self.embedding,))}

  def init_shared(self, key: jax.Array, bank: Any, sites: Sequence[Any], method: Any) -> Leaves:
    keys = jax.random.split(key, 3)
    generators = self._generators(keys[2], sites, method, by_shape)
    return {**super().init_shared(keys[0], bank, sites, method), **self._network(keys[1], 2 * self.embedding),
            **generators}

  def generate(self, leaves: Mapping[str, jax.Array], bank: Any, site: Any, method: Any) -> Leaves:
    tasks = self._embedded(leaves)
    both = jnp.concatenate([tasks, jnp.broadcast_to(leaves['site_embed'][None], tasks.shape)], axis=1)
    return self._generate(leaves, both, site, method, by_shape)


def hidden_features(p: Mapping[str, jax.Array], x: jax.Array) -> jax.Array:
  """I:  x [T, ...] -> [T, I], normalised with epsilon 1e-6."""
  h = jax.nn.relu(x @ p['mlp_in'] + p['mlp_in_bias'][None]) @ p['mlp_out'] + p['mlp_out_bias'][None]
  h = (h - h.mean(-1, keepdims=True)) * jax.lax.rsqrt(h.var(-1, keepdims=True) + 1e-6)
  return h * p['norm_scale'][None] + p['norm_bias'][None]


def shapes_of(method: Any, site: Any) -> dict[str, tuple[int, ...]]:
  """{leaf: shape} of a method's parameter set at a site."""
  shapes = jax.eval_shape(lambda: method.init(jax.random.key(0), site))
  return {leaf: tuple(x.shape) for leaf, x in shapes.items()}


def by_leaf(leaf: str, shape: Sequence[int]) -> str:
  """The name of a site's own generator."""
  return leaf


def by_shape(leaf: str, shape: Sequence[int]) -> str:
  """The name of the generator of all leaves of this name and shape."""
  return f'{leaf}_{"x".join(map(str, shape))}'
