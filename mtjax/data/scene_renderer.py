"""Pictures of scenes by Bullet's software renderer: colours, depth, and what is seen at each pixel.

TinyRenderer of pybullet (https://pybullet.org) draws triangles into a z-buffer on the CPU; the meshes come with it.
Colours are rendered at twice the size and averaged over 2 x 2 pixels; depth and instances are those of one of the four,
since an average of two surfaces is neither. It samples pixel (r, c) of H x H at r - (H/2 - 1) below and c - H/2 right
of the camera's axis, hence `centre`. Shadows are off: it casts them onto the wrong walls.
"""
import importlib
import pathlib
import tempfile
from typing import Any, NamedTuple

import numpy as np

from mtjax.data import depth_maps
from mtjax.data.scenes import KINDS, PATTERNS, Object, Scene

FOVY, NEAR, FAR = 60.0, 0.1, 30.0
MESHES = {'duck': 'duck.obj', 'mug': 'objects/mug.obj', 'teddy': 'teddy2_VHACD_CHs.obj'}
NUM_RUBBLE = 100           # how many of Bullet's random meshes are used
Y_UP = ('duck', 'teddy')   # meshes whose y axis points up
_WALL, _HEIGHT = 0.5, 4.0  # half of the thickness of floor and walls, and of the walls' height


class Rendered(NamedTuple):
  """image uint8 [H, W, 3]; depth float64 [H, W]; instances int [H, W]: indices into `kinds`; kinds: of KINDS, [N]."""
  image: np.ndarray
  depth: np.ndarray
  instances: np.ndarray
  kinds: np.ndarray


def centre(size: int) -> tuple[float, float]:
  """(row, column) of the pixel on the camera's axis."""
  return size / 2 - 1, size / 2


class Renderer:
  """Renders scenes; a context, which ends Bullet's engine.

  Example:
    with Renderer() as render:
      picture = render(sample_scene(0, 3), size=64)

  Raises ImportError where pybullet is not installed.
  """

  def __init__(self):
    self._bullet, self._meshes = load_bullet()
    self._folder = tempfile.TemporaryDirectory(prefix='mtjax-patterns-')
    self._files = {name: _write_tga(pathlib.Path(self._folder.name) / f'{name}.tga', _draw(name)) for name in PATTERNS}
    self._points: dict[str, np.ndarray] = {}
    self._client = self._bullet.connect(self._bullet.DIRECT)

  def __enter__(self) -> 'Renderer':
    return self

  def __exit__(self, *error: Any) -> None:
    self._bullet.disconnect(self._client)
    self._folder.cleanup()

  def __call__(self, scene: Scene, size: int) -> Rendered:
    """The pictures of a scene, `size` x `size` pixels; `size` is even and >= 4."""
    if size < 4 or size % 2:
      raise ValueError(f'A scene was to be rendered at size={size}; allowed is an even number >= 4.')
    bullet, client = self._bullet, {'physicsClientId': self._client}
    bullet.resetSimulation(**client)
    left, right, front, back = scene.room
    middle = ((right - left) / 2, (back - front) / 2)
    half = ((right + left) / 2 + _WALL, (back + front) / 2 + _WALL)
    self._box((*half, _WALL), (*middle, -_WALL), scene.colours[0], scene.patterns[0])
    for x in (-left - _WALL, right + _WALL):
      self._box((_WALL, half[1], _HEIGHT), (x, middle[1], _HEIGHT), scene.colours[1], scene.patterns[1])
    for y in (-front - _WALL, back + _WALL):
      self._box((half[0], _WALL, _HEIGHT), (middle[0], y, _HEIGHT), scene.colours[1], scene.patterns[1])
    for thing in scene.objects:
      self._place(thing)
    view = bullet.computeViewMatrix(scene.eye, scene.target, (0, 0, 1))
    projection = bullet.computeProjectionMatrixFOV(FOVY, 1.0, NEAR, FAR)
    _, _, colours, z, bodies = bullet.getCameraImage(
      2 * size, 2 * size, view, projection, lightDirection=scene.light, lightColor=scene.tint, shadow=0,
      lightAmbientCoeff=scene.ambient, lightDiffuseCoeff=scene.diffuse, lightSpecularCoeff=scene.specular,
      renderer=bullet.ER_TINY_RENDERER, **client)
    image = np.reshape(colours, (size, 2, size, 2, 4))[..., :3].mean((1, 3))
    # of each 2 x 2 pixels the lower left one, which is where an image of half the size is sampled
    z, bodies = (np.reshape(x, (2 * size, 2 * size))[1::2, ::2] for x in (z, bodies))
    kinds = np.array([0, 1, *(KINDS.index(thing.kind) for thing in scene.objects)], np.uint8)
    instances = np.where(bodies < 5, np.minimum(bodies, 1), bodies - 3)      # the walls, bodies 1 … 4, are one
    return Rendered(np.rint(image).astype(np.uint8), depth_maps.depth_from_z(z, NEAR, FAR), instances, kinds)

  def _box(self, half, at, colour, pattern) -> None:
    shape = self._bullet.createVisualShape(self._bullet.GEOM_BOX, halfExtents=half, rgbaColor=(*colour, 1),
                                           physicsClientId=self._client)
    self._add(shape, at, (0, 0, 0, 1), pattern)

  def _place(self, thing: Object) -> None:
    """Puts a thing on the floor, whatever its tilt."""
    bullet, (a, b), s = self._bullet, thing.shape, thing.size
    colour = dict(rgbaColor=(*thing.colour, 1), physicsClientId=self._client)
    points, round_by = np.zeros((1, 3)), 0.0     # the shape lies within this distance of the points' hull
    if thing.kind == 'sphere':
      shape, round_by = bullet.createVisualShape(bullet.GEOM_SPHERE, radius=s, **colour), s
    elif thing.kind == 'box':
      half = s * np.array([1.0, 0.5 + 0.5 * a, 0.5 + 0.5 * b])
      shape, points = bullet.createVisualShape(bullet.GEOM_BOX, halfExtents=half, **colour), _corners(half)
    elif thing.kind == 'cylinder':
      radius = s * (0.4 + 0.3 * a)
      shape = bullet.createVisualShape(bullet.GEOM_CYLINDER, radius=radius, length=2 * s, **colour)
      turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
      rim = np.stack([radius * np.cos(turn), radius * np.sin(turn), np.full(64, s)], -1)
      points = np.concatenate([rim, rim * (1, 1, -1)])
    elif thing.kind == 'capsule':
      round_by = s * (0.35 + 0.15 * a)
      half = s - round_by
      shape = bullet.createVisualShape(bullet.GEOM_CAPSULE, radius=round_by, length=2 * half, **colour)
      points = np.array([[0, 0, half], [0, 0, -half]])
    elif thing.kind == 'table':
      shape, points = self._table(s, 0.6 + 0.4 * a, 0.5 + 0.3 * b, thing.colour)
    else:
      name = MESHES.get(thing.kind) or 'random_urdfs/{0:03d}/{0:03d}.obj'.format(int(a * NUM_RUBBLE))
      file = self._meshes / name
      if name not in self._points:
        self._points[name] = _vertices(file)
      points = self._points[name]
      low, high = points.min(0), points.max(0)
      scale = 2 * s / (high - low).max()
      shift = -scale * (low + high) / 2
      shape = bullet.createVisualShape(bullet.GEOM_MESH, fileName=str(file), meshScale=[scale] * 3,
                                       visualFramePosition=shift, **colour)
      points = scale * points + shift
    tilt = thing.tilt + (np.pi / 2 if thing.kind in Y_UP else 0)
    lowest = (points[:, 1] * np.sin(tilt) + points[:, 2] * np.cos(tilt)).min() - round_by
    self._add(shape, (thing.x, thing.y, -lowest), _quaternion(tilt, thing.yaw), thing.pattern)

  def _table(self, size, narrow, height, colour) -> tuple[int, np.ndarray]:
    """A board on four legs: (shape, its corners)."""
    bullet, leg, thick = self._bullet, 0.07 * size, 0.06 * size
    width, top = narrow * size, 2 * height * size
    halves = [(size, width, thick)] + [(leg, leg, top / 2 - thick)] * 4
    at = [(0, 0, top - thick)] + [(x * (size - leg), y * (width - leg), top / 2 - thick)
                                  for x in (-1, 1) for y in (-1, 1)]
    shape = bullet.createVisualShapeArray(
      [bullet.GEOM_BOX] * 5, halfExtents=halves, visualFramePositions=at, rgbaColors=[(*colour, 1)] * 5,
      physicsClientId=self._client)
    return shape, np.zeros((1, 3))

  def _add(self, shape: int, at, quaternion, pattern: str) -> None:
    bullet, client = self._bullet, {'physicsClientId': self._client}
    body = bullet.createMultiBody(0, -1, shape, at, quaternion, **client)
    texture = bullet.loadTexture(self._files[pattern], **client) if pattern else -1   # -1 takes a mesh's own away
    bullet.changeVisualShape(body, -1, textureUniqueId=texture, **client)


