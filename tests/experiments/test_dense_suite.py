"""The scripts beside the dense config: trivial guesses by hand; a picture of labels and predictions."""
import jax
import numpy as np
import pytest

from experiments.dense import rendered, show, trivial
from mtjax import experiment
from mtjax.data import fetch


def rows(count=3, size=2):
  """All maps [count, size, size] alike but for the pixels set below."""
  shape = (count, size, size)
  up = np.zeros((*shape, 3), np.float16)
  up[..., 1] = 1
  return {'image': np.zeros((*shape, 3), np.uint8), 'segmentation': np.full(shape, 3, np.uint8),
          'depth': np.full(shape, 2, np.float16), 'normals': up, 'edges': np.zeros(shape, np.uint8),
          'saliency': np.zeros(shape, np.uint8)}


def test_trivial_guesses_by_hand():
  train = rows()
  train['segmentation'][:2, 0, 0] = 5           # in two of three pictures
  train['depth'][:, 0, 0] = [4, 6, 9]
  train['normals'][:2, 0, 0] = [0, 0, 1]
  train['edges'][:2, 0, 0] = 1
  train['saliency'][:, 0, 0] = [1, 0, 1]
  everywhere, by_pixel = trivial.guesses(train, False), trivial.guesses(train, True)
  assert all(guess.shape[:2] == (2, 2) for guess in (*everywhere.values(), *by_pixel.values()))
  assert (everywhere['segmentation'].argmax(-1) == 3).all() and (everywhere['depth'] == 2).all()
  # of twelve normals ten point up and two to the front
  np.testing.assert_allclose(everywhere['normals'][1, 1], [0, 10 / 12, 2 / 12], rtol=1e-6)
  assert (everywhere['edges'] > 0).all() and (everywhere['saliency'] < 0).all()
  assert by_pixel['segmentation'].argmax(-1).tolist() == [[5, 3], [3, 3]]
  assert by_pixel['depth'].tolist() == [[6, 2], [2, 2]]
  np.testing.assert_allclose(by_pixel['normals'][0, 0], [0, 1 / 3, 2 / 3], rtol=1e-6)
  for task in ('edges', 'saliency'):            # log odds of two in three
    np.testing.assert_allclose(by_pixel[task][0, 0], np.log(2), rtol=1e-5)
    assert (by_pixel[task].ravel()[1:] < -10).all()


def test_labels_and_predictions_are_drawn(tmp_path):
  pytest.importorskip('matplotlib')
  given = rows(count=2, size=8)
  outputs = {task: {'prediction': given[task], 'probabilities': given[task]} for task in show.TASKS}
  show.draw(given, outputs, str(tmp_path / 'dense.png'))
  assert (tmp_path / 'dense.png').read_bytes().startswith(b'\x89PNG')
  assert show.panel('normals', given['normals'][0], 1.0)['X'].max() <= 1
  assert show.panel('segmentation', given['segmentation'][0], 1.0)['vmax'] == rendered.KINDS


def test_an_unknown_encoder_names_the_nearest():
  with pytest.raises(ValueError, match="Unknown encoder 'swim'. Did you mean 'swin'?"):
    rendered.get_config('encoder=swim')


@pytest.mark.slow
@pytest.mark.parametrize('encoder', rendered.ENCODERS)
def test_every_encoder_fits_the_heads(encoder):
  config = rendered.get_config(f'smoke,encoder={encoder}')
  if 'directory' in config.encoder:
    try:
      fetch.require(config.encoder.directory.partition(':')[2])
    except FileNotFoundError as error:
      pytest.skip(str(error))
  outputs = jax.eval_shape(experiment.build(config).init).params['heads']      # shapes are enough: nothing is compiled
  assert set(outputs) == set(show.TASKS)
