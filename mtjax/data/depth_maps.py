"""What follows from a depth map and a map of instances: normals, borders, the nearest thing. Numpy, [..., H, W].

A camera looks along -z, x to the right, y up, so the pixel in row r, column c at depth d shows the point

    P = d (x, y, -1),    x = (c - c_0) / f,   y = -(r - r_0) / f,    f = H / (2 tan(fovy / 2))   pixels

f: `focal`; (r_0, c_0): `centre`, where the axis of the camera meets the image. Depth is measured along that axis, not
along the ray. On a plane n . P = -k, 1 / d is linear in r and c: 1 / d = (-n_x x - n_y y + n_z) / k. So

    n  ~  (-f a_c, f a_r, 1 / d - (c - c_0) a_c - (r - r_0) a_r),    a_r, a_c = slopes of 1 / d by row and by column

is exact on planes, whatever their slant. (The cross product of differences of P, which is usual, gives the same on a
plane.) Each slope is that of the parabola through three pixels in a row, those that lie closest to a line of the three
such triples that hold the pixel: so it does not reach across an edge. Where none is near a line, depth jumps, and there
is no normal.
"""
import math

import numpy as np


def focal_length(height: int, fovy: float) -> float:
  """f in pixels of an image `height` pixels high that sees `fovy` degrees from its lower to its upper border.

  Example:
    >>> round(focal_length(64, 90.0), 3)
    32.0
  """
  return height / (2 * math.tan(math.radians(fovy) / 2))


def depth_from_z(z: np.ndarray, near: float, far: float) -> np.ndarray:
  """Depth from a z-buffer in [0, 1], as OpenGL's perspective projection fills it: z = 0 is `near`, z = 1 is `far`.

  Example:
    >>> print(depth_from_z(np.array([0.0, 0.5, 1.0]), near=1.0, far=3.0))     # 3 / (3 - 2 z)
    [1.  1.5 3. ]
  """
  return far * near / (far - (far - near) * np.asarray(z, np.float64))


def normals(depth: np.ndarray, focal: float, centre: tuple[float, float], bend: float = 0.03) -> np.ndarray:
  """Surface normals that face the camera.

  Args:
    depth: [..., H, W] > 0, H and W >= 3.
    focal: f.
    centre: (r_0, c_0), in pixels from the middle of the first pixel.
    bend: how far from a line the three values of 1 / d may be for a normal to be there: their second difference as a
      share of the value at the pixel.

  Returns:
    [..., H, W, 3] float32 of length 1, or 0 where there is no normal.

  Example:
    >>> normals(np.full((3, 3), 2.0), focal=1.0, centre=(1, 1))[0, 0] == [0, 0, 1]     # a wall in front of the camera
    array([ True,  True,  True])
  """
  depth = np.asarray(depth, np.float64)
  if depth.ndim < 2 or min(depth.shape[-2:]) < 3:
    raise ValueError(f'Normals need a depth map [..., H, W] of at least 3 x 3 pixels, got shape {list(depth.shape)}.')
  inverse = 1 / depth
  by_row, bend_row = _slope(np.moveaxis(inverse, -2, -1))
  by_column, bend_column = _slope(inverse)
  by_row, bend_row = np.moveaxis(by_row, -1, -2), np.moveaxis(bend_row, -1, -2)
  row, column = (np.arange(size) - middle for size, middle in zip(depth.shape[-2:], centre))
  n = np.stack([-focal * by_column, focal * by_row, inverse - column * by_column - row[:, None] * by_row], axis=-1)
  n /= np.linalg.norm(n, axis=-1, keepdims=True)
  smooth = np.maximum(bend_row, bend_column) <= bend * inverse
  return np.where(smooth[..., None], n, 0).astype(np.float32)


def borders(instances: np.ndarray) -> np.ndarray:
  """1 where the pixel to the right or below is of another instance: lines one pixel wide.  [..., H, W] -> uint8.

  Example:
    >>> print(borders(np.array([[0, 0, 1], [0, 0, 1], [2, 2, 2]])))
    [[0 1 0]
     [1 1 1]
     [0 0 0]]
  """
  edge = np.zeros(instances.shape, bool)
  edge[..., :, :-1] |= instances[..., :, :-1] != instances[..., :, 1:]
  edge[..., :-1, :] |= instances[..., :-1, :] != instances[..., 1:, :]
  return edge.astype(np.uint8)


def nearest(depth: np.ndarray, instances: np.ndarray, is_thing: np.ndarray, pixels: int = 1) -> np.ndarray:
  """1 on the thing whose nearest visible point is nearest to the camera; all 0 where there is none.

  Args:
    depth: [H, W].
    instances: int [H, W], 0 … N - 1.
    is_thing: bool [N], which instances count (a floor does not).
    pixels: how many of a thing's pixels must be seen for it to count.

  Returns:
    uint8 [H, W].

  Example:
    >>> depth, instances = np.array([[1.0, 3, 2, 2]]), np.array([[0, 1, 2, 2]])      # 0 is the floor
    >>> print(nearest(depth, instances, np.array([False, True, True])))
    [[0 0 1 1]]
  """
  found, first, count = np.unique(instances, return_inverse=True, return_counts=True)
  closest = np.full(len(found), np.inf)
  np.minimum.at(closest, first.ravel(), depth.ravel())
  closest = np.where(is_thing[found] & (count >= pixels), closest, np.inf)
  best = closest.argmin()
  return (instances == found[best]).astype(np.uint8) * np.uint8(np.isfinite(closest[best]))


def _slope(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """(slope of x along its last axis, how far the three values that it was taken from are off a line)."""
  step, curve = np.diff(x), np.diff(x, n=2)
  slopes, bends = [], []
  # of the three pixels, the one in question is the first, the middle or the last
  for place, slope in enumerate((step[..., :-1] - curve / 2, step[..., :-1] + curve / 2, step[..., 1:] + curve / 2)):
    padding = [(0, 0)] * (x.ndim - 1) + [(place, 2 - place)]
    slopes.append(np.pad(slope, padding))
    bends.append(np.pad(np.abs(curve), padding, constant_values=np.inf))
  best = np.argmin(bends, axis=0)[None]
  return tuple(np.take_along_axis(np.stack(choices), best, axis=0)[0] for choices in (slopes, bends))
