"""What every encoder promises: the fields it fills, its parameter names, dtypes, dropout, and independence of rows."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import encoders, tree
from mtjax.context import Ctx

BLOCK = {
  'norm1/scale': (8,), 'norm1/bias': (8,), 'norm2/scale': (8,), 'norm2/bias': (8,),
  **{f'attn/{name}/kernel': (8, 2, 4) for name in ('query', 'key', 'value')},
  **{f'attn/{name}/bias': (2, 4) for name in ('query', 'key', 'value')},
  'attn/out/kernel': (2, 4, 8), 'attn/out/bias': (8,),
  'mlp/fc1/kernel': (8, 16), 'mlp/fc1/bias': (16,), 'mlp/fc2/kernel': (16, 8), 'mlp/fc2/bias': (8,),
}
BLOCKS = {f'block_{i}/{path}': shape for i in range(2) for path, shape in BLOCK.items()}
NORM = {'norm/scale': (8,), 'norm/bias': (8,)}
TRANSFORMER = dict(width=8, depth=2, heads=2, hidden=16, dropout_rate=0.5)


def images(side=13, channels=1):
  return np.random.default_rng(0).integers(0, 256, (3, side, side, channels)).astype(np.uint8)


def texts():
  return np.array([[1, 70, 80, 2, 0, 0], [1, 70, 2, 0, 0, 0], [1, 90, 91, 92, 93, 2]], np.int32)


def swin_block(channels, heads):
  size = channels // heads
  return {
    **{f'{norm}/{leaf}': (channels,) for norm in ('norm1', 'norm2') for leaf in ('scale', 'bias')},
    **{f'attn/{name}/kernel': (channels, heads, size) for name in ('query', 'key', 'value')},
    **{f'attn/{name}/bias': (heads, size) for name in ('query', 'key', 'value')},
    'attn/out/kernel': (heads, size, channels), 'attn/out/bias': (channels,), 'attn/bias_table': (9, heads),
    'mlp/fc1/kernel': (channels, 2 * channels), 'mlp/fc1/bias': (2 * channels,),
    'mlp/fc2/kernel': (2 * channels, channels), 'mlp/fc2/bias': (channels,),
  }


def conv_block(path, inputs, outputs):
  return {f'{path}/norm1/scale': (inputs,), f'{path}/norm1/bias': (inputs,), f'{path}/norm2/scale': (outputs,),
          f'{path}/norm2/bias': (outputs,), f'{path}/conv1/kernel': (3, 3, inputs, outputs),
          f'{path}/conv2/kernel': (3, 3, outputs, outputs)}


# name: (encoder, inputs, parameter shapes, shapes of the features that are filled)
CASES = {
  'mlp': (
    encoders.MLP(widths=(6, 4), dropout_rate=0.5), images(5),
    {'fc1/kernel': (25, 6), 'fc1/bias': (6,), 'fc2/kernel': (6, 4), 'fc2/bias': (4,)},
    {'pooled': (3, 4)},
  ),
  'mamba': (
    encoders.Mamba(vocab_size=96, width=8, depth=2, state_size=4, rank=2, pad_id=0, dropout_rate=0.5, chunk=4), texts(),
    {'embed/embedding': (96, 8), 'norm/scale': (8,), **{f'block_{i}/{path}': shape for i in range(2) for path, shape in {
      'norm/scale': (8,), 'mixer/in_proj/kernel': (8, 32), 'mixer/conv/kernel': (4, 1, 16), 'mixer/conv/bias': (16,),
      'mixer/x_proj/kernel': (16, 10), 'mixer/dt_proj/kernel': (2, 16), 'mixer/dt_proj/bias': (16,),
      'mixer/A_log': (16, 4), 'mixer/D': (16,), 'mixer/out_proj/kernel': (16, 8)}.items()}},
    {'tokens': (3, 6, 8), 'pooled': (3, 8), 'mask': (3, 6)},
  ),
  'mamba2': (
    encoders.Mamba2(vocab_size=96, width=8, depth=2, state_size=4, head_size=4, groups=2, pad_id=0, dropout_rate=0.5,
                    chunk=4), texts(),
    {'embed/embedding': (96, 8), 'norm/scale': (8,), **{f'block_{i}/{path}': shape for i in range(2) for path, shape in {
      'norm/scale': (8,), 'mixer/in_proj/kernel': (8, 52), 'mixer/conv/kernel': (4, 1, 32), 'mixer/conv/bias': (32,),
      'mixer/dt_bias': (4,), 'mixer/A_log': (4,), 'mixer/D': (4,), 'mixer/norm/scale': (16,),
      'mixer/out_proj/kernel': (16, 8)}.items()}},
    {'tokens': (3, 6, 8), 'pooled': (3, 8), 'mask': (3, 6)},
  ),
  'lenet': (
    encoders.LeNet(channels=(2, 3), width=5, dropout_rate=0.5), images(16),
    {'conv1/kernel': (5, 5, 1, 2), 'conv1/bias': (2,), 'conv2/kernel': (5, 5, 2, 3), 'conv2/bias': (3,),
     'fc1/kernel': (3, 5), 'fc1/bias': (5,)},
    {'pooled': (3, 5), 'maps': [(3, 6, 6, 2), (3, 1, 1, 3)]},
  ),
  'convnet': (
    encoders.ConvNet(width=4, depths=(1, 2), groups=2, dropout_rate=0.5), images(7, 2),
    {'stem/kernel': (3, 3, 2, 4), 'norm/scale': (8,), 'norm/bias': (8,),
     **conv_block('stage_0/block_0', 4, 4), **conv_block('stage_1/block_0', 4, 8), **conv_block('stage_1/block_1', 8, 8),
     'stage_1/block_0/shortcut/kernel': (1, 1, 4, 8)},
    {'pooled': (3, 8), 'maps': [(3, 7, 7, 4), (3, 4, 4, 8)]},
  ),
  'swin': (
    encoders.Swin(patch=2, width=4, depths=(2, 1), heads=(2, 4), window=2, mlp_ratio=2.0, dropout_rate=0.5), images(11, 2),
    {'embed/kernel': (2, 2, 2, 4), 'embed/bias': (4,), 'embed_norm/scale': (4,), 'embed_norm/bias': (4,),
     **{f'stage_0/block_{j}/{path}': shape for j in range(2) for path, shape in swin_block(4, 2).items()},
     'stage_0/merge/norm/scale': (16,), 'stage_0/merge/norm/bias': (16,), 'stage_0/merge/reduction/kernel': (16, 8),
     **{f'stage_1/block_0/{path}': shape for path, shape in swin_block(8, 4).items()}, **NORM},
    {'tokens': (3, 9, 8), 'pooled': (3, 8), 'maps': [(3, 6, 6, 4), (3, 3, 3, 8)]},
  ),
  'vit_cls': (
    encoders.ViT(patch=4, **TRANSFORMER), images(8, 3)[:, :, :4],
    {'embed/kernel': (4, 4, 3, 8), 'embed/bias': (8,), 'cls': (8,), 'pos_embed': (3, 8), **BLOCKS, **NORM},
    {'tokens': (3, 3, 8), 'pooled': (3, 8), 'maps': [(3, 2, 1, 8)]},
  ),
  'vit_mean': (
    encoders.ViT(patch=4, pool='mean', **TRANSFORMER), images(8),
    {'embed/kernel': (4, 4, 1, 8), 'embed/bias': (8,), 'pos_embed': (4, 8), **BLOCKS, **NORM},
    {'tokens': (3, 4, 8), 'pooled': (3, 8), 'maps': [(3, 2, 2, 8)]},
  ),
  'ast': (
    encoders.AST(mels=4, frames=7, patch=2, stride=2, **TRANSFORMER),
    np.random.default_rng(0).normal(size=(3, 7, 4)).astype(np.float32),
    {'embed/kernel': (2, 2, 1, 8), 'embed/bias': (8,), 'cls': (8,), 'dist': (8,), 'pos_embed': (8, 8), **BLOCKS, **NORM},
    {'tokens': (3, 8, 8), 'pooled': (3, 8), 'maps': [(3, 2, 3, 8)]},
  ),
  'byte_transformer': (
    encoders.ByteTransformer(max_length=7, **TRANSFORMER), texts(),
    {'embed/embedding': (259, 8), 'pos_embed': (7, 8), **BLOCKS, **NORM},
    {'tokens': (3, 6, 8), 'pooled': (3, 8), 'mask': (3, 6)},
  ),
}


def parameters(encoder, inputs):
  """Random numbers in the shape of the parameters; compiling the initialisers would take most of the tests' time."""
  rng = np.random.default_rng(0)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), inputs)
  return jax.tree.map(lambda x: rng.normal(scale=0.3, size=x.shape).astype(x.dtype), shapes)


