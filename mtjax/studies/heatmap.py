"""A matrix as inline SVG: between tasks, or of tasks and arms.

Cells go from vermilion (below 0) over the page's ground (0) to blue (above). The two hues differ to the colour-blind
too, and the numbers stand in the cells where they fit. Text keeps its size: on a narrow page the picture scrolls. What
a name does not fit is cut, and whole in its tooltip.
"""
import math
import unicodedata
from collections.abc import Sequence

import numpy as np

from mtjax.studies import html, plots

WIDTH = 516        # CSS pixels, at most
CELL = (15, 60)    # width of a cell, at least and at most
NAME = 116         # width of a name, at most
STRONGEST = 62     # percent of the hue in the strongest cell: text on it stays readable


def matrix(values: np.ndarray, names: Sequence[str], columns: Sequence[str] | None = None, *, limit: float,
           alt: str) -> html.Safe:
  """The picture.

  Args:
    values: [T, T], or [rows, columns]; NaN is an empty cell.
    names: [T], of the rows.
    columns: names of the columns; None = those of the rows, and then the diagonal bears no numbers.
    limit: the value of the strongest colour; give matrices to be compared the same.
    alt: what it shows, in words.
  """
  square, columns = columns is None, names if columns is None else columns
  left = min(max(map(text_width, names)), NAME) + 10
  widest = min(max(map(text_width, columns)), NAME)
  cell, turn = _layout(len(columns), left, widest)
  rise = 13 if turn == 0 else widest * math.sin(math.radians(turn)) + 7
  overhang = max(0, widest * math.cos(math.radians(turn)) - cell / 2 + 4) if turn else 0
  top, height = rise + 7, min(cell, 44)
  parts = []
  for j, name in enumerate(columns):
    x = left + (j + 0.5) * cell
    parts.append(_label(name, x + 4 * (turn > 0), top - 6, 'start' if turn else 'middle', turn))
  for i, name in enumerate(names):
    parts.append(_label(name, left - 8, top + (i + 0.5) * height + 4, 'end'))
    for j, other in enumerate(columns):
      tip = f'{name}, {other}: {html.number(float(values[i, j]), 3)}'
      numbered = i != j or not square
      parts.append(_cell(values[i, j], left + j * cell, top + i * height, cell, height, limit, numbered, tip))
  full = left + len(columns) * cell + overhang + 2
  view = f'0 0 {full:.0f} {top + len(names) * height + 2:.0f}'
  svg = html.tag('svg', parts, viewBox=view, role='img', aria_label=alt, font_size=11,
                 style=f'max-width: {full:.0f}px; min-width: {0.8 * full:.0f}px')
  return html.tag('div', svg, class_='scroll', tabindex=0)


def scale(limit: float, low: str, high: str) -> html.Safe:
  """What the colours mean: a bar from -limit to limit, with a word at each end."""
  bar = [_rect(x / 6 * limit, 11 * (x + 6), 0, 11, 10, limit) for x in range(-6, 7)]
  svg = html.tag('svg', bar, viewBox='0 0 143 10', width=143, height=10, aria_hidden='true')
  ends = [html.tag('span', f'{low} −{limit:g}'), svg, html.tag('span', f'{limit:g} {high}')]
  return html.tag('div', ends, class_='legend')


def nice_limit(values: np.ndarray) -> float:
  """The smallest round number from .05 to 1 that no finite value exceeds, or else a power of ten."""
  largest = max((abs(float(v)) for v in np.asarray(values).ravel() if math.isfinite(v)), default=1.0)
  steps = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0]
  return next((step for step in steps if largest <= step), 10.0 ** math.ceil(math.log10(max(largest, 1.0))))


def text_width(text: str) -> float:
  """About how wide a text of 11 pixels is."""
  widths = {'W': 11.0, 'F': 11.0}
  return sum(widths.get(unicodedata.east_asian_width(c), 8.6 if c.isupper() or c in 'mw@%—' else 6.4) for c in text)


def fit(text: str, width: float) -> str:
  """The text, cut to a width with an ellipsis where it is too long."""
  if text_width(text) <= width:
    return text
  while text and text_width(text + '…') > width:
    text = text[:-1]
  return text + '…'


def _layout(number: int, left: float, widest: float) -> tuple[float, int]:
  """(width of a cell, by how many degrees the names over the columns are turned so that none touches the next)."""
  upright = min(max(widest + 10, 44), 96)
  if widest + 8 <= upright and left + number * upright <= WIDTH:
    return upright, 0
  straight = (WIDTH - left - 2) / number
  slanted = min(straight, (WIDTH - left - widest * math.sqrt(0.5) - 6) / (number - 0.5))  # room for the last name
  if slanted >= 20:
    return min(slanted, CELL[1]), 45
  return float(np.clip(straight, *CELL)), 90


def _cell(value: float, x: float, y: float, width: float, height: float, limit: float, numbered: bool,
          tip: str) -> html.Safe:
  text = None
  if numbered and width >= 26:
    places = 3 if limit <= 0.05 and width >= 40 else 2 if limit <= 1 else 1 if width >= 38 and limit <= 100 else 0
    number = f'{value:z.{places}f}'.replace('-', '−') if math.isfinite(value) else '–'
    number = number if width >= 36 or abs(value) >= 1 else number.replace('0.', '.', 1)
    text = html.tag('text', number, x=round(x + width / 2, 1), y=round(y + height / 2 + 4, 1), text_anchor='middle',
                    font_size=11 if width >= 32 else 9.5, style='fill: var(--ink)')
  return html.tag('g', html.tag('title', tip), _rect(value, x, y, width, height, limit), text)


def _rect(value: float, x: float, y: float, width: float, height: float, limit: float) -> html.Safe:
  """A cell without its number; `fill` is for what does not know color-mix."""
  if not math.isfinite(value):
    fill, style = '#f5f6f8', 'fill: var(--sunken)'
  else:
    share = min(abs(value) / limit, 1.0) * STRONGEST / 100
    name = 'blue' if value > 0 else 'vermilion'
    hue = [int(plots.COLORS[name][i:i + 2], 16) for i in (1, 3, 5)]
    fill = '#' + ''.join(f'{round(255 + share * (part - 255)):02x}' for part in hue)
    style = f'fill: color-mix(in srgb, var(--{name}) {100 * share:.1f}%, var(--card))'
  return html.tag('rect', x=round(x + 0.5, 2), y=round(y + 0.5, 2), width=round(width - 1, 2),
                  height=round(height - 1, 2), fill=fill, style=style)


def _label(name: str, x: float, y: float, anchor: str, turn: int = 0) -> html.Safe:
  turned = f'rotate({-turn} {x:.1f} {y:.1f})' if turn else None
  return html.tag('text', html.tag('title', name), fit(name, NAME), x=round(x, 1), y=round(y, 1), text_anchor=anchor,
                  transform=turned, style='fill: var(--ink)')
