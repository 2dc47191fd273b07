"""A matrix between tasks: every cell, no two names over each other, numbers where they fit."""
import itertools
import math
import re

import numpy as np
import pytest

from mtjax.studies import heatmap

SHORT = [f't{i}' for i in range(20)]
LONG = [f'task_{i}_whose_name_does_not_end' for i in range(20)]


def matrix(number, names, **kwargs):
  values = np.random.default_rng(0).uniform(-0.4, 0.4, (number, number))
  np.fill_diagonal(values, np.nan)
  return values, heatmap.matrix(values, names[:number], limit=0.4, alt='cosines of <a>', **kwargs)


def attribute(tag, name):
  return float(re.search(rf' {name}="([^"]+)"', tag).group(1))


def boxes(svg):
  """(corners [4, 2] of each name's box, upright or turned); 11 pixels high, as wide as the library takes it to be."""
  found = []
  for opening, full, shown in re.findall(r'(<text[^>]*>)<title>(.*?)</title>([^<]*)</text>', svg):
    assert shown == heatmap.fit(full, heatmap.NAME)
    x, y, width = attribute(opening, 'x'), attribute(opening, 'y'), heatmap.text_width(shown)
    start = {'start': 0, 'middle': width / 2, 'end': width}[re.search('text-anchor="(.*?)"', opening).group(1)]
    corners = np.array([[-start, -8], [width - start, -8], [width - start, 2], [-start, 2]])  # ascent 8, descent 2
    turned = re.search(r'rotate\((-?\d+)', opening)
    angle = math.radians(float(turned.group(1))) if turned else 0.0
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    found.append(corners @ turn + [x, y])
  return found


def apart(one, other):
  """Whether a line parallel to a side of one of two rectangles separates them."""
  for a, b in ((one, other), (other, one)):
    for side in (a[1] - a[0], a[2] - a[1]):
      mine, yours = a @ side, b @ side
      if mine.max() <= yours.min() or yours.max() <= mine.min():
        return True
  return False


@pytest.mark.parametrize('number', [2, 3, 4, 6, 9, 12, 16, 20])
@pytest.mark.parametrize('names', [SHORT, LONG, ['W' * 9 for _ in range(20)], ['éè情' * 5 for _ in range(20)]])
def test_no_two_names_overlap_and_all_stay_within_the_picture(number, names):
  _, svg = matrix(number, names)
  width, height = map(float, re.search('viewBox="0 0 ([0-9]+) ([0-9]+)"', svg).groups())
  found = boxes(svg)
  assert len(found) == 2 * number and width <= heatmap.WIDTH
  for corners in found:
    assert -1 <= corners.min() and corners[:, 0].max() <= width + 1 and corners[:, 1].max() <= height
  assert all(apart(a, b) for a, b in itertools.combinations(found, 2))


@pytest.mark.parametrize('number, names, numbered', [
  (2, SHORT, True), (6, LONG, True), (12, LONG, True), (16, SHORT, True), (20, LONG, False)])
def test_numbers_stand_in_the_cells_where_they_fit(number, names, numbered):
  values, svg = matrix(number, names)
  assert svg.count('<rect') == number**2
  shown = re.findall(r'font-size="[0-9.]+" style="fill: var\(--ink\)">([^<]+)<', svg)
  off_diagonal = [values[i, j] for i in range(number) for j in range(number) if i != j]
  assert len(shown) == (len(off_diagonal) if numbered else 0)
  for text, value in zip(shown, off_diagonal):
    assert float(text.replace('−', '-')) == pytest.approx(value, abs=0.0051)  # two places
  assert all(f'<title>{names[0]}, {name}: ' in svg for name in names[:number])


def test_colours_diverge_from_the_ground_and_what_is_missing_says_so():
  values = np.array([[np.nan, 0.4, -0.2], [0.4, np.nan, np.nan], [-0.2, np.nan, 0.0]])
  svg = heatmap.matrix(values, ['a', '<b>', 'c'], limit=0.4, alt='x "&')
  assert 'fill: color-mix(in srgb, var(--blue) 62.0%, var(--card))' in svg        # at the limit
  assert 'fill: color-mix(in srgb, var(--vermilion) 31.0%, var(--card))' in svg   # half of it
  assert svg.count('fill: var(--sunken)') == 4 and svg.count('>–<') == 2          # the diagonal bears no sign
  # For browsers without color-mix, white and 62 % of #0072b2: 255 - .62 (255, 141, 77) = (97, 168, 207).
  assert '#61a8cf' in svg
  assert '&lt;b&gt;' in svg and 'aria-label="x &quot;&amp;"' in svg


def test_small_values_have_a_place_more_where_it_fits():
  values = np.array([[np.nan, -0.0046], [-0.0046, np.nan]])
  assert heatmap.matrix(values, ['a', 'b'], limit=0.05, alt='x').count('>−0.005<') == 2
  assert heatmap.matrix(values, ['a', 'b'], limit=0.1, alt='x').count('>0.00<') == 2      # no −0.00


@pytest.mark.parametrize('rows, columns', [(1, 12), (12, 1), (3, 2), (30, 20)])
def test_rows_and_columns_may_differ(rows, columns):
  values = np.random.default_rng(0).uniform(-30, 30, (rows, columns))
  svg = heatmap.matrix(values, [f'method_{i}_of_many' for i in range(rows)], LONG[:columns], limit=30, alt='x')
  width, height = map(float, re.search('viewBox="0 0 ([0-9]+) ([0-9]+)"', svg).groups())
  found = boxes(svg)
  assert len(found) == rows + columns and width <= heatmap.WIDTH and svg.count('<rect') == rows * columns
  assert all(apart(a, b) for a, b in itertools.combinations(found, 2))
  assert all(-1 <= corners.min() and corners[:, 0].max() <= width + 1 and corners[:, 1].max() <= height for corners in found)
  assert svg.count(f'<title>method_{rows - 1}_of_many, {LONG[columns - 1]}: ') == 1


@pytest.mark.parametrize('columns', [2, 7, 11, 14])
def test_percents_keep_their_digits(columns):
  """One place where it fits, none where not; 10.4 never loses its 0, and the diagonal of a rectangle counts."""
  svg = heatmap.matrix(np.full((1, columns), -10.4), ['a'], SHORT[:columns], limit=20, alt='x')
  shown = re.findall(r'font-size="[0-9.]+" style="fill: var\(--ink\)">([^<]+)<', svg)
  assert len(shown) == columns and set(shown) <= {'−10.4', '−10'} and len(set(shown)) == 1


def test_limits_are_round():
  assert heatmap.nice_limit([0.01, -0.03]) == 0.05
  assert heatmap.nice_limit([-0.16, math.nan]) == 0.2
  assert heatmap.nice_limit([1.0]) == heatmap.nice_limit([math.nan]) == 1.0
  assert heatmap.nice_limit([30.0]) == 100.0


def test_cut_names_end_in_an_ellipsis():
  assert heatmap.fit('left', 100) == 'left'
  cut = heatmap.fit(LONG[0], 60)
  assert cut.endswith('…') and LONG[0].startswith(cut[:-1]) and 40 < heatmap.text_width(cut) <= 60
  assert heatmap.fit('W', 3) == '…'
