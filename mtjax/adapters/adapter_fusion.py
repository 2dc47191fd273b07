"""AdapterFusion: attention over the adapters of source tasks, token by token.

Pfeiffer et al., "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", EACL 2021,
https://arxiv.org/abs/2005.00247.

    a_k = softmax_k(Q(h) . K(u_k)),     y = norm(z + sum_k a_k V(u_k)),     h = norm(z), u_k = f_k(h) as in `scalearn`

Q, K: dense with biases, N(0, 0.02^2); V without, the identity with 1e-6 beside its diagonal; products are not scaled.
`value_penalty` is the paper's regulariser, rate ||V - 1||^2, of a state.
"""
import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mtjax import tree
from mtjax.adapters.method import Leaves
from mtjax.adapters.scalearn import Composition
from mtjax.adapters.sites import Site, along


def fuse(h: jax.Array, u: jax.Array, p: Leaves) -> jax.Array:
  """h [L, D], u [n, L, D] -> sum_k a_k V(u_k) [L, D]."""
  q = h @ p['query']
  q = q + along(p['query_bias'], q)
  k = u @ p['key']
  k = k + along(p['key_bias'], k)
  weights = jax.nn.softmax(jnp.einsum('ld,nld->nl', q, k), axis=0)
  return jnp.einsum('nl,nld->ld', weights, u @ p['value'])


@dataclasses.dataclass(frozen=True)
class AdapterFusion(Composition):
  """AdapterFusion.  Parameters: query, key, value [D, D], query_bias, key_bias [D]. Attributes as `Composition`'s."""
  ndim: ClassVar = {'query': 2, 'key': 2, 'value': 2, 'query_bias': 1, 'key_bias': 1}

  def init(self, key: jax.Array, site: Site) -> Leaves:
    keys, d = jax.random.split(key), site.d_out
    query, key = (0.02 * jax.random.normal(k, (d, d)) for k in keys)
    return {'query': query, 'key': key, 'value': jnp.where(jnp.eye(d) > 0, 1.0, 1e-6),
            'query_bias': jnp.zeros(d), 'key_bias': jnp.zeros(d)}

  def apply(self, p: Leaves, x: jax.Array, y: jax.Array, site: Site) -> jax.Array:
    return x + fuse(y, self.source_outputs(p, y), p)

  def num_params(self, site: Site) -> int:
    return 3 * site.d_out**2 + 2 * site.d_out


def value_penalty(state: dict[str, Any], rule: str = 'adapter_fusion', rate: float = 0.01) -> jax.Array:
  """rate * sum over layers and tasks of ||V - 1||^2, of a state with the rule's parameters."""
  values = [x for path, x in tree.flatten(state['adapters']).items() if path.endswith(f'@{rule}/value')]
  return rate * sum(jnp.sum((x - jnp.broadcast_to(jnp.eye(x.shape[-1]), x.shape))**2) for x in values)
