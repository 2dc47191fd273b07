"""Curves as inline SVG, drawn by matplotlib, for pages that are light or dark.

Colours are those of Okabe & Ito, told apart by the colour-blind too, and every line has its own dash or marker besides.
In the SVG they become CSS variables with the hue as fall-back, so that the page decides what they look like on its
ground. Text stays text: it can be searched and read aloud.
"""
import contextlib
import io
import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtjax.studies import html

COLORS = {'blue': '#0072b2', 'vermilion': '#d55e00', 'green': '#009e73', 'purple': '#cc79a7', 'orange': '#e69f00',
          'sky': '#56b4e9', 'ink': '#1d232b', 'muted': '#5b6572', 'line': '#dde1e6'}
ROUND = (1, 2, 2.5, 5, 10)  # ticks at multiples of these
_DASHES = {'-': None, '--': '6 3', ':': '2 3', '-.': '8 3 2 3'}  # as in a legend outside of a panel
LOWER_IS_BETTER = ('loss', 'error', 'mse', 'mae', 'rmse', 'ece', 'nll', 'brier', 'perplexity')


class Line(NamedTuple):
  """One curve of a panel.

  Attributes:
    label: its name in the legend.
    steps: [N] increasing.
    values: [N]; what is not finite is a gap, marked by a cross at the upper edge.
    color: a key of COLORS.
    dash: a matplotlib line style.
    marker: a matplotlib marker at each point, or ''.
    band: (low [N], high [N]), shaded in the line's colour; None = no band.
  """
  label: str
  steps: Sequence[float]
  values: Sequence[float]
  color: str = 'blue'
  dash: str = '-'
  marker: str = ''
  band: tuple[Sequence[float], Sequence[float]] | None = None

  @classmethod
  def of(cls, label: str, series: Mapping[int, float], *look: str) -> 'Line':
    """The line of {step: value}; `look` is color, dash, marker."""
    return cls(label, list(series), list(series.values()), *look)


