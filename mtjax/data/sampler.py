"""The block-deterministic sampler: position -> (source, row) by arithmetic.

A training stream is an endless sequence of positions 0, 1, 2, …. Position t lies in block b = t // block_size; a block
holds a fixed number of slots of each source, in an order shuffled by a key folded with b. The j-th draw of source i is
row perm_e(j mod n_i) of its epoch e = j // n_i, where perm_e is a keyed permutation of that source and epoch. Nothing
is carried along: the state of a stream is one integer, any position can be computed at once, and every host computes
the same order (Levanter's block mixture; a Feistel network for the permutation).

  slots_i = floor(p_i * block_size), the remainder to the largest fractions;   p = rates(...)
"""
import functools
from collections.abc import Sequence

import numpy as np

_ROUNDS = 4
_TABULATED = 1 << 20  # below this many rows a look-up is quicker than the arithmetic, and 8 MB at most


class Permutation:
  """A keyed permutation of 0 … n-1 that needs no state: a Feistel network with cycle walking.

  Black & Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002: a permutation of a power-of-four domain is
  applied again to whatever falls outside 0 … n-1, which is a permutation of 0 … n-1. On average fewer than 4 walks.

  Args:
    n: size of the domain, at least 1.
    seed: with `stream`, the key.
    stream: further integers folded into the key (source, epoch).
  """

  def __init__(self, n: int, seed: int, *stream: int):
    if n < 1:
      raise ValueError(f'A permutation needs n >= 1, got {n}.')
    self.n = n
    self._half_bits = np.uint64(max(1, (int(n - 1).bit_length() + 1) // 2))
    self._mask = np.uint64((1 << int(self._half_bits)) - 1)
    self._keys = np.random.SeedSequence([seed, *stream]).generate_state(_ROUNDS, np.uint64)
    self._table = self._walk(np.arange(n)) if n <= _TABULATED else None

  def __call__(self, index: np.ndarray) -> np.ndarray:
    """int array of values in 0 … n-1 -> their images, int64, same shape."""
    return self._walk(index) if self._table is None else self._table[index]

  def _walk(self, index: np.ndarray) -> np.ndarray:
    x = self._encrypt(np.asarray(index, np.uint64))
    outside = x >= self.n
    while outside.any():
      x[outside] = self._encrypt(x[outside])
      outside = x >= self.n
    return x.astype(np.int64)

  def _encrypt(self, x: np.ndarray) -> np.ndarray:
    left, right = x >> self._half_bits, x & self._mask
    for key in self._keys:
      left, right = right, left ^ (_mix(right ^ key) & self._mask)
    return (left << self._half_bits) | right


def rates(
  sizes: Sequence[int],
  *,
  weights: Sequence[float] | None = None,
  temperature: float = 1.0,
  maximum: float | None = None,
  scale: float = 1.0,
) -> np.ndarray:
  """Sampling probabilities of sources: p_i = r_i / sum r,  r_i = w_i or min(scale * n_i, maximum)^(1 / temperature).

  Raffel et al., "Exploring the Limits of Transfer Learning", JMLR 2020, section 3.5.2. temperature=1 without maximum is
  proportional; temperature -> inf is uniform. The cap comes after scaling and before the temperature.

  Args:
    sizes: rows of each source.
    weights: explicit weights that replace the sizes; temperature, maximum and scale are then not used.
    temperature: > 0.
    maximum: the cap on the scaled size, in rows.
    scale: a factor on all sizes.

  Example:
    >>> rates([100, 1000, 50000], maximum=1000).round(4).tolist()
    [0.0476, 0.4762, 0.4762]
  """
  if weights is not None:
    r = np.asarray(weights, np.float64)
    if len(r) != len(sizes):
      raise ValueError(f'{len(sizes)} sources need as many weights, got {len(r)}.')
  else:
    if not temperature > 0:
      raise ValueError(f'temperature must be > 0, got {temperature}.')
    r = np.minimum(scale * np.asarray(sizes, np.float64), np.inf if maximum is None else maximum) ** (1 / temperature)
  if not np.all(np.isfinite(r)) or (r <= 0).any():
    raise ValueError(f'Mixture weights must be finite and > 0, got {r.tolist()}. To leave a source out, remove it.')
  return r / r.sum()


class BlockSampler:
  """Endless positions over one or several sources.

  Args:
    sizes: rows of each source, each >= 1.
    probabilities: the share of each source, in examples; uniform over one source by default.
    block_size: positions in a block. A source whose share is below 1 / block_size would never be drawn: an error.
    seed: the key of all orders.
    run: consecutive positions that are of one source; blocks then count runs. With `run` the batch size, every batch is
      of one source, the same on all hosts.

  Example:
    >>> sampler = BlockSampler([10, 20], [0.25, 0.75], block_size=8, seed=0)
    >>> source, row = sampler(np.arange(8))
    >>> np.bincount(source).tolist()
    [2, 6]
  """

  def __init__(
    self,
    sizes: Sequence[int],
    probabilities: Sequence[float] | None = None,
    *,
    block_size: int = 256,
    seed: int = 0,
    run: int = 1,
  ):
    self.run = run
    self.sizes = np.asarray(sizes, np.int64)
    if (self.sizes < 1).any():
      raise ValueError(f'Every source needs at least one row, got sizes {self.sizes.tolist()}.')
    p = np.full(len(sizes), 1 / len(sizes)) if probabilities is None else np.asarray(probabilities, np.float64)
    self.block_size = block_size if len(sizes) > 1 else 1
    self.slots = _apportion(p / p.sum(), self.block_size)
    if (self.slots == 0).any():
      rare = np.flatnonzero(self.slots == 0).tolist()
      raise ValueError(
        f'Sources {rare} have shares below 1/{block_size} and would never be drawn. '
        f'Raise block_size to at least {int(np.ceil(1 / p[p > 0].min()))}.'
      )
    self._permutations = functools.lru_cache(64)(lambda n, *stream: Permutation(n, seed, *stream))
    self._block = functools.lru_cache(64)(self._order_of_block)

  def with_seed(self, seed: int) -> 'BlockSampler':
    """The same shares in another order."""
    return BlockSampler(self.sizes, self.slots / self.slots.sum(), block_size=self.block_size, seed=seed, run=self.run)

  def __call__(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """positions int [N], each >= 0 -> (source [N], row [N])."""
    turn, within = np.divmod(np.asarray(positions, np.int64), self.run)
    block, offset = np.divmod(turn, self.block_size)
    source, rank = np.zeros_like(offset), np.zeros_like(offset)
    if len(self.sizes) > 1:
      for b in np.unique(block):
        here = block == b
        source[here], rank[here] = (column[offset[here]] for column in self._block(int(b)))
    epoch, index = np.divmod((block * self.slots[source] + rank) * self.run + within, self.sizes[source])
    rows = np.empty_like(index)
    for i, e in np.unique(np.stack([source, epoch], 1), axis=0).tolist():
      here = (source == i) & (epoch == e)
      rows[here] = self._permutations(int(self.sizes[i]), 1 + i, e)(index[here])
    return source, rows

  def _order_of_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
    """For each offset in the block: its source, and how many draws of that source the block holds before it."""
    slots = np.repeat(np.arange(len(self.sizes)), self.slots)
    source = slots[self._permutations(self.block_size, 0, block)(np.arange(self.block_size))]
    one_hot = source[:, None] == np.arange(len(self.sizes))
    return source, np.cumsum(one_hot, 0)[np.arange(self.block_size), source] - 1


def _apportion(p: np.ndarray, total: int) -> np.ndarray:
  """Largest-remainder rounding of p * total to integers that sum to total; ties go to the lower index."""
  exact = p * total
  slots = np.floor(exact + 1e-9).astype(np.int64)
  order = np.argsort(-(exact - slots), kind='stable')
  slots[order[: total - slots.sum()]] += 1
  return slots


def _mix(x: np.ndarray) -> np.ndarray:
  """The splitmix64 finaliser (Steele et al., OOPSLA 2014): a bijection of uint64 that scatters bits."""
  with np.errstate(over='ignore'):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
