"""Rotations: by hand, by what they leave alone, and the published scalings at both their ends."""
import jax
import numpy as np
import pytest

from mtjax.encoders.rope import Rope, rotate

LLAMA3 = dict(rope_type='llama3', factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)


def test_by_hand():
  # One head of two numbers, frequency 1: at position p it is turned by p radians.
  x = np.tile(np.array([1.0, 0.0], np.float32), (1, 2, 1, 1))
  out = rotate(x, np.array([[0, 2]]), Rope())
  np.testing.assert_allclose(np.asarray(out)[0, :, 0], [[1, 0], [np.cos(2), np.sin(2)]], atol=1e-6)


def test_pairs_are_the_halves_and_frequencies_fall():
  np.testing.assert_allclose(Rope.make(100.0).frequencies(4), [1, 0.1], rtol=1e-6)
  x = np.array([1.0, 2.0, 3.0, 4.0], np.float32).reshape(1, 1, 1, 4)
  out = np.asarray(rotate(x, np.array([[1]]), Rope.make(100.0))).ravel()
  first = (1 + 3j) * np.exp(1j)          # numbers 0 and 2, turned by 1
  second = (2 + 4j) * np.exp(0.1j)       # numbers 1 and 3, turned by 0.1
  np.testing.assert_allclose(out, [first.real, second.real, first.imag, second.imag], rtol=1e-6)


def test_scores_depend_on_distances_alone():
  q, k = np.random.default_rng(0).normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
  score = jax.jit(lambda p, s: (rotate(q, p, Rope()) * rotate(k, s, Rope())).sum())
  here, there = score(np.array([[3]]), np.array([[1]])), score(np.array([[103]]), np.array([[101]]))
  np.testing.assert_allclose(here, there, rtol=1e-4)  # the angle 100 itself is rounded to 1e-5
  assert abs(here - score(np.array([[3]]), np.array([[2]]))) > 1e-3


def test_scalings():
  plain = Rope.make(10000.0).frequencies(64)
  np.testing.assert_allclose(Rope.make(10000.0, dict(rope_type='linear', factor=4.0)).frequencies(64), plain / 4)
  scaled, waves = Rope.make(10000.0, LLAMA3).frequencies(64), 2 * np.pi / plain
  np.testing.assert_allclose(scaled[waves < 16], plain[waves < 16], rtol=1e-6)
  np.testing.assert_allclose(scaled[waves > 64], plain[waves > 64] / 8, rtol=1e-6)
  between = (waves > 16) & (waves < 64)
  assert between.any() and (scaled[between] < plain[between]).all() and (scaled[between] > plain[between] / 8).all()


@pytest.mark.parametrize('scaling, text', [
  (dict(rope_type='yarm'), "rope_type='yarm'.*Known: default, linear, llama3"),
  (dict(rope_type='linear'), "rope_type='linear', which needs factor; missing: factor"),
])
def test_errors(scaling, text):
  with pytest.raises(ValueError, match=text):
    Rope.make(10000.0, scaling)


def test_heads_of_odd_size_are_refused():
  with pytest.raises(ValueError, match='heads have 3 numbers; allowed is an even number'):
    Rope().frequencies(3)
