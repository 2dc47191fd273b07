"""Contrastive losses against loops, and rows that are not there."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mtjax import losses

SIMILAR = np.random.default_rng(0).normal(size=(5, 5)).astype(np.float32)
LABEL = np.array([3, 1, 3, 2, 7])


def info_nce_by_loop(s, label):
  p = np.exp(s.astype(np.float64))
  out = []
  for i in range(len(s)):
    same = label == label[i]
    out.append(-(np.log(p[i, same].sum() / p[i].sum()) + np.log(p[same, i].sum() / p[:, i].sum())) / 2)
  return out


def test_info_nce_equals_a_loop():
  np.testing.assert_allclose(losses.info_nce(SIMILAR, LABEL), info_nce_by_loop(SIMILAR, LABEL), rtol=1e-5)


def test_info_nce_of_pairs_is_two_cross_entropies():
  label = np.arange(1, 6)
  rows, columns = (losses.softmax_xent(s, np.arange(5)) for s in (jnp.asarray(SIMILAR), jnp.asarray(SIMILAR.T)))
  np.testing.assert_allclose(losses.info_nce(SIMILAR, label), (rows + columns) / 2, rtol=1e-5)


def test_sup_con_equals_a_loop():
  p = np.exp(SIMILAR.astype(np.float64))
  others = p.sum(1) - np.diag(p)
  expected = [-np.log(p[0, 2] / others[0]), 0, -np.log(p[2, 0] / others[2]), 0, 0]
  np.testing.assert_allclose(losses.sup_con(SIMILAR, LABEL), expected, rtol=1e-5)


@pytest.mark.parametrize('loss', [losses.info_nce, losses.sup_con])
def test_rows_that_are_not_there_change_nothing(loss):
  there = np.array([True, False, True, True, False])
  expected = loss(SIMILAR[there][:, there], LABEL[there])
  for label, mask in ((np.where(there, LABEL, 0), None), (LABEL, there)):
    got = loss(SIMILAR, label, mask)
    np.testing.assert_allclose(got[there], expected, rtol=1e-5)
    np.testing.assert_array_equal(got[~there], 0)
    gradient = jax.grad(lambda s, y=label, m=mask: loss(s, jnp.asarray(y), m).sum())(jnp.asarray(SIMILAR))
    assert np.isfinite(gradient).all()
    np.testing.assert_array_equal(gradient[~there], 0)
    np.testing.assert_array_equal(gradient[:, ~there], 0)


def test_shapes_are_named():
  with pytest.raises(ValueError, match=r'info_nce reads similarities \[B, B\] and labels \[B\], .* \[5, 4\] and \[5\]'):
    losses.info_nce(SIMILAR[:, :4], LABEL)
