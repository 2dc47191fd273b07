"""SAM and its variants: the cards' numbers, their limits, and that each of them survives what training does to it."""
import doctest
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mtjax.optim
from mtjax import optim
from mtjax.optim.sharpness import rho_like_learning_rate, sharpness
from mtjax.optim.sharpness.asam import which_are_weights
from mtjax.optim.sharpness.looksam import orthogonal_part

H = np.array([1.0, 4.0])
VARIANTS = {'sam': {}, 'asam': {}, 'gsam': {'alpha': 0.3}, 'looksam': {'every_k': 2}, 'fsam': {}}
ROUND = 1e-6  # float32, sums of two terms


def quadratic(w):
  """L = 1/2 w^T H w."""
  return 0.5 * jnp.sum(jnp.asarray(H, w.dtype) * w ** 2)


grad_quadratic = jax.jit(jax.grad(quadratic))


def mlp_loss(params):
  """A layer with a bias, a ReLU, another layer; four examples."""
  x = jnp.sin(jnp.arange(12.0).reshape(4, 3))
  hidden = jax.nn.relu(x @ params['fc1']['kernel'] + jnp.broadcast_to(params['fc1']['bias'], (4, 5)))
  return jnp.mean((hidden @ params['fc2']['kernel'] - 1) ** 2)


def mlp_params(seed=0):
  rng = np.random.default_rng(seed)
  draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
  return {'fc1': {'bias': draw(5), 'kernel': draw(3, 5)}, 'fc2': {'kernel': draw(5, 2)}}


grad_mlp = jax.jit(jax.grad(mlp_loss))


def directions(tx, grad_fn, points):
  """The directions at a sequence of points, and the last state."""
  state, result = tx.init(points[0]), []
  for w in points:
    d, state = tx.update(grad_fn(w), state, w, grad_fn=grad_fn)
    result.append(d)
  return result, state


def flat(tree):
  return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def assert_close(a, b, tol=ROUND):
  np.testing.assert_allclose(flat(a), flat(b), rtol=tol, atol=tol)


# SAM.

def test_sam_on_a_quadratic():
  (d,), state = directions(optim.sam(rho=0.1), grad_quadratic, [jnp.ones(2)])
  np.testing.assert_allclose(d, [1.02425, 4.38806], atol=5e-6)  # 1 + .1/sqrt(17), 4 + 1.6/sqrt(17), as printed
  assert state.count == 1 and state.count.dtype == jnp.int32


def test_sam_is_hw_plus_rho_h2w_over_norm():
  with jax.enable_x64(True):
    w = jnp.array([0.3, -2.0], jnp.float64)
    (d,), _ = directions(optim.sam(rho=0.7), jax.grad(quadratic), [w])
    assert d.dtype == jnp.float64
    g = H * np.array(w)
    np.testing.assert_allclose(d, g + 0.7 * H * g / np.linalg.norm(g), rtol=1e-11)  # the guard of the norm is 1e-12


def test_the_norm_is_over_all_leaves():
  with jax.enable_x64(True):
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), mlp_params())
    grad = jax.grad(mlp_loss)
    (d,), _ = directions(optim.sam(rho=0.1), grad, [params])
    g = grad(params)
    norm = np.linalg.norm(flat(g))
    assert_close(d, grad(jax.tree.map(lambda w, g: w + 0.1 * g / norm, params, g)), 1e-10)


@pytest.mark.parametrize('variant', VARIANTS)
def test_rho_0_is_the_base_and_a_zero_gradient_gives_no_nan(variant):
  tx = optim.sam(0.0, variant, **VARIANTS[variant])
  w = jnp.array([1.0, -2.0])
  assert_close(directions(tx, grad_quadratic, [w, w])[0], [grad_quadratic(w)] * 2)
  tx = optim.sam(0.3, variant, **VARIANTS[variant])
  zeros, state = directions(tx, grad_quadratic, [jnp.zeros(2)] * 3)
  assert_close(zeros, jnp.zeros(6), 0)
  assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


