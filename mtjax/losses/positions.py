"""Cross-entropy of one class at each of many positions: tokens of a text, pixels of an image, ends of a span.

    loss_b = mean over the valid positions i of row b of  -log softmax(outputs_bi)[label_bi]

Valid are positions that the mask allows and whose label is >= 0 (-1 and -100 are usual for 'ignore'). A row weighs the
same however many of its positions are valid; one without any has loss 0.
"""
import jax
import jax.numpy as jnp

from mtjax.losses.classification import softmax_xent
from mtjax.losses.masking import row_mean, valid_entries


def position_xent(outputs: jax.Array, label: jax.Array, mask: jax.Array | None = None,
                  label_smoothing: float = 0.0) -> jax.Array:
  """The mean cross-entropy over the valid positions of each row.

  Args:
    outputs: logits [B, …, C].
    label: int [B, …], 0 … C - 1, or negative = ignored.
    mask: bool [B] or [B, …]; None = all.
    label_smoothing: as in `softmax_xent`.

  Returns:
    [B] float32.

  Example:
    >>> logits = jnp.log(jnp.array([[[0.5, 0.5], [0.25, 0.75], [0.1, 0.9]]]))      # one row of three tokens
    >>> print(position_xent(logits, jnp.array([[0, 0, -100]])).round(4))           # (ln 2 + ln 4) / 2
    [1.0397]
  """
  if outputs.shape[:-1] != label.shape:
    raise ValueError(f'Outputs have shape {list(outputs.shape)}, but labels {list(label.shape)}; labels must have one '
                     f'entry a position, {list(outputs.shape[:-1])}.')
  valid = valid_entries(label >= 0, mask)
  return row_mean(softmax_xent(outputs, jnp.where(valid, label, 0), label_smoothing), valid)
