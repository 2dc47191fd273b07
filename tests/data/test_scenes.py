"""Rendered scenes: drawn by index alone; what is rendered lies where geometry says; the shipped ones are among them."""
import builtins
import dataclasses
import importlib.util
import math

import numpy as np
import pytest

from mtjax.data import depth_maps, scene_renderer, scenes
from mtjax.data.sources import rendered_scenes

SIZE = 32
needs_bullet = pytest.mark.skipif(importlib.util.find_spec('pybullet') is None,
                                  reason="pybullet renders the scenes: pip install 'mtjax[render]'")
EMPTY = scenes.Scene(
  objects=(), room=(3.0, 3.0, 3.0, 5.0), colours=((0.5, 0.5, 0.5), (0.9, 0.9, 0.9)), patterns=('', ''),
  eye=(0.0, -2.0, 1.5), target=(0.0, 0.0, 1.5), light=(0.0, -0.5, 1.0), ambient=0.5, diffuse=0.5, specular=0.0,
  tint=(1.0, 1.0, 1.0))        # looks along +y at a wall 7 metres away, 1.5 metres above the floor


def thing(kind, **fields):
  return scenes.Object(kind, **{**dict(size=0.5, shape=(0.5, 0.5), x=0.0, y=1.0, tilt=0.0, yaw=0.0,
                                       colour=(1.0, 0.0, 0.0), pattern=''), **fields})


@pytest.fixture(scope='module')
def render():
  with scene_renderer.Renderer() as renderer:
    yield renderer


def test_scenes_are_drawn_by_seed_and_index_alone():
  assert scenes.sample_scene(0, 7) == scenes.sample_scene(0, 7)
  assert len({scenes.sample_scene(seed, index) for seed in range(2) for index in range(20)}) == 40
  # frozen: other draws would be other data under the same name
  scene = scenes.sample_scene(0, 0)
  assert [o.kind for o in scene.objects] == ['box', 'capsule', 'rubble', 'table', 'capsule']
  assert math.isclose(scene.eye[2], 0.9810531542462159, rel_tol=1e-12)


def test_things_do_not_overlap_and_the_camera_is_in_the_room():
  counts = dict.fromkeys(scenes.KINDS[2:], 0)
  for index in range(300):
    scene = scenes.sample_scene(0, index)
    assert 1 <= len(scene.objects) <= 8
    left, right, front, back = scene.room
    assert -left < scene.eye[0] < right and -front < scene.eye[1] < back and 0 < scene.eye[2] < 4
    for i, one in enumerate(scene.objects):
      counts[one.kind] += 1
      assert math.hypot(one.x - scene.eye[0], one.y - scene.eye[1]) > one.size + 0.7
      for other in scene.objects[:i]:
        assert math.hypot(one.x - other.x, one.y - other.y) > one.size + other.size
  assert min(counts.values()) > 100 and max(counts.values()) < 300, counts


def test_without_pybullet_the_error_says_what_to_install(monkeypatch):
  real = builtins.__import__
  monkeypatch.setattr(scene_renderer.importlib, 'import_module',
                      lambda name: (_ for _ in ()).throw(ImportError(name)) if 'bullet' in name else real(name))
  with pytest.raises(ImportError, match=r"pip install 'mtjax\[render\]'"):
    next(rendered_scenes.render(range(1), SIZE))


@needs_bullet
def test_floor_and_wall_lie_where_they_are(render):
  rendered = render(EMPTY, SIZE)
  row0, column0 = scene_renderer.centre(SIZE)
  focal = depth_maps.focal_length(SIZE, scene_renderer.FOVY)
  # 1.5 metres below the axis, row r sees the floor at 1.5 f / (r - r0); the wall in front is 7 metres away
  row = np.arange(int(row0) + 1, SIZE)
  floor = 1.5 * focal / (row - row0)
  expected = np.minimum(floor, 7.0)
  middle = rendered.depth[row, int(column0)]
  np.testing.assert_allclose(middle, expected, rtol=1e-4)      # the z-buffer is float32: 1e-7 / 0.1 a metre of depth
  on_floor = rendered.instances[row, int(column0)] == 0
  np.testing.assert_array_equal(on_floor, floor < 7.0)
  n = depth_maps.normals(rendered.depth, focal, (row0, column0))
  # the camera looks level: the floor's normal is up, the wall's towards the camera; the z-buffer's steps allow 0.3 degrees
  middle = n[:, 8:24]
  np.testing.assert_allclose(middle[row[on_floor]], np.broadcast_to([0, 1, 0], (on_floor.sum(), 16, 3)), atol=5e-3)
  np.testing.assert_allclose(middle[:int(row0)], np.broadcast_to([0, 0, 1], (int(row0), 16, 3)), atol=5e-3)