@pytest.mark.parametrize('variant', VARIANTS)
@pytest.mark.parametrize('size', [1e-10, 1e10])
def test_scales_of_the_loss(variant, size):
  """The ascent step does not depend on the scale of the loss, so the direction is as large as the loss."""
  tx = optim.sam(0.3, variant, **VARIANTS[variant])
  points = [jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0])]
  unit, _ = directions(tx, grad_quadratic, points)
  scaled, _ = directions(tx, lambda w: size * grad_quadratic(w), points)
  # At 1e-10 the cards' 1e-12 beside the norm shortens e by up to 1 %, of which the direction sees rho/|w| at most.
  assert_close(jax.tree.map(lambda x: x / size, scaled), unit, 1e-2 if size < 1 else 1e-5)


def test_rho_may_be_a_schedule():
  tx = optim.sam(rho=lambda count: 0.1 * count)
  (first, second), _ = directions(tx, grad_quadratic, [jnp.ones(2)] * 2)
  np.testing.assert_allclose(first, H)
  np.testing.assert_allclose(second, [1.02425, 4.38806], atol=5e-6)


@pytest.mark.parametrize('variant', VARIANTS)
def test_jit_scan_and_chain(variant):
  """The same under jit and in a scan, with a state of constant shapes; the loss falls."""
  tx = optax.chain(optim.sam(0.05, variant, **VARIANTS[variant]), optax.adamw(0.05))
  params = mlp_params()

  def step(carry, _):
    params, state = carry
    updates, state = tx.update(grad_mlp(params), state, params, grad_fn=grad_mlp)
    return (optax.apply_updates(params, updates), state), None

  eager = (params, tx.init(params))
  for _ in range(3):
    eager, _ = step(eager, None)
  scanned, _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=3))((params, tx.init(params)))
  assert jax.tree.map(lambda x: (x.shape, x.dtype), scanned) == jax.tree.map(lambda x: (x.shape, x.dtype), eager)
  assert_close(scanned, eager, 1e-4)  # three steps of Adam, which divides by small numbers
  assert mlp_loss(scanned[0]) < mlp_loss(params)


def test_low_precision_parameters():
  w = jnp.array([1.0, -2.0], jnp.bfloat16)
  for variant, options in VARIANTS.items():
    result, state = directions(optim.sam(0.3, variant, **options), jax.grad(quadratic), [w] * 3)
    assert all(d.dtype == jnp.bfloat16 and np.isfinite(np.float32(d)).all() for d in result)
    np.testing.assert_allclose(np.float32(result[0]), H * [1, -2], rtol=0.5)  # rho is 0.3 of |w|


# ASAM.

def test_asam_against_numpy():
  params, eta, rho = mlp_params(), 0.01, 0.5
  g = grad_mlp(params)
  t = {'fc1': {'bias': np.ones(5), 'kernel': np.abs(params['fc1']['kernel']) + eta},
       'fc2': {'kernel': np.abs(params['fc2']['kernel']) + eta}}
  norm = np.sqrt(sum(np.sum((a * np.array(b)) ** 2) for a, b in zip(jax.tree.leaves(t), jax.tree.leaves(g))))
  near = jax.tree.map(lambda w, t, g: jnp.asarray(w + rho * t ** 2 * g / norm, jnp.float32), params, t, g)
  assert_close(directions(optim.asam(), grad_mlp, [params])[0], grad_mlp(near), 1e-5)


def test_asam_does_not_see_how_layers_share_a_scale():
  """(c, 1/c) on two layers with a ReLU between: the same loss at w + e if eta = 0; SAM's differs."""
  rng = np.random.default_rng(1)
  one, two = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 5), (5, 2)))
  loss = lambda p: mlp_loss({'fc1': {'kernel': p[0], 'bias': jnp.zeros(5)}, 'fc2': {'kernel': p[1]}})
  grad = jax.jit(jax.grad(loss))

  def at_worst_point(tx, c):
    params, seen = (c * one, two / c), []
    tx.update(grad(params), tx.init(params), params, grad_fn=lambda p: seen.append(p) or grad(p))
    return float(loss(seen[0]))

  asam, sam = optim.asam(0.5, eta=0.0), optim.sam(0.5)
  np.testing.assert_allclose([at_worst_point(asam, c) for c in (0.25, 8.0)], at_worst_point(asam, 1.0), rtol=1e-5)
  assert abs(at_worst_point(sam, 8.0) - at_worst_point(sam, 1.0)) > 0.1
  assert at_worst_point(asam, 1.0) > float(loss((one, two)))


