"""The scans of Mamba and Mamba-2 against plain loops over tokens."""
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax.encoders.causal_conv import CausalConv, conv_tail
from mtjax.encoders.selective_scan import selective_scan
from mtjax.encoders.ssd import segsum, ssd

ASSOCIATIVE, SEQUENTIAL = (functools.partial(selective_scan, inner=inner) for inner in ('associative', 'sequential'))
RNG = np.random.default_rng(0)
ROWS, LENGTH = 2, 11
RESET = np.zeros((ROWS, LENGTH), bool)
RESET[0, [3, 4, 9]] = RESET[1, 0] = True


def draw(*shape):
  return RNG.normal(size=shape).astype(np.float32)


def selective_inputs(channels=3, width=4):
  return dict(u=draw(ROWS, LENGTH, channels), delta=np.exp(draw(ROWS, LENGTH, channels) - 1),
              A=-np.exp(draw(channels, width)), B=draw(ROWS, LENGTH, width), C=draw(ROWS, LENGTH, width),
              D=draw(channels)), draw(ROWS, channels, width)


def ssd_inputs(heads=4, size=3, groups=2, width=5):
  return dict(x=draw(ROWS, LENGTH, heads, size), delta=np.exp(draw(ROWS, LENGTH, heads) - 1), A=-np.exp(draw(heads)),
              B=draw(ROWS, LENGTH, groups, width), C=draw(ROWS, LENGTH, groups, width), D=draw(heads)), draw(
                ROWS, heads, size, width)


def selective_by_loop(u, delta, A, B, C, D, reset, state):
  y = np.zeros(u.shape)
  h = state.astype(np.float64)
  for t in range(u.shape[1]):
    h = np.where(reset[:, t, None, None], 0, h)
    h = np.exp(delta[:, t, :, None] * A) * h + (delta * u)[:, t, :, None] * B[:, t, None]
    y[:, t] = np.einsum('ben,bn->be', h, C[:, t]) + D * u[:, t]
  return y, h


def ssd_by_loop(x, delta, A, B, C, D, reset, state):
  y, repeat = np.zeros(x.shape), x.shape[2] // B.shape[2]
  s = state.astype(np.float64)
  B, C = (np.repeat(v, repeat, axis=2) for v in (B, C))
  for t in range(x.shape[1]):
    s = np.where(reset[:, t, None, None, None], 0, s)
    s = np.exp(delta[:, t] * A)[..., None, None] * s + (delta[..., None] * x)[:, t, :, :, None] * B[:, t, :, None]
    y[:, t] = np.einsum('bhpn,bhn->bhp', s, C[:, t]) + D[:, None] * x[:, t]
  return y, s


@pytest.mark.parametrize('chunk', [1, 4, 32])
@pytest.mark.parametrize('scan, loop, inputs', [(ASSOCIATIVE, selective_by_loop, selective_inputs),
                                                (SEQUENTIAL, selective_by_loop, selective_inputs),
                                                (ssd, ssd_by_loop, ssd_inputs)])
def test_chunks_equal_the_loop(scan, loop, inputs, chunk):
  arrays, state = inputs()
  for borders, start in ((np.zeros_like(RESET), np.zeros_like(state)), (RESET, state)):
    got = jax.jit(scan, static_argnames='chunk')(**arrays, reset=borders, state=start, chunk=chunk)
    for ours, theirs in zip(got, loop(**arrays, reset=borders, state=start)):
      # float32 against float64; entries are of order one, the largest about ten.
      np.testing.assert_allclose(ours, theirs, atol=1e-6 * max(1, np.abs(theirs).max()))


def test_selective_scan_by_hand():
  # D = N = 1, A = -1, Delta = ln 2: h halves at each step. h_1 = ln 2, h_2 = ln 2 / 2 + ln 2.
  one = np.ones((1, 2, 1), np.float32)
  y, h = selective_scan(one, np.log(2) * one, -np.ones((1, 1)), one, one, np.zeros(1))
  np.testing.assert_allclose(y[0, :, 0], [0.6931, 1.0397], atol=5e-5)
  np.testing.assert_allclose(h, 1.5 * np.log(2) * np.ones((1, 1, 1)), rtol=1e-6)


