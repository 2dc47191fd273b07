"""Maps as pictures: classes told apart, label and prediction on one scale, a report that shows both."""
import base64
import doctest
import struct
import zlib

import numpy as np

from mtjax.studies import maps, samples


def pixels(entry):
  """The inside of a picture of a sample: uint8 [H, W, C]."""
  png = base64.b64decode(entry['png'])
  width, height, _, color = struct.unpack('>IIBB', png[16:26])
  start = png.index(b'IDAT') + 4
  size = struct.unpack('>I', png[start - 8:start - 4])[0]
  return np.frombuffer(zlib.decompress(png[start:start + size]), np.uint8).reshape(height, -1)[:, 1:].reshape(
    height, width, {0: 1, 2: 3}[color])


def test_examples():
  assert doctest.testmod(maps, extraglobs={'np': np}).failed == 0


def test_classes_are_told_apart_and_ignored_ones_are_black():
  colours = maps.palette(40).astype(int)
  apart = abs(colours[:, None] - colours).sum(-1) + 1000 * np.eye(40, dtype=int)
  assert apart.min() > 10 and apart[:12, :12].min() > 40
  drawn = maps.draw(np.array([[0, 3], [-1, 3]]), 'softmax', (0, 1))
  np.testing.assert_array_equal(drawn, [[colours[0], colours[3]], [[0, 0, 0], colours[3]]])


def test_label_and_prediction_have_one_scale():
  entry = maps.sample(np.array([[1.0, 3.0]]), np.array([[2.0, 9.0]]), 'identity')
  assert pixels(entry['label']).ravel().tolist() == [0, 255] and pixels(entry['prediction']).ravel().tolist() == [128, 255]
  entry = maps.sample(np.array([[1, 1]]), np.array([[0.5, 0.0]]), 'sigmoid')
  assert pixels(entry['label']).ravel().tolist() == [255, 255] and pixels(entry['prediction']).ravel().tolist() == [128, 0]


def test_directions_are_colours():
  n = np.array([[[0, 0, 1.0], [-1, 0, 0]]])
  assert pixels(maps.sample(n, n, 'identity')['label']).tolist() == [[[128, 128, 255], [0, 128, 128]]]


def test_what_can_be_drawn():
  assert maps.is_map(np.zeros((4, 5))) and maps.is_map(np.zeros((4, 5, 3)))
  assert not any(maps.is_map(np.zeros(shape)) for shape in ((), (4,), (4, 5, 2), (4, 5, 3, 3)))


def test_a_report_shows_picture_prediction_and_label():
  entry = maps.sample(np.array([[0, 1]]), np.array([[1, 1]]), 'softmax')
  picture = maps.sample(np.zeros((2, 2)), np.ones((2, 2)), 'sigmoid')['label']
  (_, table) = samples.render({'task': {'rows': [{'input': picture, **entry}]}})
  assert str(table).count('<img') == 3 and entry['label']['png'] in str(table) and entry['prediction']['png'] in str(table)
