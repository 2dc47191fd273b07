"""Differences under each other on one axis with 0 in it."""
import math
import re

from mtjax.studies import forest


def test_places_are_in_percent_of_one_axis():
  rows = [forest.Row('a − b', 'left', 1.0, 0.0, 2.0, 'better'), forest.Row('a − c', '<x>', -1.0, -2.0, 0.0, 'worse')]
  drawn = forest.forest(rows, alt='"x"', left='less', right='more')
  # -2 to 2 with 8 % of 4 on either side: -2.32 to 2.32, so that 0 is the middle and 1 is at 3.32 / 4.64 = 71.55 %.
  assert drawn.count('<line x1="50.00%" x2="50.00%"') == 2
  assert re.findall('<circle cx="([0-9.]+)%"', drawn) == ['71.55', '28.45']
  assert '<line x1="50.00%" x2="93.10%"' in drawn and '&lt;x&gt;' in drawn and 'aria-label="&quot;x&quot;"' in drawn
  ticks = [float(text.replace('−', '-')) for text in re.findall('<text[^>]*>([^<]*)</text>', drawn)]
  assert 0.0 in ticks and 3 <= len(ticks) <= 5 and ticks == sorted(ticks)
  assert '← less' in drawn and 'more →' in drawn


def test_a_forest_of_nothing_known():
  drawn = forest.forest([forest.Row('a − b', 'left', math.nan)], alt='x')
  assert '<circle' not in drawn and '–' in drawn and 'nan' not in drawn