def run(encoder, variables, inputs, **kwargs):
  """Compiled `encoder.apply`, as numpy (eager jax would compile every index and sum of a test)."""
  return jax.device_get(jax.jit(lambda v, x: encoder.apply(v, x, **kwargs))(variables, inputs))


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize('name', CASES)
def test_parameters_and_the_features_filled(name, dtype):
  encoder, inputs, params, filled = CASES[name]
  encoder = encoder.clone(dtype=dtype)
  with jax.numpy_dtype_promotion('strict'):
    variables = jax.eval_shape(encoder.init, jax.random.key(0), inputs)
    features = jax.eval_shape(encoder.apply, variables, inputs)
  assert set(variables) == {'params'}
  flat = tree.flatten(variables['params'])
  assert {path: leaf.shape for path, leaf in flat.items()} == params
  for field in ('tokens', 'pooled', 'maps', 'mask'):
    shapes = jax.tree.map(lambda x: x.shape, getattr(features, field))
    assert shapes == filled.get(field), field
  floats = jax.tree.leaves(features.replace(mask=None))
  assert {leaf.dtype for leaf in (*floats, *flat.values())} == {jnp.dtype('float32')}


@pytest.fixture(scope='module', params=CASES)
def case(request):
  """(encoder, variables, inputs), one block deep where there are blocks: what follows is compiled."""
  encoder, inputs, _, _ = CASES[request.param]
  encoder = encoder.clone(depth=1) if hasattr(encoder, 'depth') else encoder
  return encoder, parameters(encoder, inputs), inputs


