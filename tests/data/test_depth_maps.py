"""Labels that follow from depth: closed forms of planes and spheres, and maps small enough to work out by hand."""
import doctest

import numpy as np
import pytest

from mtjax.data import depth_maps

SIZE, FOCAL, CENTRE = 32, 30.0, (15.0, 16.0)
ROW, COLUMN = np.indices((SIZE, SIZE))
RAYS = np.stack([(COLUMN - CENTRE[1]) / FOCAL, -(ROW - CENTRE[0]) / FOCAL, -np.ones((SIZE, SIZE))], -1)   # at depth 1


def plane(normal, distance):
  """(depth of the plane n . P = -distance, its unit normal)."""
  normal = np.array(normal, float) / np.linalg.norm(normal)
  return distance / -(RAYS @ normal), normal


def degrees(a, b):
  return np.degrees(np.arccos(np.clip((a * b).sum(-1), -1, 1)))


def test_examples():
  assert doctest.testmod(depth_maps, extraglobs={'np': np}).failed == 0


@pytest.mark.parametrize('normal', [(0, 0, 1), (0.3, 0.9, 0.8), (-0.7, 0.2, 1.0), (0.5, -0.5, 0.9)])
def test_the_normals_of_a_plane_are_its_normal(normal):
  depth, normal = plane(normal, 2.0)
  assert (depth > 0).all()
  # the answer is float32: steps of 6e-8 near 1, a few of them
  np.testing.assert_allclose(depth_maps.normals(depth, FOCAL, CENTRE), np.broadcast_to(normal, (SIZE, SIZE, 3)), atol=3e-7)


def test_planes_that_meet_keep_their_normals_up_to_the_crease():
  floor, up = plane((0, 1, 0.2), 1.0)
  wall, front = plane((0.1, 0, 1), 4.0)
  floor = np.where(floor > 0, floor, np.inf)
  depth = np.minimum(floor, wall)
  truth = np.where((floor < wall)[..., None], up, front)
  assert 0.2 < (floor < wall).mean() < 0.8
  error = abs(depth_maps.normals(depth, FOCAL, CENTRE) - truth).max(-1)
  # but for pixels at the image's border whose only three in a row lie across the crease
  assert (error[:, 2:-2] < 3e-7).all() and (error < 3e-7).mean() > 0.99


def test_where_depth_jumps_there_is_no_normal_and_elsewhere_it_is_right():
  depth = np.full((8, 8), 3.0)
  depth[:, 4] = 2.0                                            # a pole one pixel wide: no plane can be told
  n = depth_maps.normals(depth, FOCAL, (4, 4))
  np.testing.assert_array_equal(n[:, 4], 0)
  np.testing.assert_array_equal(n[:, [0, 1, 2, 3, 5, 6, 7]], np.broadcast_to([0, 0, 1], (8, 7, 3)))


def test_the_normals_of_a_sphere_point_away_from_its_centre():
  centre, radius = np.array([0.2, -0.1, -3.0]), 1.0
  square, along = (RAYS**2).sum(-1), RAYS @ centre
  root = along**2 - square * (centre @ centre - radius**2)
  hit = root > 0
  depth = np.where(hit, (along - np.sqrt(np.maximum(root, 0))) / square, 6.0)
  n = depth_maps.normals(depth, FOCAL, CENTRE)
  seen = hit & (n != 0).any(-1)
  assert seen.sum() > 0.9 * hit.sum()
  # a parabola through pixels 6 degrees apart: half a step off at the rim, less inside
  error = degrees(n, (depth[..., None] * RAYS - centre) / radius)[seen]
  assert error.mean() < 1.5 and error.max() < 8
  assert (n @ np.array([0, 0, 1.0]))[seen].min() > 0 and degrees(n[~hit], np.array([0, 0, 1.0])).max() < 1e-3


def test_a_stack_of_maps_is_each_map():
  depth = np.stack([plane((0.1, 0.2, 1), 2.0)[0], plane((-0.3, 0.2, 1), 5.0)[0]])
  np.testing.assert_array_equal(depth_maps.normals(depth, FOCAL, CENTRE),
                                [depth_maps.normals(one, FOCAL, CENTRE) for one in depth])
  labels = np.random.RandomState(0).randint(0, 3, (2, 4, 5))
  np.testing.assert_array_equal(depth_maps.borders(labels), [depth_maps.borders(one) for one in labels])


def test_depth_is_what_the_z_buffer_was_made_of():
  depth, near, far = np.linspace(0.2, 20, 50), 0.1, 30.0
  z = (far + near) / (far - near) - 2 * far * near / (far - near) / depth     # OpenGL, in -1 … 1
  np.testing.assert_allclose(depth_maps.depth_from_z((z + 1) / 2, near, far), depth, rtol=1e-9)


def test_the_nearest_thing_must_be_seen_and_must_count():
  depth = np.array([[1.0, 2.0, 2.5], [1.5, 3.0, 2.6]])
  instances = np.array([[0, 1, 2], [0, 3, 2]])
  every = np.array([False, True, True, True])
  assert depth_maps.nearest(depth, instances, every).tolist() == [[0, 1, 0], [0, 0, 0]]
  assert depth_maps.nearest(depth, instances, every, pixels=2).tolist() == [[0, 0, 1], [0, 0, 1]]
  assert not depth_maps.nearest(depth, instances, every, pixels=3).any()
  assert not depth_maps.nearest(depth, instances, np.zeros(4, bool)).any()


def test_a_map_without_three_pixels_is_refused():
  with pytest.raises(ValueError, match=r'at least 3 x 3 pixels, got shape \[2, 5\]'):
    depth_maps.normals(np.ones((2, 5)), 1.0, (0, 0))