def test_ssd_is_the_selective_scan_of_equal_decays():
  arrays, state = ssd_inputs(heads=2, size=3, groups=1)
  flat = lambda x: x.reshape(*x.shape[:2], -1)
  repeat = lambda x: np.repeat(x, 3, axis=-1)
  y, s = jax.jit(lambda arrays: ssd(**arrays, state=state, chunk=4))(arrays)
  ours, h = selective_scan(flat(arrays['x']), repeat(arrays['delta']), np.repeat(repeat(arrays['A'])[:, None], 5, 1),
                           arrays['B'][:, :, 0], arrays['C'][:, :, 0], repeat(arrays['D']),
                           state=state.reshape(ROWS, 6, 5), chunk=4)
  np.testing.assert_allclose(flat(y), ours, atol=1e-5)      # the order of the sums differs
  np.testing.assert_allclose(s.reshape(h.shape), h, atol=1e-5)


@pytest.mark.parametrize('scan, inputs', [(ASSOCIATIVE, selective_inputs), (SEQUENTIAL, selective_inputs),
                                          (ssd, ssd_inputs)])
def test_gradients_of_chunks_equal_those_of_one_chunk(scan, inputs):
  arrays, state = inputs()

  def loss(arrays, state, chunk):
    y, last = scan(**arrays, reset=RESET, state=state, chunk=chunk)
    return jnp.sum(jnp.sin(y)) + jnp.sum(jnp.cos(last))

  gradient = jax.jit(jax.grad(loss, argnums=(0, 1)), static_argnums=2)
  parts, whole = gradient(arrays, state, 4), gradient(arrays, state, 16)
  for a, b in zip(jax.tree.leaves(parts), jax.tree.leaves(whole)):
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, atol=2e-5 * max(1, np.abs(b).max()))     # sums over all tokens in another order


def test_segsum_by_hand():
  entries = segsum(jnp.array([5.0, 1.0, -2.0]))
  np.testing.assert_array_equal(entries, [[0, -np.inf, -np.inf], [1, 0, -np.inf], [-1, -2, 0]])


def test_decays_that_vanish_have_finite_gradients():
  arrays, _ = ssd_inputs()
  gradient = jax.jit(jax.grad(lambda delta: jnp.sum(ssd(**arrays | {'delta': delta}, chunk=4)[0])))(200 * arrays['delta'])
  assert np.isfinite(gradient).all()


def test_bad_chunks_and_groups_are_named():
  arrays, _ = selective_inputs()
  with pytest.raises(ValueError, match='chunk=0; allowed is an integer >= 1'):
    selective_scan(**arrays, chunk=0)
  with pytest.raises(ValueError, match="inner='loop'; allowed are None, 'associative', 'sequential'"):
    selective_scan(**arrays, inner='loop')
  arrays, _ = ssd_inputs(heads=3, groups=2)
  with pytest.raises(ValueError, match='3 heads and 2 groups'):
    ssd(**arrays)


def test_convolution_by_hand_and_across_segments():
  conv = CausalConv(width=3)
  params = {'params': {'kernel': np.array([[[1.0]], [[10.0]], [[100.0]]], np.float32), 'bias': np.array([0.5], np.float32)}}
  x = np.array([1, 2, 3, 4], np.float32).reshape(1, 4, 1)
  # 100 x_t + 10 x_{t-1} + x_{t-2} + 1/2.
  np.testing.assert_allclose(conv.apply(params, x).ravel(), [100.5, 210.5, 321.5, 432.5])
  segments = np.array([[1, 1, 2, 2]])
  np.testing.assert_allclose(conv.apply(params, x, segments).ravel(), [100.5, 210.5, 300.5, 430.5])
  tail = np.array([7, 8], np.float32).reshape(1, 2, 1)
  np.testing.assert_allclose(conv.apply(params, x, None, tail).ravel(), [187.5, 218.5, 321.5, 432.5])


def test_tail_ends_with_the_last_token_of_each_row():
  x = np.arange(8, dtype=np.float32).reshape(2, 4, 1)
  np.testing.assert_array_equal(conv_tail(x, 3)[..., 0], [[2, 3], [6, 7]])
  mask = np.array([[True, False, False, False], [True, True, True, False]])
  np.testing.assert_array_equal(conv_tail(x, 3, mask=mask)[..., 0], [[0, 0], [5, 6]])
