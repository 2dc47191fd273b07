"""A forest plot: paired differences as dots with their intervals as lines, and where 0 is.

Each comparison has its name above its line, so that long names need no margin, and a colour and a marker by what it
says of the claim. The numbers stand in a table beneath the picture.
"""
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mtjax.studies import heatmap, html, plots

WIDTH = 380  # CSS pixels
ROW = 34
MOST = 10  # rows of a picture; the table has all
LOOKS = {True: ('green', 'D'), False: ('vermilion', 's'), None: ('muted', 'o')}


def figure(comparisons: Sequence[Mapping[str, Any]], *, alt: str) -> html.Safe | None:
  """The picture; None where no comparison has a difference.

  Args:
    comparisons: mappings with `a`, `b`, `difference`, `interval` ((low, high) or None), `holds` (of the claim), and
      where it was compared: `task`, `bed` or neither. All in one unit.
    alt: what it shows, in words.
  """
  rows = [entry for entry in comparisons if _finite(entry['difference'])][:MOST]
  if not rows:
    return None
  plots.import_matplotlib()
  import matplotlib
  from matplotlib import figure as mpl
  from matplotlib import ticker

  height = ROW * len(rows) + 30
  with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': alt, 'font.size': 11, 'font.family': 'sans-serif',
                              'axes.unicode_minus': True}):
    fig = mpl.Figure(figsize=(WIDTH / 72, height / 72))  # 1 pt of the SVG = 1 px of the page
    ax = fig.add_axes((12 / WIDTH, 24 / height, 1 - 24 / WIDTH, ROW * len(rows) / height))
    for i, entry in enumerate(rows):
      hue, marker = LOOKS[entry['holds']]
      ax.plot([0, 0], [i - 0.22, i + 0.22], color=plots.COLORS['ink'], linewidth=1)  # the 0 line, not across the names
      ends = [x for x in entry['interval'] or () if _finite(x)]
      if len(ends) == 2:
        ax.plot(ends, [i, i], color=plots.COLORS[hue], linewidth=2, solid_capstyle='round')
      ax.plot(entry['difference'], i, marker, color=plots.COLORS[hue], markersize=7)
      name = heatmap.fit(label(entry), WIDTH - 30).replace('$', r'\$')
      ax.text(0, i - 0.46, name, color=plots.COLORS['ink'], va='center', transform=ax.get_yaxis_transform())
    ax.set_ylim(len(rows) - 0.6, -0.72)
    ax.margins(x=0.06)
    ax.yaxis.set_visible(False)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=plots.ROUND))
    ax.xaxis.set_major_formatter(ticker.FuncFormatter(lambda x, _: f'{x:.4g}'.replace('-', '−')))
    ax.tick_params(colors=plots.COLORS['muted'], length=0, pad=5)
    for side, spine in ax.spines.items():
      spine.set_visible(side == 'bottom')
      spine.set_color(plots.COLORS['line'])
    return plots.svg(fig, alt)


def label(entry: Mapping[str, Any]) -> str:
  """'new − old, left'."""
  return ', '.join([f'{entry["a"]} − {entry["b"]}', *([where(entry)] if where(entry) else [])])


def where(entry: Mapping[str, Any]) -> str:
  """The task or bed of a comparison; '' for the study's score."""
  return str(entry.get('task') or entry.get('bed') or '')


def _finite(value: Any) -> bool:
  return isinstance(value, (int, float)) and math.isfinite(value)
