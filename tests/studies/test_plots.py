"""Curves: thinning by hand-worked means, and SVG that a page can own."""
import math
import re
import sys

import numpy as np
import pytest

from mtjax.studies import plots


def test_direction_by_name():
  for name in ('loss', 'log_loss', 'RMSE', 'mse', 'mae', 'ece', 'error_rate', 'top5/error'):
    assert not plots.higher_is_better(name)
  for name in ('accuracy', 'macro_f1', 'auc', 'r2', 'spearman', 'precision', 'lossless'):
    assert plots.higher_is_better(name)


def test_thin_averages_neighbours_over_what_is_finite():
  # 5 points into at most 2: buckets of 3 and 2; (1 + 3) / 2 = 2, then (4 + 6) / 2 = 5.
  steps, values = plots.thin([1, 2, 3, 4, 5], [1, math.nan, 3, 4, 6], limit=2)
  np.testing.assert_allclose(steps, [2, 4.5])
  np.testing.assert_allclose(values, [2, 5])
  assert np.isnan(plots.thin([1, 2], [math.nan, math.inf], limit=1)[1]).all()
  assert len(plots.thin(range(10_001), range(10_001))[0]) <= 400


def test_panel_is_inline_svg_with_ids_of_its_own():
  pytest.importorskip('matplotlib')
  lines = [plots.Line('train $loss <b>', [0, 1, 2], [3.0, math.nan, 1.0]),
           plots.Line('validation loss', [2], [2.0], 'vermilion', '--', 'o')]
  first, second = (plots.panel(lines, xlim=(0, 2), size=(340, 150), alt=alt) for alt in ('one', 'two "&'))
  assert first.startswith('<svg viewBox="0 0 340 150" role="img" aria-label="one">') and first.endswith('</svg>\n')
  assert 'aria-label="two &quot;&amp;"' in second
  assert 'http' not in first and '<metadata' not in first
  assert 'train $loss &lt;b&gt;' in first and 'not finite' in first and 'var(--blue, #0072b2)' in first
  ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in (first, second)]
  assert not ids[0] & ids[1]
  assert set(re.findall(r'(?:href="|url\()#([^")]+)', first)) <= ids[0]
  assert first == plots.panel(lines, xlim=(0, 2), size=(340, 150), alt='one')


def test_missing_matplotlib_names_the_extra(monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(ImportError, match=r"pip install 'mtjax\[report\]'"):
    plots.panel([plots.Line('loss', [0], [1.0])], xlim=(0, 1), size=(340, 150), alt='x')


def test_looks_differ():
  looks = plots.looks(24)
  assert len(set(looks)) == 24 and plots.looks(2) == looks[:2]
  assert all(a[0] != b[0] and a[1] != b[1] for a, b in zip(looks, looks[1:12]))


def ticks(svg):
  """Numbers that stand at the axes."""
  return [float(text.replace('−', '-')) for text in re.findall(r'>([−0-9.]+)</text>', svg)]


def test_axes_by_wish():
  pytest.importorskip('matplotlib')
  kwargs = dict(xlim=(0, 3), size=(340, 150), alt='x', key=False)
  share = plots.panel([plots.Line('share', [0, 3], [0.4, 0.5])], ylim=(0, 1), **kwargs)
  assert {0.0, 1.0} <= set(ticks(share)) and 'share' not in share  # no legend
  norms = plots.panel([plots.Line('norm', [1, 2, 3], [0.0, 0.01, 9.0])], scale='log', **kwargs)  # 0 has no logarithm
  assert {0.01, 0.1, 1.0} <= set(ticks(norms)) and 'not finite' not in norms
  spread = lambda label, scale: ticks(plots.panel([plots.Line(label, [1, 2], [0.1, 9.0])], scale=scale, **kwargs))
  for label, scale, log in (('ne', 'wide', True), ('loss', 'auto', True), ('ne', 'auto', False), ('loss', 'linear', False)):
    assert ({0.1, 1.0} <= set(spread(label, scale))) == log
  near = plots.panel([plots.Line('norm', [1, 2], [1.1, 1.6])], scale='log', **kwargs)             # within a decade
  assert len([tick for tick in ticks(near) if 1.1 <= tick <= 1.6 and tick % 1]) >= 2
  zeros = plots.panel([plots.Line('norm', [1, 2], [0.0, 0.0])], scale='log', **kwargs)
  assert zeros.startswith('<svg')
  below = plots.panel([plots.Line('progress', [1, 2], [-1.5, 1.5])], ylim=(0, None), **kwargs)
  assert -1.0 in ticks(below)


def test_a_band_is_shaded_and_within_the_axis():
  pytest.importorskip('matplotlib')
  kwargs = dict(xlim=(0, 2), size=(340, 150), alt='x', key=False)
  line = plots.Line('accuracy', [0, 1, 2], [0.5, 0.6, 0.7])
  plain = plots.panel([line], **kwargs)
  banded = plots.panel([line._replace(band=([0.0, 0.1, math.nan], [1.0, 1.0, math.nan]))], **kwargs)
  assert 'PolyCollection' not in plain and banded.count('PolyCollection') == 1
  assert max(ticks(plain)[3:]) <= 0.7 and 1.0 in ticks(banded)
  assert 'fill: var(--blue, #0072b2)' in banded and 'not finite' not in banded


def test_a_legend_beside_a_panel():
  lines = [plots.Line('a_<b>', [0], [1.0], *look) for look in plots.looks(3)]
  legend = plots.legend(lines)
  assert legend.count('<line') == 3 and legend.count('a_<wbr>&lt;b&gt;') == 3
  assert 'var(--blue, #0072b2)' in legend and legend.count('stroke-dasharray') == 2
