"""A data set of noise, for timing: images or token sequences of a given size. In configs: NAME, with a config of it."""
import dataclasses

import numpy as np
import tensorflow_datasets as tfds

NAME = 'experiments.benchmarks.noise:Noise'
CLASSES = 10


@dataclasses.dataclass(eq=False, kw_only=True)
class NoiseConfig(tfds.core.BuilderConfig):
  """One size.

  Attributes:
    inputs: the column, 'image' or 'tokens'.
    shape: of a row of it.
    values: it holds 0 … values - 1.
    rows: of the training split; the others have an eighth.
  """

  inputs: str
  shape: tuple[int, ...]
  values: int
  rows: int


def _images(side: int, rows: int) -> NoiseConfig:
  return NoiseConfig(name=f'images_{side}', inputs='image', shape=(side, side, 3), values=256, rows=rows)


def _tokens(length: int, values: int, rows: int) -> NoiseConfig:
  return NoiseConfig(name=f'tokens_{length}', inputs='tokens', shape=(length,), values=values, rows=rows)


class Noise(tfds.core.GeneratorBasedBuilder):
  """image [side, side, 3] uint8 or tokens [length] int32, and a class."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [_images(32, 1024), _images(224, 256), _tokens(128, 512, 1024), _tokens(2048, 50257, 512)]

  def _info(self):
    own = self.builder_config
    dtype = np.uint8 if own.inputs == 'image' else np.int32
    return tfds.core.DatasetInfo(builder=self, disable_shuffling=True, features=tfds.features.FeaturesDict({
      own.inputs: tfds.features.Tensor(shape=own.shape, dtype=dtype),
      'class': tfds.features.ClassLabel(num_classes=CLASSES),
    }))

  def _split_generators(self, dl_manager):
    del dl_manager
    rows = self.builder_config.rows
    return {split: self._generate_examples(seed, number)
            for seed, (split, number) in enumerate([('train', rows), ('validation', rows // 8), ('test', rows // 8)])}

  def _generate_examples(self, seed, number):
    own, rng = self.builder_config, np.random.default_rng(seed)
    dtype = np.uint8 if own.inputs == 'image' else np.int32
    for i in range(number):
      yield i, {own.inputs: rng.integers(own.values, size=own.shape).astype(dtype), 'class': int(rng.integers(CLASSES))}
