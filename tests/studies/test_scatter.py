"""Points in a plane: labels that are apart, axes that say what they are."""
import itertools

import numpy as np
import pytest

from mtjax.studies import scatter

pytest.importorskip('matplotlib')


def test_labels_touch_neither_each_other_nor_a_point():
  rng = np.random.default_rng(0)
  points = rng.uniform(20, 380, (24, 2)) * [1, 0.5]
  frame, widths = np.array([0, 0, 400, 200]), [14.0] * 24
  offsets = scatter.place_labels(list(points), widths, points, points, frame)
  placed = [point + offset for point, offset in zip(points, offsets) if offset is not None]
  assert len(placed) >= 20
  for one, other in itertools.combinations(placed, 2):
    assert abs(one[0] - other[0]) >= 14 or abs(one[1] - other[1]) >= 14   # boxes of 18 x 14 with their margin
  for label in placed:
    assert not (abs(points - label) < [7 + scatter._DISC, scatter._DISC]).all(-1).any()
    assert (label >= 0).all() and (label <= frame[2:]).all()


def test_a_label_without_a_free_place_is_left_out():
  crowd = np.stack(np.meshgrid(np.arange(0, 200, 8.0), np.arange(0, 200, 8.0)), -1).reshape(-1, 2)
  assert scatter.place_labels([crowd[300]], [14.0], crowd, crowd, np.array([0, 0, 200, 200])) == [None]


def test_a_scatter_is_inline_svg():
  points = [scatter.Point(1e-4, 0.5, '$1', small=[(1e-4, 0.4)]), scatter.Point(1.0, 0.75, 'b', 'green', '^', False)]
  svg = scatter.scatter(points, size=(340, 200), alt='two "points"', path=[(1e-4, 0.5), (1.0, 0.75)])
  assert 'http' not in svg and 'aria-label="two &quot;points&quot;"' in svg and '>$1</text>' in svg
  assert '>1e−4</text>' in svg and '>0.01</text>' in svg                   # logarithmic: more than a factor of 50
  with pytest.raises(ValueError, match='got none'):
    scatter.scatter([], size=(340, 200), alt='x')


@pytest.mark.parametrize('value, text', [(0, '0'), (1e-4, '1e−4'), (-2.5e-5, '−2.5e−5'), (0.25, '0.25'), (2500, '2500'),
                                         (12500, '12.5k'), (1.5e6, '1.5M'), (2e9, '2G'), (-0.5, '−0.5')])
def test_ticks(value, text):
  assert scatter.tick(value) == text


def test_looks_of_points_differ():
  assert len({scatter.look(i) for i in range(24)}) == 24


@pytest.mark.parametrize('names, turn', [(['mgda', 'pcgrad'], 0), ([f'a_long_name_{i}' for i in range(6)], 45),
                                         ([f'a_long_name_{i}' for i in range(30)], 90)])
def test_names_under_the_axis_are_turned_where_they_would_touch(names, turn):
  points = [scatter.Point(i, 0.5 + i) for i in range(len(names))]
  svg = scatter.scatter(points, size=(400, 200), alt='x', categories=names)
  assert scatter._turn(names, 336)[0] == turn
  assert all(f'>{name}</text>' in svg for name in names)


def test_a_legend_names_every_point():
  points = [scatter.Point(0, 0, str(i + 1), *scatter.look(i)) for i in range(5)]
  drawn = scatter.legend(points, ['a_<b>', 'c', 'd', 'e', 'f'])
  assert drawn.count('<svg') == 5 and '1 a_<wbr>&lt;b&gt;' in drawn
