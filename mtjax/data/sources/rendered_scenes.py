"""Rendered rooms: five dense labels of one picture, in the manner of NYUv2, without a download."""
import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import tensorflow_datasets as tfds
import tqdm

from mtjax.data import depth_maps, paths, scene_renderer, scenes
from mtjax.data.sources import base

SEED = 0
COUNTS = {'full': {'train': 4000, 'validation': 500, 'test': 500},
          'sample': {'train': 64, 'validation': 16, 'test': 16}}
SIZES = {'full': 64, 'sample': 32}
SAMPLE_START = 5000        # the sample's scenes come after those of the full set
ASSET = 'rendered_scenes.npz'


def label(rendered: scene_renderer.Rendered) -> dict[str, np.ndarray]:
  """A row: the picture and the five labels of one scene."""
  size, depth = len(rendered.depth), rendered.depth
  focal = depth_maps.focal_length(size, scene_renderer.FOVY)
  normals = depth_maps.normals(depth, focal, scene_renderer.centre(size))
  salient = depth_maps.nearest(depth, rendered.instances, rendered.kinds > 1, pixels=size**2 // 300)
  return {'image': rendered.image, 'segmentation': rendered.kinds[rendered.instances],
          'depth': depth.astype(np.float16), 'normals': (np.rint(127 * normals) / 127).astype(np.float16),
          'edges': depth_maps.borders(rendered.instances), 'saliency': salient}


def render(indices: Iterable[int], size: int) -> Iterator[dict[str, np.ndarray]]:
  """The rows of these scenes, one after the other. Raises ImportError without pybullet."""
  with scene_renderer.Renderer() as renderer:
    for index in indices:
      yield label(renderer(scenes.sample_scene(SEED, index), size))


def sample() -> dict[str, np.ndarray]:
  """The 96 shipped rows, [96, 32, 32, …]."""
  with np.load(paths.ASSETS / ASSET, allow_pickle=False) as file:
    columns = dict(file)
  return columns | {'normals': (columns['normals'] / np.float32(127)).astype(np.float16)}


class RenderedScenes(base.Source):
  """Pictures of rooms with four to eight objects, and what is seen at each pixel. Two configurations: `full`, 5,000
  scenes of 64 x 64 pixels, rendered on this machine (extra `render`) in one to three minutes; `sample`, 96 other scenes
  of 32 x 32, shipped.

  image: uint8 [H, W, 3].
  segmentation: uint8 [H, W], floor, wall and nine kinds of objects (`mtjax.data.scenes.KINDS`).
  depth: float16 [H, W], metres along the camera's axis, 0.5 to 12; float16 is exact to 1 part in 2,000.
  normals: float16 [H, W, 3], of length 1 (in steps of 1/127), x right, y up, z towards the camera; 0 where depth jumps.
  edges: uint8 [H, W], 1 where the pixel to the right or below shows another object, or floor in place of wall.
  saliency: uint8 [H, W], 1 on the object nearest to the camera (of those with at least 1/300 of the pixels).
  index: of the scene; rendered again it is the same.
  Splits: 4,000 / 500 / 500, and 64 / 16 / 16; no scene is in two.
  """
  name = 'mt_rendered_scenes'
  INPUTS = 'image'
  CITATION = 'Rendered by mtjax with TinyRenderer of Bullet: Coumans & Bai, PyBullet, 2016-2021, https://pybullet.org.'
  LICENCE = 'Apache-2.0, as mtjax (pictures); zlib (Bullet, with which the meshes come)'
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in COUNTS]

  def columns(self):
    size = SIZES[self.builder_config.name]
    packed = lambda dtype, *tail: tfds.features.Tensor(shape=(size, size, *tail), dtype=dtype, encoding='zlib')
    return {'image': packed(np.uint8, 3), 'segmentation': packed(np.uint8), 'depth': packed(np.float16),
            'normals': packed(np.float16, 3), 'edges': packed(np.uint8), 'saliency': packed(np.uint8),
            'index': np.int32}

  def rows(self):
    config = self.builder_config.name
    total, ends = sum(COUNTS[config].values()), np.cumsum(list(COUNTS[config].values()))
    if config == 'sample':
      table = {**sample(), 'index': np.arange(SAMPLE_START, SAMPLE_START + total, dtype=np.int32)}
    else:
      rows = list(tqdm.tqdm(render(range(total), SIZES[config]), 'rendering', total, disable=None))
      table = {name: [row[name] for row in rows] for name in rows[0]} | {'index': np.arange(total, dtype=np.int32)}
    # scenes are drawn independently, so any cut is a random one
    return table, {split: np.arange(*cut) for split, cut in zip(COUNTS[config], itertools.pairwise([0, *ends]))}
