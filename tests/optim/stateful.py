"""Stacked gradients for tests of aggregators, as trees and as matrices."""
import jax.numpy as jnp
import numpy as np

A = np.array([[-4.0, 1, 1], [6, 1, 1]])
SHAPES = {'a': (2,), 'b': {'c': (2, 2)}}       # P = 6 parameters in two leaves


def as_tree(matrix, dtype=jnp.float32):
  """[..., 6] -> leaves [..., *shape]."""
  lead = np.shape(matrix)[:-1]
  x = jnp.asarray(matrix, dtype)
  return {'a': x[..., :2], 'b': {'c': x[..., 2:].reshape(*lead, 2, 2)}}


def as_matrix(tree, lead=()):
  """The inverse, of leaves [*lead, *shape], in float64."""
  parts = [np.asarray(leaf, np.float64).reshape(*lead, -1) for leaf in (tree['a'], tree['b']['c'])]
  return np.concatenate(parts, axis=-1)


def simplex(v):
  """The projection, by trying every size of the support."""
  ordered = np.sort(v)[::-1]
  for k in range(len(v), 0, -1):
    theta = (ordered[:k].sum() - 1) / k
    if ordered[k - 1] > theta:
      return np.maximum(v - theta, 0)
