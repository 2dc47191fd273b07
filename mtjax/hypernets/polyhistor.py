"""Polyhistor: hypernetworks whose output is a product of two small matrices, and templates that layers share.

Liu et al., "Polyhistor: Parameter-Efficient Multi-Task Adaptation for Dense Vision Tasks", NeurIPS 2022,
https://arxiv.org/abs/2210.03265; there is no public code.

    decomposed (Polyhistor):   W_t = P(v_t) R(v_t),     P: [Z] -> [d, m],  R: [Z] -> [m, n]        linear in v_t
    Polyhistor-Lite:           W_lt = S_l (x) W_t,      W_t: a template [d/a, n/b] as above, S_l [a, b]

v_t [Z]: the embedding of task t. A generator of d x n numbers has Z d n parameters, the decomposed one Z m (d + n). The
templates of Lite are shared by all sites of equal template shape, the kernels S_l by all tasks: sizes add, where
layers and tasks would multiply them. Leaves of one axis (biases) are linear in v_t. Generators ~ N(0, std^2), so that
adapters are near 0 at first; S_l ~ N(1, std^2) / its size, so that it is not 0, too.

Differs from the paper, whose sharing over blocks is not spelt out: every site of Polyhistor has generators of its own.
"""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mtjax.hypernets import _checks
from mtjax.hypernets.hyperformer import shapes_of

Leaves = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Polyhistor:
  """A generator for `Bank(tasks=T, generated_by=Polyhistor())`.

  Parameters of all sites: task_embed [T, Z]. Of a site, for a leaf of two axes: left_<leaf> [Z, d, m], right_<leaf>
  [Z, m, n]; for others: gen_<leaf> [Z, *shape].

  Attributes:
    embedding: Z.
    inner: m.
    std: of the generators at first; None = Z^-1/2 / 10.
  """
  embedding: int = 64
  inner: int = 2
  std: float | None = None

  def __post_init__(self):
    _checks.sizes(self, 'embedding', 'inner')

  def init_site(self, key: jax.Array, site: Any, method: Any) -> Leaves:
    """What a site stores."""
    return self._generators(key, shapes_of(method, site))

  def init_shared(self, key: jax.Array, bank: Any, sites: Sequence[Any], method: Any) -> Leaves:
    """What all sites share."""
    _checks.no_common(self, method)
    return {'task_embed': jax.random.normal(key, (bank.num_tasks, self.embedding))}

  def generate(self, leaves: Mapping[str, jax.Array], bank: Any, site: Any, method: Any) -> Leaves:
    """{leaf: [T, *shape]} of the leaves of a site and of all sites together."""
    return {leaf: self._one(leaves, leaf, shape) for leaf, shape in shapes_of(method, site).items()}

  def _generators(self, key, shapes) -> Leaves:
    std, found = self.embedding**-0.5 / 10 if self.std is None else self.std, {}
    for name, shape in shapes.items():
      key, one, two = jax.random.split(key, 3)
      if len(shape) == 2:
        found[f'left_{name}'] = std * jax.random.normal(one, (self.embedding, shape[0], self.inner))
        found[f'right_{name}'] = std * jax.random.normal(two, (self.embedding, self.inner, shape[1]))
      else:
        found[f'gen_{name}'] = std * jax.random.normal(one, (self.embedding, *shape))
    return found

  def _one(self, leaves, name, shape) -> jax.Array:
    """[T, *shape]."""
    v = leaves['task_embed']
    if len(shape) == 2:
      return jnp.einsum('tdm,tmn->tdn', jnp.tensordot(v, leaves[f'left_{name}'], 1),
                        jnp.tensordot(v, leaves[f'right_{name}'], 1))
    return jnp.tensordot(v, leaves[f'gen_{name}'], 1)


@dataclasses.dataclass(frozen=True)
class PolyhistorLite(Polyhistor):
  """Polyhistor-Lite.  Parameters of a site, for a leaf of two axes: kernel_<leaf> [a, b]; templates are shared.

  Attributes as `Polyhistor`'s, and:
    template: rows and columns of the largest template; what divides a leaf's axes and is not larger is taken.
  """
  template: int = 8

  def __post_init__(self):
    super().__post_init__()
    _checks.sizes(self, 'template')

  def init_site(self, key: jax.Array, site: Any, method: Any) -> Leaves:
    found = {}
    for name, shape in shapes_of(method, site).items():
      key, own = jax.random.split(key)
      if len(shape) == 2:
        small = self._template(shape)
        outer = (shape[0] // small[0], shape[1] // small[1])
        found[f'kernel_{name}'] = (1 + 0.1 * jax.random.normal(own, outer)) / (outer[0] * outer[1])**0.5
    return found

  def init_shared(self, key: jax.Array, bank: Any, sites: Sequence[Any], method: Any) -> Leaves:
    keys = jax.random.split(key)
    shapes = {self._name(leaf, shape): self._template(shape) for site in sites
              for leaf, shape in shapes_of(method, site).items()}
    return {**super().init_shared(keys[0], bank, sites, method), **self._generators(keys[1], shapes)}

  def generate(self, leaves: Mapping[str, jax.Array], bank: Any, site: Any, method: Any) -> Leaves:
    found = {}
    for leaf, shape in shapes_of(method, site).items():
      small = self._one(leaves, self._name(leaf, shape), self._template(shape))
      found[leaf] = small if len(shape) != 2 else jax.vmap(lambda w, leaf=leaf: jnp.kron(leaves[f'kernel_{leaf}'], w))(
        small)
    return found

  def _template(self, shape) -> tuple[int, ...]:
    """The largest divisors that are not above `template`; leaves of one axis are generated whole."""
    divisor = lambda size: next(n for n in range(min(self.template, size), 0, -1) if size % n == 0)
    return tuple(map(divisor, shape)) if len(shape) == 2 else tuple(shape)

  def _name(self, leaf, shape) -> str:
    return f'{leaf}_{"x".join(map(str, self._template(shape)))}'
