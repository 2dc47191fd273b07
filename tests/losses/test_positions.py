"""Losses of many positions a row: tokens, pixels, depths, normals, edges."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import losses

LOGITS = np.log(np.array([[[0.5, 0.5], [0.25, 0.75], [0.9, 0.1]], [[0.5, 0.5], [0.5, 0.5], [0.2, 0.8]]], np.float32))


def test_position_xent_is_a_mean_over_valid_positions():
  label = np.array([[0, 0, -100], [1, 0, 1]])
  # Row 0: ln 2 and ln 4; row 1: ln 2 twice and ln 1.25.
  np.testing.assert_allclose(losses.position_xent(LOGITS, label), [np.log(8) / 2, np.log(5) / 3], rtol=1e-6)
  mask = np.array([[False, True, True], [False, False, False]])
  np.testing.assert_allclose(losses.position_xent(LOGITS, label, mask), [np.log(4), 0], rtol=1e-6)
  np.testing.assert_allclose(losses.position_xent(LOGITS, label, np.array([True, False])), [np.log(8) / 2, 0], rtol=1e-6)
  pixels = losses.position_xent(LOGITS[:, None], label[:, None])
  np.testing.assert_allclose(pixels, losses.position_xent(LOGITS, label), rtol=1e-6)
  smooth = losses.position_xent(LOGITS, np.where(label < 0, -1, label), label_smoothing=0.2)
  np.testing.assert_allclose(smooth[0], np.mean([np.log(2), 0.9 * np.log(4) + 0.1 * np.log(4 / 3)]), rtol=1e-6)
  with pytest.raises(ValueError, match=r'shape \[2, 3, 2\], but labels \[2, 3, 1\]'):
    losses.position_xent(LOGITS, label[..., None])


def test_ignored_positions_have_no_gradient():
  label = jnp.array([[0, -100, 1], [-1, -1, -1]])
  gradient = jax.grad(lambda x: losses.position_xent(x, label).sum())(jnp.full((2, 3, 2), 50.0))
  assert np.isfinite(gradient).all()
  np.testing.assert_array_equal(np.abs(gradient).max(axis=-1) > 0, label >= 0)


def test_next_tokens_and_their_loss():
  tokens = np.array([[1, 0, 1], [1, 1, 0]])
  mask = np.array([[True, True, True], [True, True, False]])
  np.testing.assert_array_equal(losses.next_tokens(tokens, mask), [[0, 1, -1], [1, -1, -1]])
  segments = np.array([[1, 2, 2], [1, 1, 0]])
  np.testing.assert_array_equal(losses.next_tokens(tokens, segment_ids=segments), [[-1, 1, -1], [1, -1, -1]])
  # Row 0: position 0 says token 0 (1/2), position 1 token 1 (3/4); row 1: position 0 says token 1 (1/2).
  expected = [np.log(8 / 3) / 2, np.log(2)]
  np.testing.assert_allclose(losses.next_token_xent(LOGITS, tokens, mask), expected, rtol=1e-6)
  np.testing.assert_allclose(losses.next_token_xent(LOGITS, np.where(mask, tokens, -1)), expected, rtol=1e-6)


def test_depth_counts_known_pixels_only():
  label = np.array([[[2.0, 0.0, np.nan]], [[1.0, 4.0, 8.0]]], np.float32)
  outputs = np.array([[[5.0, 9.0, 9.0]], [[1.0, 3.0, 0.0]]], np.float32)
  np.testing.assert_allclose(losses.depth_l1(outputs, label), [3, 3])
  mask = np.array([[[True, True, True]], [[True, True, False]]])
  np.testing.assert_allclose(losses.depth_l1(outputs, label, mask), [3, 0.5])
  assert np.isfinite(jax.grad(lambda o: losses.depth_l1(o, jnp.asarray(label)).sum())(jnp.asarray(outputs))).all()


def test_normals_by_hand():
  said = np.array([[[[0, 0, 2.0], [0, 3, 0], [0, 0, 0]]]], np.float32)
  true = np.array([[[[0, 0, -1.0], [0, 3, 4], [1, 0, 0]]]], np.float32)
  # cos = -1, 3/5 and (of a vector of length 0) 0.
  np.testing.assert_allclose(losses.normal_cosine(said, true), [(2 + 0.4 + 1) / 3], rtol=1e-6)
  true[0, 0, 2] = 0
  np.testing.assert_allclose(losses.normal_cosine(said, true), [1.2], rtol=1e-6)
  mask = np.ones((1, 1, 3, 3), bool)
  mask[0, 0, 0, 1] = False                     # a normal of which one number is missing
  np.testing.assert_allclose(losses.normal_cosine(said, true, mask), [0.4], rtol=1e-6)
  assert np.isfinite(jax.grad(lambda s: losses.normal_cosine(s, true).sum())(jnp.asarray(said))).all()


def test_edges_by_hand():
  logits = np.log(np.array([[[1.0, 3.0, 1.0, 7.0]]], np.float32))          # p = 1/2, 3/4, 1/2, 7/8
  label = np.array([[[1, 0, -1, 0]]])
  fixed = (0.9 * np.log(2) + 0.1 * np.log(4) + 0.1 * np.log(8)) / 3
  np.testing.assert_allclose(losses.edge_xent(logits, label, positive=0.9), [fixed], rtol=1e-6)
  # Two of three known pixels are no edges: w = 2/3.
  balanced = (2 / 3 * np.log(2) + 1 / 3 * np.log(4) + 1 / 3 * np.log(8)) / 3
  np.testing.assert_allclose(losses.balanced_xent(logits, label), [balanced], rtol=1e-6)
  np.testing.assert_allclose(losses.balanced_xent(logits, np.zeros_like(label)), [0])
  mask = np.array([[[True, True, True, False]]])
  np.testing.assert_allclose(losses.edge_xent(logits, label, mask, 0.9), [(0.9 * np.log(2) + 0.1 * np.log(4)) / 2], rtol=1e-6)
  with pytest.raises(ValueError, match='0 < positive < 1, got 1'):
    losses.edge_xent(logits, label, positive=1)


@pytest.mark.parametrize('loss, label', [
  (losses.position_xent, np.zeros((2, 3), int)), (losses.next_token_xent, np.zeros((2, 3), int)),
  (losses.depth_l1, np.ones((2, 3, 3))), (losses.normal_cosine, np.ones((2, 3, 3))), (losses.edge_xent, np.ones((2, 3, 3))),
  (losses.balanced_xent, np.ones((2, 3, 3)))])
def test_float32_in_bfloat16(loss, label):
  values = loss(jnp.ones((2, 3, 3), jnp.bfloat16), jnp.asarray(label))
  assert values.dtype == jnp.float32 and values.shape == (2,)