def load_bullet() -> tuple[Any, pathlib.Path]:
  """(pybullet, the folder of its meshes). Raises ImportError with the line that installs it."""
  try:
    bullet, data = (importlib.import_module(name) for name in ('pybullet', 'pybullet_data'))
  except ImportError as error:
    raise ImportError("Scenes are rendered by pybullet, which is not installed: pip install 'mtjax[render]'. "
                      "(96 of them come with mtjax: config='sample'.)") from error
  return bullet, pathlib.Path(data.getDataPath())


def _draw(pattern: str, size: int = 128) -> np.ndarray:
  """A pattern as shades of grey: uint8 [size, size]."""
  row, column = np.indices((size, size))
  light = {'checks': (row // 4 + column // 4) % 2, 'stripes': row // 4 % 2,
           'tiles': (row % 8 > 0) & (column % 8 > 0),
           'specks': np.random.RandomState(0).uniform(size=(size // 2, size // 2)).repeat(2, 0).repeat(2, 1)}[pattern]
  return np.rint(255 * (0.55 + 0.45 * light)).astype(np.uint8)


def _write_tga(path: pathlib.Path, grey: np.ndarray) -> str:
  """The simplest of the image formats that Bullet reads."""
  height, width = grey.shape
  header = bytes([0, 0, 3, *[0] * 9]) + np.array([width, height], '<u2').tobytes() + bytes([8, 0])
  path.write_bytes(header + grey.tobytes())
  return str(path)


def _vertices(path: pathlib.Path) -> np.ndarray:
  """The corners of a mesh in Wavefront's format: [N, 3]."""
  return np.array([line.split()[1:4] for line in path.read_text().splitlines() if line.startswith('v ')], float)


def _corners(half: np.ndarray) -> np.ndarray:
  return half * (np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1)


def _quaternion(tilt: float, yaw: float) -> tuple[float, float, float, float]:
  """About x, then about z: (x, y, z, w)."""
  return (np.sin(tilt / 2) * np.cos(yaw / 2), np.sin(tilt / 2) * np.sin(yaw / 2),
          np.cos(tilt / 2) * np.sin(yaw / 2), np.cos(tilt / 2) * np.cos(yaw / 2))
