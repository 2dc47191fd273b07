"""EfficientNet-Lite: the published sizes, blocks by hand, folded batch norm, and weights under their published names."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders, tree
from mtjax.data import fetch
from mtjax.encoders import efficientnet_lite as lite


def shapes_of(model, side=32):
  return jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, side, side, 3), np.uint8))['params']


@pytest.mark.parametrize('variant, millions', [('lite0', 4.652), ('lite1', 5.416), ('lite2', 6.092), ('lite3', 8.197),
                                               ('lite4', 13.007)])
def test_sizes_are_the_published_ones(variant, millions):
  # 4.7, 5.4, 6.1, 8.2 and 13.0 million in the paper's table; stored statistics are folded in two numbers a channel.
  shapes = shapes_of(encoders.EfficientNetLite(variant, classes=1000))
  assert abs(sum(x.size for x in jax.tree.leaves(shapes)) / 1e6 - millions) < 1e-3


def test_maps_are_the_last_at_each_stride():
  model = encoders.EfficientNetLite(remat=True)
  features = jax.eval_shape(lambda key, x: model.init_with_output(key, x)[0], jax.random.key(0),
                            np.zeros((2, 70, 64, 3), np.uint8))
  assert [m.shape[1:] for m in features.maps] == [(35, 32, 16), (18, 16, 24), (9, 8, 40), (5, 4, 112), (3, 2, 320)]
  assert features.pooled.shape == (2, 1280) and not features.aux
  assert 'fc' not in shapes_of(model)


def test_a_block_by_hand():
  # One position, one channel in and out, twice as many inside; the depthwise kernel's middle is all that counts there.
  block = lite.Block(channels=1, kernel=3, stride=1, expansion=2, dtype=np.float32)
  depthwise = np.zeros((3, 3, 1, 2), np.float32)
  depthwise[1, 1, 0] = [2, 5]
  params = {'expand': {'kernel': np.array([[[[1.0, -1.0]]]], np.float32)},
            'expand_norm': {'scale': np.array([2.0, 1.0]), 'bias': np.array([0.0, 4.0])},
            'depthwise': {'kernel': depthwise}, 'depthwise_norm': {'scale': np.ones(2), 'bias': np.array([1.0, 0.0])},
            'project': {'kernel': np.array([1.0, 10.0], np.float32).reshape(1, 1, 2, 1)},
            'project_norm': {'scale': np.array([0.5]), 'bias': np.array([0.25])}}
  # x = 1 -> expand [1, -1] -> norm [2, 3] -> depthwise [4, 15] -> norm [5, 15] -> relu6 [5, 6] -> 65 -> 32.75, and + 1.
  y = block.apply({'params': params}, np.ones((1, 1, 1, 1), np.float32))
  np.testing.assert_allclose(y.ravel(), [33.75])


def test_pixels_are_centred_and_floats_taken_as_they_are():
  np.testing.assert_array_equal(lite.as_pixels(np.array([127, 255, 63], np.uint8)), [0, 1, -0.5])
  assert lite.as_pixels(jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16
  with pytest.raises(TypeError, match='dtype int32; allowed are uint8'):
    lite.as_pixels(np.zeros(2, np.int32))


@pytest.fixture(scope='module')
def weights():
  """Random arrays under the published names, in the published order of axes."""
  order = {'expand': 0, 'depthwise': 1, 'project': 2}
  rng, weights = np.random.default_rng(0), {}
  flat = tree.flatten(shapes_of(encoders.EfficientNetLite(classes=5)))
  blocks = sorted({path.rsplit('/', 2)[0] for path in flat if '/block_' in path})      # single digits: reading order
  layers = [('_conv_stem', '_bn0', 'stem'), ('_conv_head', '_bn1', 'head')]
  for number, block in enumerate(blocks):
    layers += [(f'_blocks.{number}._{name}_conv', f'_blocks.{number}._bn{k}', f'{block}/{name}')
               for name, k in order.items() if f'{block}/{name}/kernel' in flat]
  for conv, norm, path in layers:
    height, width, inputs, outputs = flat[f'{path}/kernel'].shape
    weights[f'{conv}.weight'] = rng.normal(size=(outputs, inputs, height, width))
    weights |= {f'{norm}.{name}': rng.uniform(0.5, 1.5, outputs) for name in ('weight', 'bias', 'running_mean', 'running_var')}
    weights[f'{norm}.num_batches_tracked'] = np.array(7)
  weights |= {'_fc.weight': rng.normal(size=(5, 1280)), '_fc.bias': rng.normal(size=5)}
  return {name: np.asarray(value, np.float32) for name, value in weights.items()}


def test_published_names_find_their_places(weights, tmp_path):
  np.savez(tmp_path / 'weights.npz', **weights)
  module, params = lite.load(tmp_path / 'weights.npz')
  assert module.classes == 5
  assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes_of(module))
  kernel = params['stage_1']['block_0']['depthwise']['kernel']              # the second block, after the first's one
  np.testing.assert_array_equal(kernel[1, 2, 0, 3], weights['_blocks.1._depthwise_conv.weight'][3, 0, 1, 2])
  x, w = 0.7, {name: weights[f'_bn1.{name}'][9] for name in ('weight', 'bias', 'running_mean', 'running_var')}
  expected = w['weight'] * (x - w['running_mean']) / np.sqrt(w['running_var'] + 1e-3) + w['bias']
  folded = params['head_norm']
  np.testing.assert_allclose(folded['scale'][9] * x + folded['bias'][9], expected, rtol=1e-5)
  bare, params = lite.load(tmp_path / 'weights.npz', classes=None)
  assert bare.classes is None and 'fc' not in params
  _, again = lite.load(tmp_path, classes=None)                               # of a folder, the file of that name
  jax.tree.map(np.testing.assert_array_equal, again, params)
  with pytest.raises(ValueError, match='have 5 classes, got classes=4'):
    lite.load(tmp_path / 'weights.npz', classes=4)


def test_missing_and_needless_arrays_are_listed_at_once(weights):
  given = {name: value for name, value in weights.items() if name not in ('_fc.bias', '_bn0.weight')}
  with pytest.raises(ValueError, match=r'Missing: _bn0.weight, _fc.bias. Without a use: extra\.'):
    lite.convert(given | {'extra': np.zeros(1)})


def test_errors_name_field_value_and_what_is_allowed():
  with pytest.raises(ValueError, match="variant='lite5'; allowed are 'lite0', "):
    encoders.EfficientNetLite('lite5')
  with pytest.raises(ValueError, match='classes=0'):
    encoders.EfficientNetLite(classes=0)


@pytest.mark.slow
def test_a_cat_is_a_cat():
  data = pytest.importorskip('skimage.data', reason='the photo comes with scikit-image')
  image = pytest.importorskip('PIL.Image')
  try:
    path = fetch.require('efficientnet_lite0') / 'weights.npz'
  except FileNotFoundError as error:
    pytest.skip(str(error))
  module, params = lite.load(path)
  photo = data.chelsea()
  top, left = ((side - 300) // 2 for side in photo.shape[:2])
  photo = np.array(image.fromarray(photo[top:top + 300, left:left + 300]).resize((224, 224), image.Resampling.BICUBIC))
  logits = jax.jit(module.apply)({'params': params}, photo[None]).aux['logits'][0]
  assert 281 <= int(logits.argmax()) <= 285      # the five kinds of domestic cats of ImageNet
