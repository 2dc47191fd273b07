"""Matrices J [T, d] of task gradients with a known relation to Pareto stationarity, in float64.

J is weakly stationary if some w >= 0, w != 0 has J^T w = 0, and strongly if some w > 0 has. All are built as U S V^T with
orthonormal U [T, rank], V [d, rank] and S = |normal|, so that the column space is that of U.
"""
import numpy as np

SIZES = ((1, 1), (1, 5), (2, 3), (3, 2), (4, 4), (5, 8), (9, 30), (20, 5), (20, 100))
SCALES = (0.0, 1e-10, 1.0, 1e3, 1e10)


def orthonormal(rng, size, rank, first=None):
  """[size, rank] with orthonormal columns, the first one along `first`."""
  columns = rng.normal(size=(size, rank))
  if first is not None:
    columns[:, 0] = first
  q, r = np.linalg.qr(columns)
  return q * np.sign(np.diagonal(r))


def from_column_space(rng, u, num_columns):
  """U S V^T with random S and V."""
  rank = u.shape[1]
  return u * np.abs(rng.normal(size=rank)) @ orthonormal(rng, num_columns, rank).T


def normal(rng, num_rows, num_columns, rank=None):
  """Nothing in particular, of the given rank (full by default)."""
  rank = min(num_rows, num_columns) if rank is None else rank
  return from_column_space(rng, orthonormal(rng, num_rows, rank), num_columns)


def strongly_stationary(rng, num_rows, num_columns, rank=None):
  """A positive v is orthogonal to the column space."""
  most = min(num_rows - 1, num_columns)
  rank = most if rank is None else min(rank, most)
  v = np.abs(rng.normal(size=num_rows)) + 0.1
  return from_column_space(rng, orthonormal(rng, num_rows, rank + 1, v)[:, 1:], num_columns)


def weakly_stationary(rng, num_rows, num_columns, rank=None):
  """Strictly so: v >= 0 with zeros is orthogonal to the column space, its disjoint complement a left singular vector."""
  most = min(num_rows - 1, num_columns)
  rank = most if rank is None else min(rank, most)
  v = np.abs(rng.normal(size=num_rows)) + 0.1
  chosen = np.arange(num_rows) < rng.integers(1, num_rows)
  u = orthonormal(rng, num_rows, rank + 1, v * chosen)
  # The second column of U is to be the other part of v: put it there before the rest is made orthogonal.
  columns = np.column_stack([v * chosen, v * ~chosen, u[:, 2:]])
  q, r = np.linalg.qr(columns)
  return from_column_space(rng, (q * np.sign(np.diagonal(r)))[:, 1:], num_columns)


def not_weakly_stationary(rng, num_rows, num_columns, rank=None):
  """A positive u is a left singular vector."""
  rank = min(num_rows, num_columns) if rank is None else rank
  u = orthonormal(rng, num_rows, rank, np.abs(rng.normal(size=num_rows)) + 0.1)
  return from_column_space(rng, u, num_columns)


def conditioned(rng, num_rows, num_columns, spread=1.0):
  """Rows of full rank with cosines bounded away from 1 and lengths from 1 to `spread`."""
  rows = orthonormal(rng, num_columns, num_rows).T + 0.5 * rng.normal(size=(num_rows, num_columns)) / num_columns**0.5
  lengths = spread ** rng.uniform(size=(num_rows, 1))
  return rows / np.linalg.norm(rows, axis=1, keepdims=True) * lengths


KINDS = {
  'normal': normal,
  'strongly stationary': strongly_stationary,
  'weakly stationary': weakly_stationary,
  'not weakly stationary': not_weakly_stationary,
}
