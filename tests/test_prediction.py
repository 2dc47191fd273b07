"""What a report shows of a prediction: words for one value, pictures for maps."""
import numpy as np

from mtjax import prediction


def test_maps_are_drawn_and_single_values_are_named():
  probabilities = np.full((1, 4, 4, 3), 1 / 3)
  classes = {'prediction': np.ones((1, 4, 4), int), 'probabilities': probabilities}
  for kind, output, label in (
      ('softmax', classes, np.zeros((4, 4), np.uint8)),
      ('sigmoid', {'prediction': np.ones((1, 4, 4), int), 'probabilities': np.full((1, 4, 4), 0.5)}, np.eye(4)),
      ('identity', {'prediction': np.ones((1, 4, 4, 3))}, np.zeros((4, 4, 3), np.float16)),
      ('identity', {'prediction': np.ones((1, 4, 4))}, np.ones((4, 4), np.float16))):
    shown = prediction._compare(kind, output, 0, label, None)
    assert shown['label']['type'] == shown['prediction']['type'] == 'image' and shown['correct'] is None
  one = {'prediction': np.array([1]), 'probabilities': np.array([[0.25, 0.75]])}
  assert prediction._compare('softmax', one, 0, np.int64(1), ['no', 'yes']) == {
    'label': 'yes', 'prediction': 'yes', 'detail': 'p = 0.75', 'correct': True}
  pair = {'prediction': np.array([[0.5, 1.5]])}
  assert prediction._compare('identity', pair, 0, np.array([1.0, 2.0]), None)['prediction'] == '0.5, 1.5'
