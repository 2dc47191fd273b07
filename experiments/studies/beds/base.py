"""What a test bed is: real data in arrays, a small model, tasks with metrics, and how long it trains."""
import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtjax.objective import Objective
from mtjax.tasks import Task

STREAM = 'bed'
Columns = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Bed:
  """One problem on which methods are compared.

  Attributes:
    name: in results.
    splits: {'train', 'validation', 'test': {column: [N, …]}}; no row is in two of them. A bed for checks at fixed
      settings may lack 'validation'.
    origin: {split: the ids of what its rows were made of}, by which overlap is told.
    inputs: the column(s) that the encoder reads.
    encoder: the shared part.
    tasks: {name: task}; the first metric of each is the primary one.
    batch_size, steps: of training.
    learning_rates: the grid for Adam, increasing.
    last_layer: pattern of the last shared layer's parameters.
    seeds: how many runs an arm has.
    tune_seeds: how many of them choose the learning rate; None = all.
    decay: of the learning rate, 'cosine' to 0, or 'constant'.
    note: what a reader of the results must know.
  """

  name: str
  splits: Mapping[str, Columns]
  origin: Mapping[str, np.ndarray]
  inputs: str | Sequence[str]
  encoder: nn.Module
  tasks: Mapping[str, Task]
  batch_size: int
  steps: int
  learning_rates: tuple[float, ...]
  last_layer: str
  seeds: int = 10
  tune_seeds: int | None = None
  decay: str = 'cosine'
  note: str = ''

  @property
  def num_tasks(self) -> int:
    """T."""
    return len(self.tasks)

  @property
  def steps_per_epoch(self) -> int:
    """Whole batches in the training split; what is left over waits for the next epoch's order."""
    return len(self.rows('train')) // self.batch_size

  @functools.cached_property
  def objective(self) -> Objective:
    """The vector of all losses."""
    return self.objective_of(tuple(self.tasks))

  def objective_of(self, names: Sequence[str]) -> Objective:
    """The losses of some tasks; the encoder starts from the same parameters whichever they are."""
    return Objective(self.encoder, {name: self.tasks[name] for name in names}, {STREAM: self.inputs})

  def rows(self, split: str) -> np.ndarray:
    """The numbers of its rows."""
    return np.arange(len(next(iter(self.splits[split].values()))))

  def order(self, seed: int, split: str = 'train', steps: int | None = None) -> np.ndarray:
    """Row numbers [steps, B]: epochs of shuffled rows, a function of the seed alone, so that arms share it."""
    rows, rng = self.rows(split), np.random.RandomState(seed)
    size = min(self.batch_size, len(rows))
    whole, steps = len(rows) // size, self.steps if steps is None else steps
    epochs = [rng.permutation(rows)[:whole * size].reshape(whole, size) for _ in range(-(-steps // whole))]
    return np.concatenate(epochs)[:steps].astype(np.int32)

  def check(self) -> 'Bed':
    """The bed itself. Raises ValueError where splits share what they were made of."""
    for one, other in itertools.combinations(self.splits, 2):
      shared = np.intersect1d(self.origin[one], self.origin[other])
      if len(shared):
        raise ValueError(f'{self.name}: {one} and {other} share {len(shared)} base examples, e.g. {shared[0]}.')
    return self


def as_batch(columns: Mapping[str, jax.Array], tasks: Mapping[str, Task]) -> dict[str, dict[str, jax.Array]]:
  """{column: [B, …]} -> a batch as objectives read it, every label known."""
  known = jnp.ones(len(next(iter(columns.values()))), bool)
  masks = {f'{task.label}_mask': known for task in tasks.values()}
  return {STREAM: {**columns, **masks, 'valid': known}}


def times(loss: Callable[..., jax.Array], factor: float) -> Callable[..., jax.Array]:
  """A loss on another scale."""
  def scaled(outputs, label):
    return factor * loss(outputs, label)

  return scaled


def standardised(train: np.ndarray, *others: np.ndarray) -> list[np.ndarray]:
  """(x - mean) / deviation of each, mean and deviation those of `train`'s rows (1 where a column does not vary)."""
  mean, deviation = train.mean(0), train.std(0)
  deviation = np.where(deviation > 0, deviation, 1)
  return [((x - mean) / deviation).astype(np.float32) for x in (train, *others)]
