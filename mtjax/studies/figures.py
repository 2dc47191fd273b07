"""The numbers beside a figure of curves."""
import math
from collections.abc import Sequence

from mtjax.studies import html, plots

MAX_ROWS = 60  # of the table under a figure


def curve_table(lines: Sequence[plots.Line]) -> html.Safe:
  """The numbers of a figure; of a long run evenly spread steps, and all at which anything but training was measured."""
  steps = sorted({step for line in lines for step in line.steps})
  rare = {step for line in lines for step in line.steps if len(line.steps) <= MAX_ROWS // 2}
  stride = math.ceil(len(steps) / MAX_ROWS) if steps else 1
  shown = [step for i, step in enumerate(steps) if i % stride == 0 or step in rare or step == steps[-1]]
  columns = [dict(zip(line.steps, line.values)) for line in lines]
  rows = [[html.number(step), *(html.number(column[step]) if step in column else '' for column in columns)]
          for step in shown]
  summary = 'Numbers' if len(shown) == len(steps) else f'Numbers ({len(shown)} of {len(steps):,} steps)'
  return html.details(summary, html.table(['step', *(line.label for line in lines)], rows, text_columns=0))
