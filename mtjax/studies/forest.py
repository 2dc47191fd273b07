"""A forest plot: differences with their intervals, one under the other, on one axis with a line at 0.

Each row is a strip of SVG whose places are in percent of its width, so that the picture is as wide as the page while
words and dots keep their size. A filled dot is a difference for which there is evidence, a hollow one is not.
"""
import math
from collections.abc import Sequence
from typing import NamedTuple

from mtjax.studies import html, plots, scatter

_HEIGHT = 24
_TONES = {'better': 'blue', 'worse': 'vermilion'}


class Row(NamedTuple):
  """A difference.

  Attributes:
    label: what differs from what.
    note: on what, in small.
    value: the difference; NaN where there is none.
    low, high: its interval; NaN where there is none.
    verdict: 'better', 'worse', or anything else for no evidence.
  """
  label: str
  note: str
  value: float
  low: float = math.nan
  high: float = math.nan
  verdict: str = ''


def forest(rows: Sequence[Row], *, alt: str, left: str = '', right: str = '') -> html.Safe:
  """The picture.

  Args:
    rows: from top to bottom, all in one unit.
    alt: what it shows, in words.
    left, right: what lies below 0, and above.
  """
  low, high = _limits(rows)
  share = lambda value: f'{100 * (value - low) / (high - low):.2f}%'
  what = lambda row: html.tag('span', html.name(row.label), html.tag('small', html.name(row.note)), class_='what')
  lines = [html.tag('div', what(row), _strip(row, share), html.tag('span', _signed(row.value), class_='num'),
                    class_='row') for row in rows]
  axis = html.tag('div', html.tag('span', class_='what'), _axis(low, high, share), html.tag('span'), class_='row axis')
  words = html.tag('div', html.tag('span', class_='what'),
                   html.tag('span', html.tag('span', f'← {left}'), html.tag('span', f'{right} →'), class_='ends'),
                   html.tag('span'), class_='row axis') if left or right else None
  return html.tag('div', lines, axis, words, class_='forest', role='group', aria_label=alt)


def _strip(row: Row, share) -> html.Safe:
  hue = _TONES.get(row.verdict, 'muted')
  color, middle, parts = f'var(--{hue}, {plots.COLORS[hue]})', _HEIGHT / 2, []
  # Beyond the strip, so that the line at 0 goes on from row to row.
  parts.append(html.tag('line', x1=share(0), x2=share(0), y1=-14, y2=_HEIGHT + 8, stroke='var(--muted)',
                        stroke_width=0.8))
  if math.isfinite(row.low) and math.isfinite(row.high):
    parts.append(html.tag('line', x1=share(row.low), x2=share(row.high), y1=middle, y2=middle, stroke=color,
                          stroke_width=2.2))
  if math.isfinite(row.value):
    parts.append(html.tag('circle', cx=share(row.value), cy=middle, r=5, stroke=color, stroke_width=2,
                          fill=color if row.verdict in _TONES else 'var(--card)'))
  tip = html.tag('title', f'{row.label}, {row.note}: {_signed(row.value)} [{_signed(row.low)}, {_signed(row.high)}]')
  return html.tag('svg', tip, parts, width='100%', height=_HEIGHT, role='img')


def _axis(low: float, high: float, share) -> html.Safe:
  from matplotlib import ticker

  ticks = [t for t in ticker.MaxNLocator(3, steps=plots.ROUND).tick_values(low, high) if low <= t <= high]
  texts = [html.tag('text', scatter.tick(0.0 if abs(t) < 1e-9 * (high - low) else float(t)), x=share(t), y=14,
                    text_anchor='middle', style='fill: var(--muted)') for t in ticks]
  return html.tag('svg', texts, width='100%', height=18, font_size=11, aria_hidden='true')


def _limits(rows: Sequence[Row]) -> tuple[float, float]:
  """Of the axis: 0 and all that is drawn, with room for the numbers at its ends."""
  values = [v for row in rows for v in (row.value, row.low, row.high) if math.isfinite(v)] + [0.0]
  low, high = min(values), max(values)
  room = 0.08 * (high - low) or 1.0
  return low - room, high + room


def _signed(value: float) -> str:
  return ('+' if value > 0 else '') + html.number(value)