def test_bfloat16_is_close_to_float32(case):
  encoder, variables, inputs = case
  exact = run(encoder, variables, inputs).pooled
  rough = run(encoder.clone(dtype=jnp.bfloat16), variables, inputs).pooled
  scale = np.abs(exact).max()
  np.testing.assert_allclose(rough, exact, atol=0.05 * scale)      # bfloat16 keeps 8 bits
  assert np.abs(rough - exact).max() > 1e-6 * scale                # and was indeed used


def test_dropout_only_in_training(case):
  encoder, variables, inputs = case

  @jax.jit
  def train(seed):
    return encoder.apply(variables, inputs, train=True, rngs={'dropout': jax.random.key(seed)}).pooled

  still = run(encoder, variables, inputs).pooled
  first, again, second = (np.asarray(train(seed)) for seed in (1, 1, 2))
  np.testing.assert_array_equal(first, again)
  assert not np.allclose(first, second) and not np.allclose(first, still)
  plain = run(encoder.clone(dropout_rate=0.0), variables, inputs, train=True).pooled      # asks for no rng
  np.testing.assert_allclose(plain, still, atol=1e-6)


def test_rows_are_independent_and_context_goes_unread(case):
  encoder, variables, inputs = case
  order = np.array([2, 0, 1])
  ctx = Ctx(task_id=jnp.arange(3), mask=jnp.array([True, False, True]))
  expected = jax.tree.map(lambda x: x[order], run(encoder, variables, inputs))
  got = run(encoder, variables, inputs[order], ctx=ctx)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, expected)


def test_gradients_reach_every_parameter(case):
  encoder, variables, inputs = case
  encoder = encoder.clone(dropout_rate=0.0)
  shape = jax.eval_shape(encoder.apply, variables, inputs).pooled.shape
  weights = np.random.default_rng(1).normal(size=shape).astype(np.float32)
  grads = jax.jit(jax.grad(lambda v: jnp.vdot(encoder.apply(v, inputs).pooled, weights)))(variables)
  for path, grad in tree.flatten(jax.device_get(grads['params'])).items():
    assert np.isfinite(grad).all(), path
    # A bias of the keys adds the same to all scores of a query: softmax does not see it.
    assert path.endswith('key/bias') or np.abs(grad).max() > 0, path


def test_pixels_are_scaled_to_unit_range():
  raw = np.array([[0, 51, 255]], np.uint8)
  np.testing.assert_allclose(encoders.as_float_image(raw), [[0.0, 0.2, 1.0]], rtol=1e-6)
  for dtype in (jnp.float32, jnp.bfloat16):
    floats = jnp.array([[3.0, -1.0]], dtype)
    assert encoders.as_float_image(floats).dtype == dtype
    np.testing.assert_array_equal(encoders.as_float_image(floats), floats)


@pytest.mark.parametrize('name, dropout_rate', [('vit_mean', 0.5), ('byte_transformer', 0.0), ('mamba', 0.0)])
def test_remat_changes_neither_values_nor_gradients_nor_names(name, dropout_rate):
  encoder, inputs = CASES[name][0].clone(depth=1, dropout_rate=dropout_rate), CASES[name][1]
  variables = parameters(encoder, inputs)

  def trained(encoder):
    def loss(variables):
      pooled = encoder.apply(variables, inputs, train=True, rngs={'dropout': jax.random.key(1)}).pooled
      return jnp.sum(jnp.sin(3 * pooled)), pooled

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    return step(variables), str(jax.make_jaxpr(step)(variables)).count('remat')

  (plain, none), (remat, some) = trained(encoder), trained(encoder.clone(remat=True))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4), plain, remat)
  assert none < some      # a scan by chunks has one of its own


