"""What all heads share: how their outputs are read, the layers behind the features, and checks of labels."""
import numbers
from collections.abc import Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from mtjax.context import Features


class Head(nn.Module):
  """Features -> one task's outputs: `__call__(features, batch=None, *, train=False) -> outputs`, float32.

  Attributes:
    kind: how outputs become predictions: 'softmax', 'sigmoid', 'identity' or 'ordinal'.
    default_loss: name of the loss of a task that states none.
    default_metrics: names of its metrics; the first is the primary one.
  """
  kind: ClassVar[str]
  default_loss: ClassVar[str]
  default_metrics: ClassVar[tuple[str, ...]]

  def check_label(self, label: np.ndarray, name: str) -> None:
    """Raises ValueError unless every entry of the label column `name` is one that this head can be trained on.

    A head that says nothing here takes any label.

    Args:
      label: [N, …], the column on the host, without its masked entries.
      name: what the column is called, for the error.
    """


def readout(head: Head, features: Features, size: int, use_bias: bool = True) -> jax.Array:
  """features.pooled [B, D] -> [B, size] float32. To be called inside the head's compact method.

      x <- relu(fc_i(x))   for each i of head.hidden, in head.dtype;   out(x)   in float32

  Parameters: fc1, fc2, …, out, each with kernel [in, out] and bias [out].
  """
  return layers(head, features.need('pooled', by=type(head).__name__).pooled, size, use_bias)


def layers(head: Head, x: jax.Array, size: int, use_bias: bool = True) -> jax.Array:
  """x [..., D] -> [..., size] float32, as `readout` does it."""
  for i, width in enumerate(head.hidden):
    x = nn.relu(nn.Dense(width, dtype=head.dtype, name=f'fc{i + 1}')(x))
  return nn.Dense(size, use_bias, dtype=jnp.float32, name='out')(x)


def check_sizes(head: Head, field: str, minimum: int) -> None:
  """Raises ValueError unless head.<field> is an integer >= minimum and head.hidden holds integers >= 1.

  A list in `hidden`, as configs hold it, becomes a tuple: a module is hashable.
  """
  value = getattr(head, field)
  if not _is_size(value, minimum):
    raise ValueError(f'{type(head).__name__} has {field}={value!r}; allowed is an integer >= {minimum}.')
  check_hidden(head)


def check_hidden(head: Head) -> None:
  """Raises ValueError unless head.hidden holds integers >= 1; makes it a tuple."""
  hidden = head.hidden
  if not isinstance(hidden, Sequence) or not all(_is_size(width, 1) for width in hidden):
    raise ValueError(f'{type(head).__name__} has hidden={hidden!r}; allowed is a sequence of integers >= 1, or ().')
  object.__setattr__(head, 'hidden', tuple(hidden))


def check_shape(label: np.ndarray, tail: tuple[int, ...], name: str, setting: str) -> None:
  """Raises ValueError unless label has shape [N, *tail]; `setting` is the field that says so, as 'classes=10'."""
  if label.ndim != 1 + len(tail) or label.shape[1:] != tail:
    wanted = ', '.join(['N', *map(str, tail)])
    raise ValueError(f"Label column '{name}' has shape {list(label.shape)}, but the head has {setting}: "
                     f'it reads labels of shape [{wanted}].')


def check_entries(label: np.ndarray, good: np.ndarray, name: str, setting: str, allowed: str, verb='holds') -> None:
  """Raises ValueError naming the distinct entries where `good` is false and the first row that has one."""
  if not good.all():
    values = list(dict.fromkeys(str(value) for value in label[~good].flat))
    shown = ', '.join(values[:5]) + (', …' if len(values) > 5 else '')
    row = int(np.argwhere(~good)[0, 0])
    raise ValueError(f"Label column '{name}' {verb} {shown} (first at row {row}), but the head has {setting}: "
                     f'allowed are {allowed}.')


def check_classes(label: np.ndarray, classes: int, name: str, field: str = 'classes') -> None:
  """Raises ValueError unless label is integers [N] in 0 … classes - 1; `field` is what the head calls their number."""
  label, setting, allowed = np.asarray(label), f'{field}={classes}', f'0 … {classes - 1}'
  check_shape(label, (), name, setting)
  if label.dtype.kind not in 'iub':
    raise ValueError(f"Label column '{name}' has dtype {label.dtype}, but the head has {setting}: "
                     f'allowed are integers, {allowed}.')
  check_entries(label, (label >= 0) & (label < classes), name, setting, allowed)


def check_positions(label: np.ndarray, ndim: int, name: str, setting: str, limit: int | None = None) -> None:
  """Raises ValueError unless label has `ndim` axes and is integers below `limit`, negative ones being ignored."""
  label = np.asarray(label)
  axes = ', '.join(('N', 'H', 'W') if ndim == 3 else ('N', 'L'))
  if label.ndim != ndim:
    raise ValueError(f"Label column '{name}' has shape {list(label.shape)}, but the head has {setting}: it reads "
                     f'labels of shape [{axes}].')
  if label.dtype.kind not in 'iub':
    raise ValueError(f"Label column '{name}' has dtype {label.dtype}, but the head has {setting}: allowed are "
                     f'integers.')
  if limit is not None:
    check_entries(label, label < limit, name, setting, f'0 … {limit - 1}, and negative = ignored')


def _is_size(value: Any, minimum: int) -> bool:
  return isinstance(value, numbers.Integral) and not isinstance(value, bool) and value >= minimum
