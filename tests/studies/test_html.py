"""The parts of a page escape what they are given, and pictures survive the round trip."""
import base64
import io
import math

import numpy as np
import pytest

from mtjax.studies import html


def test_text_is_escaped_and_safe_text_is_not():
  assert html.tag('p', '<b>&', html.tag('i', 'x')) == '<p>&lt;b&gt;&amp;<i>x</i></p>'
  assert html.tag('a', 'x', href='"><script>') == '<a href="&quot;&gt;&lt;script&gt;">x</a>'
  assert html.name('a_<b>') == 'a_<wbr>&lt;b&gt;'


def test_attributes_and_children():
  assert html.tag('p', None, ['a', ['b', 1]], class_='x', aria_label='y', hidden=True, id=None) == (
    '<p class="x" aria-label="y" hidden>ab1</p>')
  assert html.tag('img', alt='') == '<img alt="">'


@pytest.mark.parametrize('value, text', [
  (30000, '30,000'), (0.87654321, '0.8765'), (1.0, '1.0000'), (123.456, '123.46'), (1234567.8, '1,234,568'),
  (0.0012345, '0.00123'), (1.234e-5, '1.23e-05'), (-0.5, '−0.5000'), (0.0, '0.0000'),
  (math.nan, '–'), (None, '–'), (math.inf, '∞'),
])
def test_numbers_for_reading(value, text):
  assert html.number(value) == text


def test_tree_shows_every_leaf_and_a_preview():
  page = html.tree({'seed': 0, 'encoder': {'name': 'vit', 'mlp': {'act': '<gelu>'}}, 'ema': None, 'empty': {}})
  for part in ('<b>seed</b> <code>0</code>', '&#x27;vit&#x27;', '&lt;gelu&gt;', '<code>None</code>', '<code>{}</code>',
               'name: &#x27;vit&#x27;, mlp: …'):
    assert part in page
  assert page.count('<details>') == 2


@pytest.mark.parametrize('shape', [(5, 3), (5, 3, 1), (5, 3, 3), (5, 3, 4), (1, 1)])
def test_encoded_image_comes_back(shape):
  image_module = pytest.importorskip('PIL.Image')
  array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
  decoded = np.asarray(image_module.open(io.BytesIO(base64.b64decode(html.encode_image(array)))))
  np.testing.assert_array_equal(decoded, array.squeeze(-1) if shape[-1] == 1 and len(shape) == 3 else array)


@pytest.mark.parametrize('array', [np.zeros((2, 2)), np.zeros((2, 2, 2), np.uint8), np.zeros((0, 2), np.uint8)])
def test_what_is_no_image_is_refused(array):
  with pytest.raises(ValueError, match='encode_image takes uint8'):
    html.encode_image(array)


def test_only_small_pictures_keep_hard_pixels():
  small, large = (html.image(html.encode_image(np.zeros((8, width), np.uint8)), 'x') for width in (64, 65))
  assert 'class="pixels"' in small and 'class' not in large
  assert 'class' not in html.image('damaged', 'x')