def test_which_leaves_asam_scales():
  params = {'query': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones((2, 2))}, 'norm': {'scale': jnp.ones(2)}}
  assert which_are_weights(params) == {'norm/scale': False, 'query/bias': False, 'query/kernel': True}
  assert which_are_weights(params, ['query']) == {'norm/scale': False, 'query/bias': True, 'query/kernel': True}
  assert which_are_weights({'w': jnp.ones(2), 'v': jnp.ones(3)}) == {'v': True, 'w': True}  # a toy of vectors
  with pytest.raises(ValueError, match="'kernle' matches no parameter"):
    directions(optim.asam(weights=['kernle']), lambda p: p, [params])


# GSAM.

@pytest.mark.parametrize('alpha', [0.0, 0.4, 3.0])
def test_gsam_keeps_the_component_along_the_perturbed_gradient(alpha):
  w = jnp.array([1.0, -2.0])
  (g_p,), _ = directions(optim.sam(0.2), grad_quadratic, [w])
  (d,), _ = directions(optim.gsam(0.2, alpha), grad_quadratic, [w])
  np.testing.assert_allclose(d @ g_p, g_p @ g_p, rtol=1e-5)
  g = np.array(grad_quadratic(w))
  np.testing.assert_allclose(d, g_p - alpha * (g - (g @ g_p) / (g_p @ g_p) * g_p), rtol=1e-5)  # subtracted
  if alpha == 0:
    assert_close(d, g_p, 0)


def test_gsam_where_the_perturbed_gradient_is_0():
  tx, w = optim.gsam(1.0, 0.4), jnp.array([1.0, -2.0])
  d, _ = tx.update(jnp.array([2.0, 1.0]), tx.init(w), w, grad_fn=jnp.zeros_like)
  assert_close(d, jnp.zeros(2), 0)


def test_gsam_radius_follows_the_learning_rate():
  schedule = optax.linear_schedule(1.0, 0.0, 4)
  rho = rho_like_learning_rate(schedule, 0.2, 0.6, 0.0, 1.0)
  np.testing.assert_allclose([rho(count) for count in range(5)], [0.6, 0.5, 0.4, 0.3, 0.2], rtol=1e-6)
  tx = optim.gsam(0.6, 0.4, learning_rate=schedule, lr_max=1.0, rho_min=0.2)
  followed, _ = directions(tx, grad_quadratic, [jnp.ones(2)] * 3)
  assert_close(followed[2], directions(optim.gsam(0.4, 0.4), grad_quadratic, [jnp.ones(2)])[0][0])


# LookSAM.

def test_looksam_against_numpy():
  points = [jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0]), jnp.array([2.0, 0.1])]
  result, state = directions(optim.looksam(0.2, every_k=2, alpha=0.7), grad_quadratic, points)
  g = H * np.array(points)
  for t, w in enumerate(np.array(points)):
    if t % 2 == 0:
      d = H * (w + 0.2 * g[t] / np.linalg.norm(g[t]))
      cosine = d @ g[t] / np.linalg.norm(d) / np.linalg.norm(g[t])
      g_v = d - np.linalg.norm(d) * cosine * g[t] / np.linalg.norm(g[t])
    else:
      d = g[t] + 0.7 * np.linalg.norm(g[t]) / np.linalg.norm(g_v) * g_v
    np.testing.assert_allclose(result[t], d, rtol=1e-4)  # g_v is a small difference
  np.testing.assert_allclose(state.inner.g_v, g_v, rtol=1e-4)


def test_looksam_stores_what_is_orthogonal():
  with jax.enable_x64(True):
    rng = np.random.default_rng(0)
    g_s, g = ({'a': jnp.asarray(rng.normal(size=7)), 'b': jnp.asarray(rng.normal(size=3))} for _ in range(2))
    length = np.linalg.norm(flat(g_s)) * np.linalg.norm(flat(g))
    assert abs(flat(orthogonal_part(g_s, g)) @ flat(g)) < 1e-14 * length  # sums of ten terms in float64


