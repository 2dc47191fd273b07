"""Maps of classes, probabilities, numbers and directions as pictures, for reports.

Classes get a colour each, the same in every picture (hues a golden angle apart, class 0 dark grey; ignored ones black);
probabilities are grey from 0 to 1, other numbers from the least to the greatest of the label; vectors of three numbers
are red, green and blue, 0 in the middle.
"""
import colorsys
from typing import Any

import numpy as np

from mtjax.studies import html


def palette(classes: int) -> np.ndarray:
  """Colours of classes: uint8 [classes, 3].

  Example:
    >>> palette(2).tolist()
    [[64, 64, 64], [217, 76, 76]]
  """
  bright = [colorsys.hsv_to_rgb(0.618034 * i % 1, 0.65, 0.85 - 0.25 * (i % 3 == 2)) for i in range(max(classes - 1, 0))]
  return np.rint(255 * np.array([(0.25,) * 3, *bright][:classes])).astype(np.uint8)


def draw(x: np.ndarray, kind: str, span: tuple[float, float]) -> np.ndarray:
  """A map as a picture.

  Args:
    x: classes int [H, W] (kind 'softmax' or 'ordinal'), or numbers [H, W], or vectors [H, W, 3].
    kind: of the head.
    span: the numbers that are drawn black and white.

  Returns:
    uint8 [H, W] or [H, W, 3].

  Example:
    >>> draw(np.array([[1.0, 2.0, 9.0]]), 'identity', (1.0, 3.0)).tolist()
    [[0, 128, 255]]
  """
  if kind in ('softmax', 'ordinal'):
    x = x.astype(int)
    return np.where(x[..., None] < 0, 0, palette(max(int(x.max()) + 1, 1))[np.maximum(x, 0)]).astype(np.uint8)
  low, high = (-1.0, 1.0) if x.ndim == 3 else span
  share = (x.astype(np.float64) - low) / max(high - low, 1e-12)
  return np.rint(255 * np.clip(np.nan_to_num(share), 0, 1)).astype(np.uint8)


def is_map(label: np.ndarray) -> bool:
  """Whether a label can be drawn: [H, W] or [H, W, 3]."""
  return np.ndim(label) == 2 or (np.ndim(label) == 3 and np.shape(label)[-1] == 3)


def sample(label: np.ndarray, output: np.ndarray, kind: str) -> dict[str, Any]:
  """The entries of a report's sample, both drawn alike.

  Args:
    label: [H, W] or [H, W, 3].
    output: predicted classes, probabilities ('sigmoid') or numbers, of the same shape.
    kind: of the head.
  """
  span = (0.0, 1.0) if kind == 'sigmoid' else (float(np.nanmin(label)), float(np.nanmax(label)))
  picture = lambda x: {'type': 'image', 'png': html.encode_image(draw(np.asarray(x), kind, span))}
  return {'label': picture(label), 'prediction': picture(output), 'detail': '', 'correct': None}