ERRORS = [
  (lambda: encoders.MLP(widths=()), ValueError, r'MLP has widths=\(\); allowed is one or more integers >= 1'),
  (lambda: encoders.MLP(widths=(8, -1)), ValueError, r'MLP has widths=\(8, -1\); allowed'),
  (lambda: encoders.MLP(activation='relo'), ValueError, r"'relo'; allowed are 'relu', 'gelu', 'silu', 'tanh'"),
  (lambda: encoders.MLP(dropout_rate=1.0), ValueError, r'dropout_rate=1.0; allowed is 0 <= dropout_rate < 1'),
  (lambda: encoders.LeNet(width=0), ValueError, r'LeNet has width=0; allowed is an integer >= 1'),
  (lambda: encoders.LeNet(channels=(1.5,)), ValueError, r'channels=\(1.5,\); allowed is one or more integers'),
  (lambda: encoders.ViT(patch=0), ValueError, r'ViT has patch=0; allowed is an integer >= 1'),
  (lambda: encoders.ViT(width=8, heads=3), ValueError,
   r'ViT has width=8, which is not a multiple of heads=3; allowed for heads are 1, 2, 4, 8'),
  (lambda: encoders.ViT(pool='max'), ValueError, r"ViT has pool='max'; allowed are 'cls', 'mean'"),
  (lambda: encoders.ViT(hidden=0), ValueError, r'ViT has hidden=0; allowed is an integer >= 1'),
  (lambda: encoders.ViT(depth=True), ValueError, r'ViT has depth=True; allowed is an integer >= 1'),
  (lambda: encoders.ByteTransformer(pool='cls'), ValueError, r"pool='cls'; allowed are 'mean', 'first'"),
  (lambda: encoders.ByteTransformer(max_length=-4), ValueError, r'max_length=-4; allowed is an integer >= 1'),
  (lambda: init_on(encoders.MLP(), np.zeros(3, np.float32)), ValueError, r'inputs \[B, …\].*has shape \[3\]'),
  (lambda: init_on(encoders.MLP(), np.zeros((3, 2), np.int32)), TypeError, r'dtype int32; allowed .* floats'),
  (lambda: init_on(encoders.LeNet(), np.zeros((2, 36, 36), np.uint8)), ValueError,
   r'LeNet reads images \[B, H, W, C\], but the input has shape \[2, 36, 36\]. A grey image needs .* x\[..., None\]'),
  (lambda: init_on(encoders.LeNet(), np.zeros((2, 12, 40, 1), np.uint8)), ValueError,
   r'2 convolutions, which need images of at least 13 x 13, but the input is 12 x 40'),
  (lambda: init_on(encoders.ViT(patch=5), np.zeros((2, 10, 8, 1), np.uint8)), ValueError,
   r'ViT has patch=5, which does not divide the image, 10 x 8'),
  (lambda: init_on(encoders.ByteTransformer(), np.zeros((2, 4), np.float32)), TypeError, r'token ids, .*float32'),
  (lambda: init_on(encoders.ByteTransformer(), np.zeros((2, 4, 1), np.int32)), ValueError, r'\[B, L\].*\[2, 4, 1\]'),
  (lambda: init_on(encoders.ByteTransformer(max_length=4), np.zeros((2, 5), np.int32)), ValueError,
   r'max_length=4, but the input has 5 tokens a row; truncate the rows, or raise max_length'),
  (lambda: init_on(encoders.Attention(heads=3), np.zeros((2, 5, 8), np.float32)), ValueError,
   r'heads=3, which does not divide the width 8'),
]


def init_on(module, inputs):
  return jax.eval_shape(module.init, jax.random.key(0), inputs)


@pytest.mark.parametrize('act, error, text', ERRORS)
def test_errors_name_field_value_and_what_is_allowed(act, error, text):
  with pytest.raises(error, match=text):
    act()


def test_smallest_image_of_lenet_is_accepted():
  assert init_on(encoders.LeNet(), np.zeros((2, 13, 13, 1), np.uint8))['params']['fc1']['kernel'].shape == (32, 64)


def test_lists_from_a_config_serve_as_sizes():
  encoder = encoders.MLP(widths=[4, 2])
  assert init_on(encoder, images(5))['params']['fc2']['kernel'].shape == (4, 2)
  assert isinstance(hash(encoder), int)