def test_looksam_does_not_store_rounding_error():
  """Parallel gradients leave nothing orthogonal but their last bits, which would be blown up to the length of g."""
  rng = np.random.default_rng(0)
  for _ in range(5):
    g = rng.normal(size=7)
    g_s, g = jnp.asarray(1.3 * g, jnp.float32), jnp.asarray(g, jnp.float32)
    assert jnp.any(g_s - (g_s @ g) / (g @ g) * g != 0)
    assert_close(orthogonal_part(g_s, g), jnp.zeros(7), 0)


def test_looksam_every_step_is_sam():
  points = [jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0])]
  assert_close(directions(optim.looksam(0.2, every_k=1), grad_quadratic, points)[0],
        directions(optim.sam(0.2), grad_quadratic, points)[0], 0)


def test_looksam_evaluates_12_gradients_in_10_steps():
  calls = []

  def counted(w):
    jax.debug.callback(lambda: calls.append(1))
    return grad_quadratic(w)

  tx = optim.looksam(0.05, every_k=5)

  def step(carry, _):
    w, state = carry
    d, state = tx.update(counted(w), state, w, grad_fn=counted)
    return (w - 0.01 * d, state), None

  w = jnp.array([1.0, -2.0])
  jax.block_until_ready(jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=10))((w, tx.init(w))))
  jax.effects_barrier()
  assert len(calls) == 12


def test_layerwise_looksam():
  """Each leaf moves by rho times its norm, whatever the scale of its gradient."""
  params, seen = mlp_params(), []
  tx = optim.looksam(0.1, every_k=1, layerwise=True)
  g = grad_mlp(params)
  tx.update(g, tx.init(params), params, grad_fn=lambda p: seen.append(p) or grad_mlp(p))
  for near, w, g_l in zip(*map(jax.tree.leaves, (seen[0], params, g))):
    np.testing.assert_allclose(near, w + 0.1 * np.linalg.norm(w) * g_l / np.linalg.norm(g_l), rtol=1e-5)


# F-SAM.

def test_fsam_against_numpy():
  points = [np.array([1.0, -2.0]), np.array([0.5, 1.0]), np.array([2.0, 0.1])]
  result, state = directions(optim.fsam(0.2, sigma=0.8, lambda_=0.6), grad_quadratic,
                             [jnp.asarray(w, jnp.float32) for w in points])
  m = None
  for d, w in zip(result, points):
    g = H * w
    q = g if m is None else g - 0.8 * m
    m = g if m is None else 0.6 * m + 0.4 * g
    np.testing.assert_allclose(d, H * (w + 0.2 * q / np.linalg.norm(q)), rtol=1e-5)
  np.testing.assert_allclose(state.inner.m, m, rtol=1e-6)


def test_fsam_without_subtraction_is_sam():
  points = [jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0])]
  assert_close(directions(optim.fsam(0.2, sigma=0.0), grad_quadratic, points)[0],
        directions(optim.sam(0.2), grad_quadratic, points)[0], 0)


@pytest.mark.parametrize('compiled', [lambda f: f, jax.jit], ids=['eager', 'jit'])
def test_a_constant_gradient_is_no_noise(compiled):
  """From step 2 on q = 0, to the last bit, hence e = 0."""
  tx, w = optim.fsam(0.2), jnp.array([0.1, 0.7])
  point_itself = lambda near: near
  update = compiled(lambda state: tx.update(jnp.array([0.3, 0.77]), state, w, grad_fn=point_itself))
  state, steps = tx.init(w), []
  for _ in range(4):
    near, state = update(state)
    steps.append(np.array(near - w))
  assert np.linalg.norm(steps[0]) > 0.19
  np.testing.assert_array_equal(steps[1:], np.zeros((3, 2)))


# The measure.

def test_sharpness_of_a_quadratic():
  w = jnp.array([1.0, -2.0])
  g = H * np.array(w)
  e = 0.1 * g / np.linalg.norm(g)
  expected = 0.5 * np.sum(H * (np.array(w) + e) ** 2) - 0.5 * np.sum(H * np.array(w) ** 2)
  np.testing.assert_allclose(sharpness(quadratic, w, 0.1), expected, rtol=1e-4)  # a difference of losses near 8
  assert sharpness(quadratic, jnp.zeros(2), 0.1) == 0
  assert sharpness(quadratic, w, 0.0) == 0


