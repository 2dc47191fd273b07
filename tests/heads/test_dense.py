"""Heads of maps: outputs, sizes, labels, and the pyramid before them."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import experiment, heads, losses, tree
from mtjax.context import Features
from mtjax.heads import dense

RNG = np.random.default_rng(0)
MAPS = [RNG.normal(size=(2, *shape)).astype(np.float32) for shape in ((4, 6, 3), (2, 3, 5))]
FEATURES = Features(maps=MAPS)


def draw(head, features=FEATURES):
  shapes = jax.eval_shape(head.init, jax.random.key(0), features)['params']
  return jax.tree.map(lambda x: RNG.normal(size=x.shape).astype(x.dtype), shapes)


# name: (head, shape of the outputs, kind, parameter shapes)
CASES = {
  'segmentation': (heads.Segmentation(classes=7, stride=2), (2, 8, 12, 7), 'softmax',
                   {'out/kernel': (1, 1, 3, 7), 'out/bias': (7,)}),
  'depth': (heads.Depth(size=[5, 9], hidden=[4]), (2, 5, 9), 'identity',
            {'conv1/kernel': (3, 3, 3, 4), 'conv1/bias': (4,), 'out/kernel': (1, 1, 4, 1), 'out/bias': (1,)}),
  'normals': (heads.Normals(level=-1), (2, 2, 3, 3), 'identity', {'out/kernel': (1, 1, 5, 3), 'out/bias': (3,)}),
  'edges': (heads.Edges(hidden=(2,), kernel=1), (2, 4, 6), 'sigmoid',
            {'conv1/kernel': (1, 1, 3, 2), 'conv1/bias': (2,), 'out/kernel': (1, 1, 2, 1), 'out/bias': (1,)}),
  'saliency': (heads.Saliency(), (2, 4, 6), 'sigmoid', {'out/kernel': (1, 1, 3, 1), 'out/bias': (1,)}),
  'multi_scale': (heads.MultiScale(heads.Segmentation(classes=7), width=4), (2, 4, 6, 7), 'softmax',
                  {'lateral_0/kernel': (1, 1, 3, 4), 'lateral_0/bias': (4,), 'lateral_1/kernel': (1, 1, 5, 4),
                   'lateral_1/bias': (4,), 'smooth_0/kernel': (3, 3, 4, 4), 'smooth_0/bias': (4,),
                   'head/out/kernel': (1, 1, 4, 7), 'head/out/bias': (7,)}),
}


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', CASES)
def test_outputs_and_parameters(name, dtype):
  head, outputs, kind, params = CASES[name]
  head = head.clone(dtype=dtype)
  with jax.numpy_dtype_promotion('strict'):
    variables = jax.eval_shape(head.init, jax.random.key(0), FEATURES)
    result = jax.eval_shape(lambda v: head.apply(v, FEATURES, None, train=True), variables)
  flat = tree.flatten(variables['params'])
  assert {path: leaf.shape for path, leaf in flat.items()} == params
  assert (result.shape, head.kind) == (outputs, kind)
  assert {leaf.dtype for leaf in (result, *flat.values())} == {jnp.dtype('float32')}
  assert head.default_loss in experiment.LOSSES and set(head.default_metrics) <= set(experiment.METRICS)


def test_readout_is_a_product_at_each_position():
  head = heads.Depth(mean=2.0, std=3.0)
  p = draw(head)
  expected = 2 + 3 * (MAPS[0] @ p['out']['kernel'][0, 0, :, 0] + p['out']['bias'])
  np.testing.assert_allclose(head.apply({'params': p}, FEATURES), expected, atol=1e-5)


def test_resize_by_hand():
  row = np.array([0.0, 4.0], np.float32).reshape(1, 1, 2, 1)
  # Centres of four pixels over two: at -1/4, 1/4, 3/4 and 5/4 of the distance between them.
  np.testing.assert_allclose(dense.resize(row, (1, 4)).ravel(), [0, 1, 3, 4])
  np.testing.assert_allclose(dense.resize(row, (3, 2))[0, :, 0, 0], 0)
  assert dense.resize(row, [1, 2]) is row


def test_normals_have_length_one():
  head = heads.Normals()
  length = np.linalg.norm(head.apply({'params': draw(head)}, FEATURES), axis=-1)
  np.testing.assert_allclose(length, 1, atol=1e-6)


def test_the_pyramid_by_hand():
  # Kernels that act on each position alone; a fine map of 1 x 2, a coarse one of 1 x 1, which spreads over both.
  fine, coarse = np.array([1.0, 2.0], np.float32).reshape(1, 1, 2, 1), np.full((1, 1, 1, 1), 10, np.float32)
  smooth = np.zeros((3, 3, 1, 1), np.float32)
  smooth[1, 1] = 2
  one = lambda value: {'kernel': np.full((1, 1, 1, 1), value, np.float32), 'bias': np.zeros(1)}
  params = {'lateral_0': one(3), 'lateral_1': one(5), 'smooth_0': {'kernel': smooth, 'bias': np.ones(1)},
            'head': {'out': one(1)}}
  y = heads.MultiScale(heads.Depth(), width=1).apply({'params': params}, Features(maps=[fine, coarse]))
  np.testing.assert_allclose(y.ravel(), [2 * (3 + 50) + 1, 2 * (6 + 50) + 1])


def test_the_pyramid_reaches_every_map():
  head = heads.MultiScale(heads.Edges(), width=2)
  p = draw(head)
  gradient = jax.jit(jax.grad(lambda maps: jnp.sum(jnp.sin(head.apply({'params': p}, Features(maps=maps))))))(MAPS)
  assert all(np.abs(g).min(axis=-1).max() > 0 for g in gradient)
  coarse = heads.MultiScale(heads.Edges(level=1), width=2)
  assert set(draw(coarse)) == {'lateral_1', 'smooth_1', 'head'}


def test_a_head_learns_its_labels():
  head = heads.Segmentation(classes=2, hidden=(4,), stride=2)
  label = (np.asarray(jax.image.resize(MAPS[0][..., 0], (2, 8, 12), 'nearest')) > 0).astype(np.int32)
  label[:, 0] = -1

  @jax.jit
  def step(p):
    loss, gradient = jax.value_and_grad(lambda p: losses.position_xent(head.apply({'params': p}, FEATURES), label).mean())(p)
    return loss, jax.tree.map(lambda x, g: x - 0.5 * g, p, gradient)

  p, history = jax.tree.map(lambda x: 0.3 * x, draw(head)), []
  for _ in range(60):
    loss, p = step(p)
    history.append(float(loss))
  assert history[-1] < 0.5 * history[0]


def test_what_is_missing_is_named():
  for name, (head, *_) in CASES.items():
    with pytest.raises(ValueError, match=r'reads features.maps, which this encoder does not fill. It fills: tokens'):
      jax.eval_shape(head.init, jax.random.key(0), Features(tokens=jnp.zeros((2, 3, 4))))
    assert name in experiment.HEADS
  with pytest.raises(ValueError, match='Edges has level=2, but this encoder fills 2 features.maps: allowed are -2 … 1'):
    jax.eval_shape(heads.Edges(level=2).init, jax.random.key(0), FEATURES)
  with pytest.raises(ValueError, match='Edges has level=-3'):
    jax.eval_shape(heads.MultiScale(heads.Edges(level=-3)).init, jax.random.key(0), FEATURES)


@pytest.mark.parametrize('make, text', [
  (lambda: heads.Segmentation(), 'Segmentation has classes=0; allowed is an integer >= 2'),
  (lambda: heads.Depth(std=-1.0), 'Depth has std=-1.0; allowed is a finite number > 0'),
  (lambda: heads.Edges(size=(3, 3), stride=2), r'size=\(3, 3\) and stride=2; allowed is a size .* or a stride'),
  (lambda: heads.Edges(size=(3,)), r'size=\(3,\)'),
  (lambda: heads.Normals(kernel=0), 'Normals has kernel=0'),
  (lambda: heads.Normals(hidden=(0,)), r'Normals has hidden=\(0,\)'),
  (lambda: heads.MultiScale(heads.Edges(), width=0), 'MultiScale has width=0'),
])
def test_wrong_fields_are_named(make, text):
  with pytest.raises(ValueError, match=text):
    make()


SHAPE = (3, 4, 4)


@pytest.mark.parametrize('head, label, text', [
  (heads.Segmentation(classes=3), np.full(SHAPE, 3), r"'a' holds 3 \(first at row 0\), .* 0 … 2, and negative = ignored"),
  (heads.Segmentation(classes=3), np.zeros(SHAPE), "'a' has dtype float64"),
  (heads.Segmentation(classes=3, size=(4, 5)), np.zeros(SHAPE, int), r"shape \[3, 4, 4\], .* \[N, 4, 5\]"),
  (heads.Depth(), np.full(SHAPE, -1.0), '0 = not known'),
  (heads.Depth(), np.zeros((3, 4)), r'reads labels of shape \[N, H, W\]'),
  (heads.Normals(), np.zeros(SHAPE), r'reads labels of shape \[N, H, W, 3\]'),
  (heads.Normals(), np.full((*SHAPE, 3), np.inf), 'holds inf'),
  (heads.Saliency(), np.full(SHAPE, 255), 'holds 255'),
  (heads.MultiScale(heads.Edges()), np.full(SHAPE, 2), 'holds 2'),
])
def test_bad_labels_are_named(head, label, text):
  with pytest.raises(ValueError, match=text):
    head.check_label(label, 'a')


@pytest.mark.parametrize('head, label', [
  (heads.Segmentation(classes=3, size=(4, 4)), np.array([-1, 0, 1, 2] * 12).reshape(SHAPE)),
  (heads.Depth(), np.zeros(SHAPE)), (heads.Normals(), np.zeros((*SHAPE, 3))), (heads.Edges(), -np.ones(SHAPE, int)),
  (heads.Saliency(), np.ones(SHAPE, bool)),
])
def test_good_labels_pass(head, label):
  head.check_label(label, 'a')
