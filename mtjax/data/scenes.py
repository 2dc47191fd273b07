"""Random scenes: a room with objects on its floor, a camera, a light.

A scene is a function of (seed, index) alone, drawn by RandomState, whose streams numpy has frozen (NEP 19). Four to
eight objects of nine kinds stand or lie on the floor of a room of about 10 x 10 metres, apart from each other; the
camera is in the room and looks at its middle, so that something is seen at every pixel. Kinds differ in shape: colours
and patterns are drawn alike for all. Lengths are metres, z points up.
"""
import colorsys
import dataclasses

import numpy as np

KINDS = ('floor', 'wall', 'sphere', 'box', 'cylinder', 'capsule', 'table', 'duck', 'mug', 'teddy', 'rubble')
PATTERNS = ('checks', 'stripes', 'tiles', 'specks')


@dataclasses.dataclass(frozen=True)
class Object:
  """One thing on the floor.

  Attributes:
    kind: a name of KINDS.
    size: half of its longest side.
    shape: numbers in 0 … 1 that say more of its proportions, or which of the random meshes it is.
    x, y: where it is.
    tilt, yaw: radians; it is turned about the x axis, then about the z axis.
    colour: red, green, blue in 0 … 1.
    pattern: a name of PATTERNS, or '' for one colour.
  """
  kind: str
  size: float
  shape: tuple[float, float]
  x: float
  y: float
  tilt: float
  yaw: float
  colour: tuple[float, float, float]
  pattern: str


@dataclasses.dataclass(frozen=True)
class Scene:
  """What is to be rendered.

  Attributes:
    objects: the things in the room.
    room: distances of the four walls from the origin, at -x, +x, -y, +y.
    colours, patterns: of floor and walls, in this order.
    eye, target: where the camera is and looks.
    light: towards the light.
    ambient, diffuse, specular: its parts.
    tint: its colour.
  """
  objects: tuple[Object, ...]
  room: tuple[float, float, float, float]
  colours: tuple[tuple, tuple]
  patterns: tuple[str, str]
  eye: tuple[float, float, float]
  target: tuple[float, float, float]
  light: tuple[float, float, float]
  ambient: float
  diffuse: float
  specular: float
  tint: tuple[float, float, float]


def sample_scene(seed: int, index: int) -> Scene:
  """Scene `index` of the endless series `seed`.

  Four to eight objects, whose middles are further apart than 1.1 times the sum of their sizes; one that finds no place
  in thirty tries is left out.

  Example:
    >>> sample_scene(0, 3) == sample_scene(0, 3) != sample_scene(0, 4)
    True
  """
  rng = np.random.RandomState([seed, index])
  angle, radius, height = rng.uniform(0, 2 * np.pi), rng.uniform(2.2, 3.6), rng.uniform(0.7, 2.4)
  eye = (radius * np.cos(angle), radius * np.sin(angle), height)
  objects: list[Object] = []
  for _ in range(rng.randint(4, 9)):
    kind = KINDS[rng.randint(2, len(KINDS))]
    size = rng.uniform(0.5, 0.7) if kind == 'table' else rng.uniform(0.32, 0.58)
    draws = [(rng.uniform(0, 1.8), rng.uniform(0, 2 * np.pi)) for _ in range(30)]
    tilt, colour = _tilt(rng, kind), _colour(rng, (0.35, 1.0), (0.45, 1.0))
    shape, yaw, pattern = (rng.uniform(), rng.uniform()), rng.uniform(0, 2 * np.pi), _pattern(rng, 0.3)
    for distance, direction in draws:
      x, y = distance * np.cos(direction), distance * np.sin(direction)
      if np.hypot(x - eye[0], y - eye[1]) > size + 0.7 and all(
          np.hypot(x - other.x, y - other.y) > 1.1 * (size + other.size) for other in objects):
        objects.append(Object(kind, size, shape, x, y, tilt, yaw, colour, pattern))
        break
  light, elevation = rng.uniform(0, 2 * np.pi), rng.uniform(0.5, 1.4)
  diffuse = rng.uniform(0.35, 0.6)
  return Scene(
    objects=tuple(objects), room=tuple(rng.uniform(3.9, 6.0, 4)),
    colours=(_colour(rng, (0.0, 0.5), (0.4, 0.9)), _colour(rng, (0.0, 0.4), (0.5, 1.0))),
    patterns=(_pattern(rng, 0.7), _pattern(rng, 0.4)),
    eye=eye,
    target=(*rng.uniform(-0.5, 0.5, 2), rng.uniform(0.2, 0.8)),
    light=(np.cos(light) * np.cos(elevation), np.sin(light) * np.cos(elevation), np.sin(elevation)),
    ambient=rng.uniform(0.95, 1.1) - diffuse, diffuse=diffuse, specular=rng.uniform(0, 0.3),
    tint=tuple(rng.uniform(0.85, 1.0, 3)))


def _tilt(rng: np.random.RandomState, kind: str) -> float:
  draws = rng.uniform(size=2)
  if kind == 'rubble':
    return np.pi * draws[0]
  lies = kind in ('cylinder', 'capsule') and draws[0] < 0.5 or kind == 'mug' and draws[0] < 0.25
  return np.pi / 2 if lies else 0.0


def _colour(rng: np.random.RandomState, saturation: tuple, value: tuple) -> tuple[float, float, float]:
  return colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value))


def _pattern(rng: np.random.RandomState, share: float) -> str:
  draws = rng.uniform(size=2)
  return PATTERNS[int(draws[1] * len(PATTERNS))] if draws[0] < share else ''
