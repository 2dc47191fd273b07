"""Tasks: what is learnt from which column of which stream, and how it is measured."""
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax.decoding.settings import Generation
from mtjax.losses.masking import sanitise
from mtjax.metrics.collection import Collection


@dataclasses.dataclass(frozen=True)
class Task:
  """One entry of the vector of losses.

  Attributes:
    name: its name in configs, parameters ('heads/<name>/…') and metrics ('eval/<name>/…').
    stream: the stream it reads.
    label: the label column.
    head: features -> outputs.
    loss: (outputs, label) -> [B], per example.
    metrics: what is measured; the first one is the primary.
    weight: its factor in the total loss, > 0.
    row_id: on a mixture, the `task_id` of its rows; None where every row counts.
    generation: how the model writes, where metrics are of text.
  """

  name: str
  stream: str
  label: str
  head: nn.Module
  loss: Callable[..., jax.Array]
  metrics: Collection
  weight: float = 1.0
  row_id: int | None = None
  generation: Generation | None = None

  @property
  def kind(self) -> str:
    """How the head's outputs become predictions, see `mtjax.metrics.decode`; 'identity' where the head does not say."""
    return getattr(self.head, 'kind', 'identity')

  def view(self, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The stream's batch as the task's metrics see it.

    {'label': [B, …], 'mask': bool, of label's shape or [B]}, and the columns that they read besides.
    """
    label, mask = batch[self.label], batch[f'{self.label}_mask']
    if self.row_id is not None:
      mask = mask & (batch['task_id'] == self.row_id).reshape(-1, *[1] * (mask.ndim - 1))
    if mask.ndim > 1 and not self._masks_elements:
      mask = mask.all(tuple(range(1, mask.ndim)))
    columns = {name: batch[name] for name in self.metrics.columns}
    return {**columns, 'label': sanitise(label, mask), 'mask': mask}

  def loss_sums(self, outputs: jax.Array, batch: Mapping[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
    """(sum of the losses of the labelled rows, their number), float32 scalars."""
    view = self.view(batch)
    if view['mask'].ndim > 1:
      losses = self.loss(outputs, view['label'], mask=view['mask'])
      rows = view['mask'].any(tuple(range(1, view['mask'].ndim)))
    else:
      losses, rows = self.loss(outputs, view['label']), view['mask']
    return jnp.sum(jnp.where(rows, losses, 0.0)), jnp.sum(rows, dtype=jnp.float32)

  @functools.cached_property
  def _masks_elements(self) -> bool:
    return 'mask' in inspect.signature(self.loss).parameters
