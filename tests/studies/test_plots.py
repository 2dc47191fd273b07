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
