"""Retrieval: which of V items fits a row, by dot products with their embeddings.

Covington et al., "Deep Neural Networks for YouTube Recommendations", RecSys 2016, section 3,
https://doi.org/10.1145/2959100.2959190 (retrieval as classification over all items).

    P(item = v | x) = softmax_v(<W x, e_v>),       e_v: row v of a learnt table;    cosine: <., .> / (|W x| |e_v| tau)

Scores rank: the nearest neighbours of W x among the e_v are the answer, by any index of inner products.
"""
import math
import numbers
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from mtjax.context import Features
from mtjax.heads import _base


class Retrieval(_base.Head):
  """features.pooled [B, D] -> scores [B, V] float32. Labels: integers [N], 0 … V - 1, the item that belongs to a row.

  Parameters: out/kernel [D, K] without bias, behind fc1, …; items/embedding [V, K].

  Attributes:
    items: V >= 2.
    dims: K.
    cosine: whether vectors are brought to length 1.
    temperature: tau, with cosine.
    hidden: widths of layers before the projection (fc1, fc2, …, out).
    dtype: of the hidden layers; projection and scores are float32.
  """
  kind = 'softmax'
  default_loss = 'softmax_xent'
  default_metrics = ('ndcg', 'hit_rate', 'mrr')

  items: int
  dims: int = 64
  cosine: bool = False
  temperature: float = 0.07
  hidden: Sequence[int] = ()
  dtype: DTypeLike = jnp.float32

  def __post_init__(self):
    super().__post_init__()
    _base.check_sizes(self, 'items', minimum=2)
    _base.check_sizes(self, 'dims', minimum=1)
    if not isinstance(self.temperature, numbers.Real) or not 0 < self.temperature < math.inf:
      raise ValueError(f'Retrieval has temperature={self.temperature!r}; allowed is a finite number > 0.')

  @nn.compact
  def __call__(self, features: Features, batch: dict | None = None, *, train: bool = False) -> jax.Array:
    query = _base.readout(self, features, self.dims, use_bias=False)
    table = nn.Embed(self.items, self.dims, name='items').embedding
    if self.cosine:
      query, table = (x * jax.lax.rsqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1, keepdims=True), 1e-12))
                      for x in (query, table))
      query = query / self.temperature
    return jnp.einsum('bk,vk->bv', query, table)

  def check_label(self, label: np.ndarray, name: str) -> None:
    _base.check_classes(label, self.items, name, field='items')
