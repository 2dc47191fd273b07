"""Points in a plane as inline SVG, with labels that touch neither each other nor a point.

A label stands at the first free place of rings around its point, tied to it by a thin line where that is far; where no
place is free it is left out, so a table belongs beneath. Points are told apart by colour and by shape; a hollow one is
of less interest (dominated, not chosen).
"""
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtjax.studies import heatmap, html, plots

MARKERS = ('o', 's', '^', 'D')
WIDE = 50                       # times the smallest value, beyond which an axis is logarithmic
_RINGS = (14, 20, 30)           # pixels from a point to the middle of a label above it
_SIDES = ((1, 0), (1, 0.75), (-1, 0.75), (1, -0.75), (-1, -0.75), (0, 1), (0, -1), (-1, 0))  # right, upper right, …
_DISC = 6.5                     # pixels around a point that no label covers
_SHAPES = {'o': ('circle', dict(cx=7, cy=7, r=5)), 's': ('rect', dict(x=2.5, y=2.5, width=9, height=9)),
           '^': ('polygon', dict(points='7,1.5 12.5,12 1.5,12')), 'D': ('polygon', dict(points='7,1 13,7 7,13 1,7'))}


class Point(NamedTuple):
  """One point.

  Attributes:
    x, y: where; finite.
    label: beside it; '' = none.
    color: a key of `plots.COLORS`.
    marker: one of MARKERS.
    filled: whether it is filled.
    small: small points of the same colour, such as seeds: (x, y) each.
  """
  x: float
  y: float
  label: str = ''
  color: str = 'blue'
  marker: str = 'o'
  filled: bool = True
  small: Sequence[tuple[float, float]] = ()


