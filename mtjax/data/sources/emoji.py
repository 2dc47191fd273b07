"""Emoji of two vendors (fetched): small colour pictures with four kinds of label."""
import json

import numpy as np
import tensorflow_datasets as tfds

from mtjax.data import fetch
from mtjax.data.sources import base

VENDORS = ('google', 'twitter')
CATEGORIES = ('Activities', 'Animals & Nature', 'Component', 'Flags', 'Food & Drink', 'Objects', 'People & Body',
              'Smileys & Emotion', 'Symbols', 'Travel & Places')
TONES = {'1F3FB': 'light', '1F3FC': 'medium_light', '1F3FD': 'medium', '1F3FE': 'medium_dark', '1F3FF': 'dark'}
SKINS = ('none', *TONES.values(), 'mixed')
NUM_SUBCATEGORIES = 99


def skin(code: str) -> str:
  """The class of a variation such as '1F3FB' or '1F3FB-1F3FD' (two people)."""
  tones = {TONES[tone] for tone in code.split('-')} if code else {'none'}
  return tones.pop() if len(tones) == 1 else 'mixed'


def picture(path) -> np.ndarray:
  """A 64x64 picture on white, each 2x2 square averaged: uint8 [32, 32, 3]."""
  try:
    import PIL.Image
  except ImportError as error:
    raise ImportError("The emoji pictures are PNGs, read by Pillow: pip install 'mtjax[image]'.") from error
  with PIL.Image.open(path) as file:
    rgba = np.asarray(file.convert('RGBA').resize((64, 64)), np.float32)
  alpha = rgba[..., 3:] / 255
  white = rgba[..., :3] * alpha + 255 * (1 - alpha)
  return np.rint(white.reshape(32, 2, 32, 2, 3).mean((1, 3))).astype(np.uint8)


class Emoji(base.Source):
  """7,572 emoji drawn by Google (Noto) and Twitter (Twemoji): image uint8 [32, 32, 3] on white.

  Labels: `category` (10), `subcategory` (99, in alphabetical order), `skin` (none, five tones, mixed), `vendor`; and
  `name`, text.
  Splits: 80 / 10 / 10 % of the 1,911 emoji; all tones and both drawings of one emoji share a split.
  """
  name = 'mt_emoji'
  INPUTS = 'image'
  CITATION = 'emoji-datasource 16.0.0 (npm), Noto Emoji, Twemoji; categories of the Unicode consortium.'
  LICENCE = 'Apache-2.0 (Noto), CC-BY-4.0 (Twemoji), MIT (names)'

  def columns(self):
    return {'image': base.image(32, 32, 3), 'category': tfds.features.ClassLabel(names=CATEGORIES),
            'subcategory': tfds.features.ClassLabel(num_classes=NUM_SUBCATEGORIES),
            'skin': tfds.features.ClassLabel(names=SKINS), 'vendor': tfds.features.ClassLabel(names=VENDORS),
            'name': tfds.features.Text()}

  def rows(self):
    folder = fetch.require('emoji')
    emoji = json.loads((folder / 'emoji.json').read_text(encoding='utf-8'))
    subcategories = sorted({entry['subcategory'] for entry in emoji})
    found = []
    for entry in emoji:
      for code, variation in (('', entry), *entry.get('skin_variations', {}).items()):
        found += [(entry, code, vendor, folder / 'img' / vendor / '64' / variation['image'])
                  for vendor in VENDORS if variation[f'has_img_{vendor}']]
    entries, codes, vendors, files = zip(*found)
    table = {'image': np.stack([picture(path) for path in files]),
             'category': [entry['category'] for entry in entries],
             'subcategory': [subcategories.index(entry['subcategory']) for entry in entries],
             'skin': [skin(code) for code in codes], 'vendor': vendors,
             'name': [entry['name'] or entry['short_name'] for entry in entries]}
    return table, base.frozen_splits([entry['unified'] for entry in entries],
                                     {'train': 0.8, 'validation': 0.1, 'test': 0.1})