# Errors and examples.

@pytest.mark.parametrize('make, message', [
  (lambda: optim.sam(-0.1), r'sam: rho must be a finite number in \[0, inf\], got -0.1'),
  (lambda: optim.sam(float('nan')), 'sam: rho must be a finite number'),
  (lambda: optim.sam('big'), "got 'big'"),
  (lambda: optim.sam(variant='asma'), "Unknown variant of sam 'asma'. Did you mean 'asam'"),
  (lambda: optim.sam(variant='asam', etta=0.1), r"sam\(variant='asam'\) has no option 'etta'. Did you mean 'eta'"),
  (lambda: optim.sam(alpha=0.1), "has no option 'alpha'"),
  (lambda: optim.asam(eta=-1), 'asam: eta must be'),
  (lambda: optim.gsam(alpha=-1), 'gsam: alpha must be'),
  (lambda: optim.gsam(rho_min=0.1), 'say how rho follows a learning_rate'),
  (lambda: optim.gsam(learning_rate=optax.constant_schedule(1.0), rho_min=0.0), 'needs lr_max as well'),
  (lambda: optim.gsam(learning_rate=0.1, lr_max=1.0, rho_min=0.0), 'must be a schedule, steps -> rate, got 0.1'),
  (lambda: optim.gsam(learning_rate=lambda t: t, lr_max=0.0, rho_min=0.0), 'gsam: lr_max must be'),
  (lambda: optim.gsam(0.1, learning_rate=lambda t: t, lr_max=1.0, rho_min=0.2), 'gsam: rho_max must be'),
  (lambda: optim.looksam(every_k=0), 'looksam: every_k must be a whole number of steps >= 1, got 0'),
  (lambda: optim.looksam(every_k=2.0), 'got 2.0'),
  (lambda: optim.looksam(alpha=-1), 'looksam: alpha must be'),
  (lambda: optim.fsam(lambda_=1.0), r'fsam: lambda_ must be a finite number in \[0, 1\), got 1.0'),
  (lambda: optim.fsam(sigma=float('inf')), 'fsam: sigma must be'),
])
def test_settings_that_make_no_sense(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_what_update_needs():
  tx, w = optim.sam(), jnp.ones(2)
  state = tx.init(w)
  with pytest.raises(ValueError, match=r'sam takes a second gradient: pass grad_fn \(params -> gradient'):
    tx.update(w, state, w)
  with pytest.raises(ValueError, match='sam moves the parameters: pass them to update'):
    tx.update(w, state, grad_fn=grad_quadratic)
  with pytest.raises(ValueError, match='Of jax.value_and_grad pass the gradient only'):
    tx.update(w, state, w, grad_fn=jax.value_and_grad(quadratic))
  with pytest.raises(ValueError, match=r'returned a leaf of shape \[3\] where the gradient that was given has \[2\]'):
    tx.update(w, state, w, grad_fn=lambda w: jnp.ones(3))


def test_the_variant_is_the_factory():
  points = [jnp.array([1.0, -2.0]), jnp.array([0.5, 1.0])]
  for variant, options in VARIANTS.items():
    named = directions(optim.sam(0.3, variant, **options), grad_quadratic, points)[0]
    assert_close(named, directions(getattr(optim, variant)(0.3, **options), grad_quadratic, points)[0], 0)
  assert_close(directions(optim.sam(variant='asam'), grad_quadratic, points)[0],
        directions(optim.asam(0.5), grad_quadratic, points)[0], 0)  # the variant's own default


@pytest.mark.parametrize('name', ['sam', 'asam', 'gsam', 'looksam', 'fsam', 'measure'])
def test_the_examples_run(name):
  module = importlib.import_module(f'mtjax.optim.sharpness.{name}')
  failed, tried = doctest.testmod(module, extraglobs={'mtjax': mtjax, 'optax': optax, 'jax': jax, 'jnp': jnp})
  assert tried and not failed