@needs_bullet
def test_the_nearest_point_of_a_sphere(render):
  scene = dataclasses.replace(EMPTY, objects=(thing('sphere', y=1.0),), eye=(0.0, -2.0, 0.5), target=(0.0, 0.0, 0.5))
  rendered = render(scene, SIZE)
  ball = rendered.instances == 2
  assert rendered.kinds[2] == scenes.KINDS.index('sphere')
  # it stands at 3 metres, has radius 0.5, and is made of triangles: a little further away than 2.5
  assert 2.5 - 1e-3 < rendered.depth[ball].min() < 2.53
  rows, columns = np.nonzero(ball)
  row0, column0 = scene_renderer.centre(SIZE)
  assert abs(rows.mean() - row0) < 0.6 and abs(columns.mean() - column0) < 0.6
  # seen radius: f tan(asin(r / distance)) = 27.7 * 0.169 = 4.7 pixels; its area within a tenth
  focal = depth_maps.focal_length(SIZE, scene_renderer.FOVY)
  assert math.isclose(ball.sum(), math.pi * (focal * math.tan(math.asin(0.5 / 3)))**2, rel_tol=0.1)


@needs_bullet
@pytest.mark.parametrize('kind', scenes.KINDS[2:])
def test_every_kind_stands_on_the_floor_and_is_as_large_as_it_says(render, kind):
  scene = dataclasses.replace(EMPTY, objects=(thing(kind, yaw=0.7, tilt=0.0 if kind == 'table' else 0.4),))
  rendered = render(scene, SIZE)
  row0, column0 = scene_renderer.centre(SIZE)
  focal = depth_maps.focal_length(SIZE, scene_renderer.FOVY)
  row, column = np.nonzero(rendered.instances == 2)
  depth = rendered.depth[row, column]
  height, side = 1.5 - depth * (row - row0) / focal, depth * (column - column0) / focal
  assert len(row) > 20
  assert -0.01 < height.min() < 0.2                            # the floor, but for the pixels between
  # no point is further from another than the diagonal of a box with half sides of 0.5
  assert height.max() < 1.75 and abs(side).max() < 0.9 and 1.1 < depth.min() < 3.5


@needs_bullet
def test_a_scene_rendered_alone_or_later_is_the_same(render):
  later = rendered_scenes.label(render(scenes.sample_scene(0, 3), SIZE))
  (alone,) = rendered_scenes.render([3], SIZE)
  for column, value in alone.items():
    np.testing.assert_array_equal(value, later[column], err_msg=column)


@needs_bullet
def test_odd_sizes_are_refused(render):
  for size in (33, 2):
    with pytest.raises(ValueError, match=f'size={size}; allowed is an even number >= 4'):
      render(EMPTY, size)


@needs_bullet
def test_half_the_size_is_every_second_pixel(render):
  large, small = (render(scenes.sample_scene(0, 5), size) for size in (2 * SIZE, SIZE))
  np.testing.assert_array_equal(small.instances, large.instances[1::2, ::2])
  np.testing.assert_array_equal(small.depth, large.depth[1::2, ::2])


@needs_bullet
def test_the_shipped_scenes_are_rendered_ones():
  shipped = rendered_scenes.sample()
  rows = list(rendered_scenes.render(range(rendered_scenes.SAMPLE_START, rendered_scenes.SAMPLE_START + 3), SIZE))
  for column, values in shipped.items():
    np.testing.assert_array_equal(values[:3], [row[column] for row in rows], err_msg=column)


def test_the_labels_of_the_shipped_scenes_agree_with_each_other():
  shipped = rendered_scenes.sample()
  depth, n = shipped['depth'].astype(np.float32), shipped['normals'].astype(np.float32)
  assert shipped['image'].shape == (96, SIZE, SIZE, 3) and shipped['segmentation'].max() == len(scenes.KINDS) - 1
  assert 0.6 < depth.min() and depth.max() < 12
  length = np.linalg.norm(n, axis=-1)
  known = length > 0
  assert known.mean() > 0.9 and abs(length[known] - 1).max() < 0.01      # steps of 1/127
  focal = depth_maps.focal_length(SIZE, scene_renderer.FOVY)
  row0, column0 = scene_renderer.centre(SIZE)
  row, column = np.indices((SIZE, SIZE))
  rays = np.stack([(column - column0) / focal, -(row - row0) / focal, -np.ones((SIZE, SIZE))], -1)
  assert np.mean((n * rays).sum(-1)[known] <= 0.02) > 0.999               # they face the camera
  salient = shipped['saliency'] == 1
  assert (shipped['segmentation'][salient] > 1).all() and salient.any((1, 2)).all()
  inside = shipped['segmentation'][:, :-1, :-1]
  differs = (inside != shipped['segmentation'][:, 1:, :-1]) | (inside != shipped['segmentation'][:, :-1, 1:])
  assert shipped['edges'][:, :-1, :-1][differs].all()                     # two of a kind have a border too
