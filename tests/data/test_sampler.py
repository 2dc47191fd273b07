import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax.data.sampler import BlockSampler, Permutation, rates


@given(n=st.integers(1, 3000), seed=st.integers(0, 2**31), epoch=st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_permutation_is_a_bijection(n, seed, epoch):
  image = Permutation(n, seed, epoch)(np.arange(n))
  assert sorted(image.tolist()) == list(range(n))


def test_permutation_without_a_table_agrees_with_the_one_that_has_it(monkeypatch):
  tabulated = Permutation(1000, 3, 1)(np.arange(1000))
  monkeypatch.setattr('mtjax.data.sampler._TABULATED', 0)
  assert (Permutation(1000, 3, 1)(np.arange(1000)) == tabulated).all()


def test_permutation_depends_on_seed_and_epoch_and_mixes():
  one, other, third = (Permutation(5000, *key)(np.arange(5000)) for key in ((0, 0), (0, 1), (1, 0)))
  assert (one == other).mean() < 0.01 and (one == third).mean() < 0.01
  assert abs(np.corrcoef(one, np.arange(5000))[0, 1]) < 0.05
  assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.05


@given(
  sizes=st.lists(st.integers(1, 50), min_size=1, max_size=4),
  weights=st.lists(st.floats(0.1, 10), min_size=4, max_size=4),
  cuts=st.lists(st.integers(0, 999), max_size=5),
)
@settings(max_examples=40, deadline=None)
def test_any_position_can_be_computed_at_once(sizes, weights, cuts):
  p = rates(sizes, weights=weights[: len(sizes)])
  sampler = BlockSampler(sizes, p, block_size=512, seed=7)
  whole = np.stack(sampler(np.arange(1000)))
  bounds = [0, *sorted(cuts), 1000]
  parts = [np.stack(BlockSampler(sizes, p, block_size=512, seed=7)(np.arange(a, b))) for a, b in zip(bounds, bounds[1:])]
  np.testing.assert_array_equal(whole, np.concatenate(parts, axis=1))


def test_each_epoch_of_a_source_has_each_row_once_in_a_new_order():
  source, row = BlockSampler([10, 30], [0.25, 0.75], block_size=8, seed=0)(np.arange(800))
  for i, size in enumerate((10, 30)):
    rows = row[source == i]
    epochs = [rows[e * size : (e + 1) * size] for e in range(len(rows) // size)]
    assert all(sorted(epoch.tolist()) == list(range(size)) for epoch in epochs)
    assert not (epochs[0] == epochs[1]).all()


def test_every_block_holds_the_promised_shares_in_another_order():
  source, _ = BlockSampler([100, 100, 100], [0.5, 0.3, 0.2], block_size=10, seed=1)(np.arange(50))
  blocks = source.reshape(5, 10)
  assert all(np.bincount(block).tolist() == [5, 3, 2] for block in blocks)
  assert len({tuple(block) for block in blocks.tolist()}) > 1


def test_rates_of_the_literature():
  # By hand: caps of (100, 1000, 50000) at 1000 are (100, 1000, 1000), sum 2100.
  np.testing.assert_allclose(rates([100, 1000, 50000], maximum=1000), [1 / 21, 10 / 21, 10 / 21])
  # Square roots: 10, 31.62, 223.61, sum 265.23.
  np.testing.assert_allclose(rates([100, 1000, 50000], temperature=2), [0.0377, 0.1192, 0.8431], atol=1e-4)
  np.testing.assert_allclose(rates([900, 100], temperature=2), [0.75, 0.25])
  np.testing.assert_allclose(rates([900, 100], temperature=1e9), [0.5, 0.5], atol=1e-6)
  np.testing.assert_allclose(rates([10, 20], weights=[3, 1]), [0.75, 0.25])


@pytest.mark.parametrize('weights', [[1, 0], [1, -1], [1, np.nan], [np.inf, 1]])
def test_weights_that_are_not_positive_numbers_are_refused(weights):
  with pytest.raises(ValueError, match='must be finite and > 0.*To leave a source out, remove it'):
    rates([5, 5], weights=weights)


def test_errors_name_what_came():
  with pytest.raises(ValueError, match='2 sources need as many weights, got 1'):
    rates([5, 5], weights=[1])
  with pytest.raises(ValueError, match='temperature must be > 0, got 0'):
    rates([5, 5], temperature=0)
  with pytest.raises(ValueError, match='at least one row'):
    BlockSampler([5, 0])
  with pytest.raises(ValueError, match=r'Sources \[1\] have shares below 1/4.*block_size to at least 100'):
    BlockSampler([5, 5], [0.99, 0.01], block_size=4)