def look(index: int) -> tuple[str, str]:
  """(color, marker) of the index-th of many, the first 24 of them different; colours as in `plots.looks`."""
  return plots.looks(index + 1)[index][0], MARKERS[(index + index // 6) % 4]


def scatter(points: Sequence[Point], *, size: tuple[int, int], alt: str, path: Sequence[tuple[float, float]] = (),
            categories: Sequence[str] | None = None) -> html.Safe:
  """The picture. An axis of positive values that span more than a factor of WIDE is logarithmic.

  Args:
    points: what to draw.
    size: width and height in CSS pixels at scale 1.
    alt: what it shows, in words.
    path: joined by a dashed line, such as the Pareto front.
    categories: names of x = 0, 1, …, where x is no number.
  """
  if not points:
    raise ValueError('scatter draws points, got none.')
  turn, below = _turn(categories, size[0] - 64)
  with plots.axes(size, alt, above=10, below=below, left=52) as ax:
    every = np.array([place for point in points for place in ((point.x, point.y), *point.small)], float)
    if len(path) > 1:
      ax.plot(*zip(*path), color=plots.COLORS['muted'], linewidth=1, linestyle='--', zorder=1)
    for point in points:
      hue = plots.COLORS[point.color]
      if len(point.small):
        ax.plot(*zip(*point.small), linestyle='', marker=point.marker, markersize=4.5, color=hue, alpha=0.5,
                markeredgewidth=0, zorder=2)
      ax.plot([point.x], [point.y], linestyle='', marker=point.marker, markersize=9, color=hue, markeredgewidth=1.8,
              markerfacecolor=hue if point.filled else 'none', zorder=3)
    _axis(ax, 'x', every[:, 0], categories, turn, size)
    _axis(ax, 'y', every[:, 1], None, 0, size)
    plots.quiet(ax)
    _write_labels(ax, points, every)
    return plots.to_svg(ax.figure, alt)


def legend(points: Sequence[Point], names: Sequence[str]) -> html.Safe:
  """Which point is whose: sign, label and name, of any number of points."""
  def sign(point):
    shape, where = _SHAPES[point.marker]
    hue = f'var(--{point.color}, {plots.COLORS[point.color]})'
    drawn = html.tag(shape, **where, stroke=hue, stroke_width=1.8, fill=hue if point.filled else 'none')
    return html.tag('svg', drawn, viewBox='0 0 14 14', width=14, height=14, aria_hidden='true')
  return html.tag('div', [html.tag('span', sign(point), html.tag('span', f'{point.label} ', html.name(name)))
                          for point, name in zip(points, names)], class_='legend')


def is_wide(values: Sequence[float]) -> bool:
  """Whether all are positive and they span more than a factor of WIDE."""
  return min(values) > 0 and max(values) > WIDE * min(values)


def tick(value: float, _=None) -> str:
  """A number at an axis: 0.25; 1e−4; 250; 1.5M."""
  size = abs(value)
  for bound, unit, letter in ((1e9, 1e9, 'G'), (1e6, 1e6, 'M'), (1e4, 1e3, 'k')):
    if size >= bound:
      return f'{value / unit:.5g}{letter}'.replace('-', '−')
  if 0 < size < 1e-3:
    mantissa, exponent = f'{value:.3e}'.split('e')
    return f'{float(mantissa):g}e{int(exponent)}'.replace('-', '−')
  return f'{value:.5g}'.replace('-', '−')


def _axis(ax, which: str, values: np.ndarray, categories: Sequence[str] | None, turn: int, size) -> None:
  from matplotlib import ticker

  axis = getattr(ax, f'{which}axis')
  if categories is not None:
    room = 92 if turn else (size[0] - 64) / len(categories) - 6
    ax.set_xlim(-0.5, len(categories) - 0.5)
    ax.set_xticks(range(len(categories)), [heatmap.fit(name, room).replace('$', r'\$') for name in categories],
                  rotation=turn, ha='right' if turn == 45 else 'center', rotation_mode='anchor' if turn == 45 else None)
    return
  wide = is_wide(values)
  if wide:
    getattr(ax, f'set_{which}scale')('log')
    axis.set_minor_locator(ticker.NullLocator())
  few = 4 if which == 'y' or size[0] < 400 else 6
  axis.set_major_locator(ticker.LogLocator(numticks=few) if wide else ticker.MaxNLocator(few, steps=plots.ROUND))
  axis.set_major_formatter(ticker.FuncFormatter(tick))
  ax.margins(**{which: 0.12})


def _turn(categories: Sequence[str] | None, width: float) -> tuple[int, int]:
  """(degrees by which names under the axis are turned, pixels they need)."""
  if categories is None:
    return 0, 24
  widest, room = min(max(map(heatmap.text_width, categories)), 92), width / len(categories)
  if widest + 6 <= room:
    return 0, 24
  return (45, 20 + round(widest * 0.71)) if room > 24 else (90, 14 + round(widest))


def _write_labels(ax, points: Sequence[Point], every: np.ndarray) -> None:
  labelled = [point for point in points if point.label]
  scale = 72 / ax.figure.dpi                                 # to the pixels of the page
  ax.autoscale_view()
  places = ax.transData.transform(np.array([(point.x, point.y) for point in points], float)) * scale
  crowd = ax.transData.transform(every) * scale
  frame = np.array(ax.get_window_extent().extents) * scale
  own = [places[i] for i, point in enumerate(points) if point.label]
  offsets = place_labels(own, [heatmap.text_width(point.label) for point in labelled], places, crowd, frame)
  for point, offset in zip(labelled, offsets):
    if offset is not None:
      far = math.hypot(*offset) > 1.5 * _RINGS[0] + heatmap.text_width(point.label) / 2
      line = dict(arrowstyle='-', color=plots.COLORS['muted'], linewidth=0.8, shrinkA=0, shrinkB=5) if far else None
      ax.annotate(point.label.replace('$', r'\$'), (point.x, point.y), xytext=offset, textcoords='offset points',
                  ha='center', va='center', color=plots.COLORS['ink'], arrowprops=line, annotation_clip=False)


def place_labels(own: Sequence[np.ndarray], widths: Sequence[float], points: np.ndarray, crowd: np.ndarray,
                 frame: np.ndarray) -> list[tuple[float, float] | None]:
  """Where the middle of each label goes, from its point; None where no place is free.

  Args:
    own: the labels' points, (x, y) in pixels.
    widths: of the labels.
    points: [N, 2], which no label may cover.
    crowd: [M, 2], which a label covers only where there is no better place.
    frame: [4], left, bottom, right, top, which labels stay within.
  """
  taken: list[np.ndarray] = []
  found: list[tuple[float, float] | None] = []
  for place, width in zip(own, widths):
    best, least = None, math.inf
    for ring, radius in enumerate(_RINGS):
      for right, up in _SIDES:
        dx, dy = right * (radius - 4 + width / 2), up * radius
        x, y = place[0] + dx, place[1] + dy
        box = np.array([x - width / 2 - 2, y - 7, x + width / 2 + 2, y + 7])
        outside = (box[:2] < frame[:2]).any() or (box[2:] > frame[2:]).any()
        if outside or _covers(box, points, _DISC).any() or any(_touch(box, other) for other in taken):
          continue
        cost = 3 * ring + _covers(box, crowd, 2).sum()
        if cost < least:
          best, least = (box, (dx, dy)), cost
    found.append(best and best[1])
    taken += [best[0]] if best else []
  return found


def _covers(box: np.ndarray, points: np.ndarray, margin: float) -> np.ndarray:
  return ((points > box[:2] - margin) & (points < box[2:] + margin)).all(-1)


def _touch(box: np.ndarray, other: np.ndarray) -> bool:
  return bool((box[:2] < other[2:]).all() and (other[:2] < box[2:]).all())