def looks(number: int) -> list[tuple[str, str]]:
  """`number` pairs (color, dash), the first 24 of them different; neighbours differ in both."""
  hues, dashes = ('blue', 'vermilion', 'green', 'purple', 'orange', 'sky'), tuple(_DASHES)
  return [(hues[i % 6], dashes[(i + i // 12) % 4]) for i in range(number)]


def higher_is_better(metric: str) -> bool:
  """Whether more of `metric` is better, told by the words of its name: no word of LOWER_IS_BETTER is among them.

  A guess, for losses and for runs that did not write down what their metrics say (`mtjax.metrics.MetricSpec`).
  """
  return not set(re.split(r'[^a-z0-9]+', metric.lower())) & set(LOWER_IS_BETTER)


def thin(steps: Sequence[float], values: Sequence[float], limit: int = 400) -> tuple[np.ndarray, np.ndarray]:
  """At most `limit` points: means of equally many neighbours, over those that are finite; [N] -> [<= limit] twice.

  A mean of no finite value is NaN. The last bucket may hold fewer points.
  """
  steps, values = np.asarray(steps, float), np.asarray(values, float)
  width = math.ceil(len(steps) / limit)
  if width <= 1:
    return steps, values
  starts = np.arange(0, len(steps), width)
  finite = np.isfinite(values)
  counts = np.add.reduceat(finite, starts, dtype=float)
  sums = np.add.reduceat(np.where(finite, values, 0.0), starts)
  means = np.divide(sums, counts, out=np.full(len(starts), np.nan), where=counts > 0)
  return np.add.reduceat(steps, starts) / np.diff(np.append(starts, len(steps))), means


def panel(lines: Sequence[Line], *, xlim: tuple[float, float], size: tuple[int, int], alt: str, scale: str = 'auto',
          ylim: tuple[float | None, float | None] = (None, None), key: bool = True) -> html.Safe:
  """One small plot over steps with its legend above it.

  Margins are fixed, so that panels of one size line up.

  Args:
    lines: what to draw.
    xlim: the first and the last step; give all panels of a page the same.
    size: width and height in CSS pixels at scale 1.
    alt: what it shows, in words.
    scale: of the y axis, 'linear' or 'log'; 'wide' is log for values that span more than a factor of 50, 'auto' for
      losses that do, by their names.
    ylim: the y axis begins at the first, unless there is less, and reaches the second; None = as the values say.
    key: whether the legend is part of it; see `legend`.
  """
  width, _ = size
  with axes(size, alt, above=34 if key else 8) as ax:
    for line in lines:
      _draw(ax, line)
    _dress(ax, lines, xlim, size, scale, ylim)
    if key:
      ax.legend(loc='lower left', bbox_to_anchor=(-30 / width, 1 + 8 / (size[1] - 58)), ncols=9, frameon=False,
                borderaxespad=0.2, borderpad=0.2, handlelength=1.7, handletextpad=0.5, columnspacing=1.2,
                labelcolor=COLORS['ink'])
    return to_svg(ax.figure, alt)


@contextlib.contextmanager
def axes(size: tuple[int, int], alt: str, above: int = 8, below: int = 24, left: int = 46) -> Iterator[Any]:
  """Axes in a figure of `size` CSS pixels with fixed margins; text stays text, and pages are the same every time."""
  import_matplotlib()
  import matplotlib
  from matplotlib import figure

  width, height = size
  with matplotlib.rc_context({'svg.fonttype': 'none', 'svg.hashsalt': alt, 'font.size': 11, 'font.family': 'sans-serif',
                              'axes.unicode_minus': True, 'path.simplify': True}):
    fig = figure.Figure(figsize=(width / 72, height / 72))  # 1 pt of the SVG = 1 px of the page
    yield fig.add_axes((left / width, below / height, 1 - (left + 12) / width, 1 - (above + below) / height))


def legend(lines: Sequence[Line]) -> html.Safe:
  """The legend of a panel, beside it on the page: of any number of lines, with names of any length."""
  def swatch(line):
    stroke = html.tag('line', x1=1, y1=5, x2=25, y2=5, stroke=f'var(--{line.color}, {COLORS[line.color]})',
                      stroke_width=2.2, stroke_dasharray=_DASHES.get(line.dash))
    return html.tag('svg', stroke, viewBox='0 0 26 10', width=26, height=10, aria_hidden='true')
  return html.tag('div', [html.tag('span', swatch(line), html.tag('span', html.name(line.label))) for line in lines],
                  class_='legend')


def import_matplotlib() -> None:
  """Raises ImportError with the install line where matplotlib is missing."""
  try:
    import matplotlib  # noqa: F401
  except ImportError as error:
    raise ImportError("Reports draw their curves with matplotlib, which is not installed: "
                      "pip install 'mtjax[report]'.") from error


def _draw(ax, line: Line) -> None:
  color = COLORS[line.color]
  label = line.label.replace('$', r'\$')                   # no mathematics in names
  steps, values = thin(line.steps, line.values)
  values = np.where(np.isfinite(values), values, np.nan)
  if line.band is not None:
    low, high = (thin(line.steps, edge)[1] for edge in line.band)
    ax.fill_between(steps, low, high, where=np.isfinite(low + high), color=color, alpha=0.16, linewidth=0)
  marker = line.marker if len(steps) <= 40 else ''
  if np.isfinite(values).sum() == 1:
    marker = marker or 'o'                                 # one point makes no line
  ax.plot(steps, values, color=color, linestyle=line.dash, linewidth=1.6, label=label, marker=marker,
          markersize=4 if line.dash else 7, markerfacecolor=color if line.dash else 'none', clip_on=not marker)
  broken = np.asarray(line.steps)[~np.isfinite(np.asarray(line.values, float))]
  if len(broken):
    ax.plot(broken[:1], [0.94], 'x', color=color, markersize=8, markeredgewidth=2, clip_on=False,
            transform=ax.get_xaxis_transform(), label='not finite')


def _dress(ax, lines: Sequence[Line], xlim: tuple[float, float], size: tuple[int, int], scale: str,
           ylim: tuple[float | None, float | None]) -> None:
  from matplotlib import ticker

  values = np.concatenate([np.asarray(part, float) for line in lines for part in (line.values, *(line.band or ()))])
  values = values[np.isfinite(values)]
  positive = values[values > 0]
  if scale == 'auto':
    scale = 'linear' if any(higher_is_better(line.label) for line in lines) else 'wide'
  if scale == 'wide':
    wide = len(values) and len(positive) == len(values) and values.max() > 50 * values.min()
    scale = 'log' if wide else 'linear'
  if scale == 'log' and len(positive):
    ax.set_yscale('log', nonpositive='mask')
    span = positive.max() / positive.min()
    ax.yaxis.set_major_locator(
      ticker.MaxNLocator(4, steps=ROUND) if span < 5 else
      ticker.LogLocator(subs=(1, 2, 5) if span < 30 else (1,), numticks=4))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
  else:
    ax.yaxis.set_major_locator(ticker.MaxNLocator(4, steps=ROUND))
  ax.yaxis.set_major_formatter(ticker.FuncFormatter(lambda y, _: f'{y:.4g}'.replace('-', '−')))
  ax.xaxis.set_major_locator(ticker.MaxNLocator(4 if size[0] < 400 else 6, steps=ROUND, integer=True))
  ax.xaxis.set_major_formatter(ticker.EngFormatter(sep=''))
  ax.set_xlim(*xlim)
  ax.margins(y=0.08)
  low, high = ax.get_ylim()
  if len(values) and ylim[0] is not None and values.min() >= ylim[0]:
    low, high = ylim[0], values.max() + 0.08 * (values.max() - ylim[0])
  if ylim[1] is not None:
    high = max(high, ylim[1])
  ax.set_ylim(low, high)
  if scale == 'linear' and (values < 0).any() and high > 0:
    ax.axhline(0, color=COLORS['muted'], linewidth=1)
  quiet(ax)


def quiet(ax) -> None:
  """Grey ticks without marks, lines across and a bottom line: nothing that competes with what is drawn."""
  ax.grid(axis='y', color=COLORS['line'], linewidth=1)
  ax.set_axisbelow(True)
  ax.tick_params(colors=COLORS['muted'], length=0, pad=5)
  for side, spine in ax.spines.items():
    spine.set_visible(side == 'bottom')
    spine.set_color(COLORS['line'])


def to_svg(fig, alt: str) -> html.Safe:
  """The figure's SVG element: no XML head, ids of its own, colours as CSS variables, no fixed size."""
  buffer = io.StringIO()
  fig.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
  svg = buffer.getvalue()
  svg = svg[svg.index('<svg'):]
  svg = re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.S)
  opening, rest = svg.split('>', 1)
  view = re.search(r'viewBox="[^"]*"', opening).group()
  # Pages hold many figures: ids must differ between them.
  prefix = f'f{zlib.crc32(svg.encode()):08x}-'
  rest = re.sub(r'\bid="', f'id="{prefix}', rest).replace('xlink:href="#', f'href="#{prefix}')
  rest = rest.replace('url(#', f'url(#{prefix}')
  for name, hue in COLORS.items():
    rest = rest.replace(hue, f'var(--{name}, {hue})')
  return html.Safe(f'<svg {view} role="img" aria-label="{html.escape(alt)}">{rest}')

