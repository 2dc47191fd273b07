"""Pareto fronts, continual and transfer matrices, task groups, factor splits, statistics over tasks."""
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from studies.scores import frame, rows

from mtjax.studies import across_tasks as over
from mtjax.studies import continual
from mtjax.studies.factor_splits import cg_gain, factor_splits, minimal_covers
from mtjax.studies.pareto import hypervolume, non_dominated, pareto
from mtjax.studies.transfer import cluster_order, gains, task_groups, transfer_matrix

SEEDS = st.integers(0, 2 ** 31)


# --- Pareto

def test_hypervolume_of_the_card():
  assert hypervolume([[1, 2], [2, 1]], [3, 3]) == 3
  assert hypervolume([[1, 2], [2, 1], [2, 2]], [3, 3]) == 3  # a dominated point changes nothing
  assert hypervolume([[1, 2], [2, 1], [1, 2]], [3, 3]) == 3  # nor does a duplicate
  assert hypervolume([[-1, -2], [-2, -1]], [-3, -3], higher=True) == 3
  assert hypervolume([[1, -2], [2, -1]], [3, -3], higher=[False, True]) == 3
  assert hypervolume([[0, 4], [3, 0]], [3, 3]) == 0  # not better than the reference in both


def test_hypervolume_in_three():
  assert hypervolume([[1, 1, 1]], [2, 3, 4]) == 6
  # 2 x 2 x 1 boxes from (0, 0, 1) and (1, 1, 0) to (2, 2, 2): 4 x 1 + 1 x 2 - overlap 1 x 1
  assert hypervolume([[0, 0, 1], [1, 1, 0]], [2, 2, 2]) == 5


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 3), st.integers(0, 7), SEEDS)
def test_hypervolume_by_counting_cells(objectives, num, seed):
  points = np.random.default_rng(seed).integers(0, 6, (num, objectives)).astype(float).reshape(num, objectives)
  cells = np.array(list(itertools.product(range(5), repeat=objectives)))  # unit cells below the reference 5, …, 5
  counted = sum(bool((points <= cell).all(1).any()) for cell in cells)
  assert hypervolume(points, [5] * objectives) == counted
  front = points[non_dominated(points)] if num else points
  assert hypervolume(front, [5] * objectives) == counted


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), st.integers(1, 4), SEEDS)
def test_front_by_a_slow_loop(num, objectives, seed):
  points = np.random.default_rng(seed).integers(0, 4, (num, objectives))
  slow = [not any(all(q <= p for q, p in zip(other, own)) and any(q < p for q, p in zip(other, own)) for other in points) for own in points]
  assert non_dominated(points).tolist() == slow
  assert non_dominated(-points, higher=True).tolist() == slow
  assert any(slow)


def test_duplicates_are_mutually_non_dominated():
  assert non_dominated([[1, 1], [1, 1], [2, 1]]).tolist() == [True, True, False]


def test_pareto_of_a_frame():
  x, y = ('left', 'accuracy'), ('right', 'mse')
  table = frame(*(rows(arm, [a, a], ) for arm, a in [('p', 0.9), ('q', 0.7), ('r', 0.6)]),
                *(rows(arm, [b, b], task='right', metric='mse', higher=False) for arm, b in [('p', 3.0), ('q', 1.0), ('r', 2.0)]))
  assert pareto(table, x, y) == {'q': (0.7, 1.0), 'p': (0.9, 3.0)}
  with pytest.raises(ValueError, match='no left/f1'):
    pareto(table, ('left', 'f1'), y)


def test_pareto_refuses():
  with pytest.raises(ValueError, match='2 or 3 objectives, got 4'):
    hypervolume(np.zeros((1, 4)), np.ones(4))
  with pytest.raises(ValueError, match='reference must be 2 finite'):
    hypervolume([[1, 2]], [3])
  with pytest.raises(ValueError, match='points must be finite'):
    non_dominated([[1, math.nan]])


# --- continual

CARD = np.array([[0.9, 0.2], [0.6, 0.8]])


def test_continual_of_the_card():
  assert continual.accuracy(CARD) == pytest.approx(0.7)
  assert continual.backward_transfer(CARD) == pytest.approx(-0.3)
  assert continual.forgetting(CARD) == pytest.approx(0.3)
  assert continual.forward_transfer(CARD, [0.5, 0.1]) == pytest.approx(0.1)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 5), SEEDS)
def test_continual_by_a_slow_loop(num, seed):
  rng = np.random.default_rng(seed)
  both, b = rng.random((2, num, num)), rng.random(num)
  for r, *found in zip(both, continual.accuracy(both), continual.backward_transfer(both), continual.forgetting(both), continual.forward_transfer(both, b)):
    slow = [sum(r[num - 1][j] for j in range(num)) / num, sum(r[num - 1][j] - r[j][j] for j in range(num - 1)) / (num - 1),
            sum(max(r[i][j] for i in range(num - 1)) - r[num - 1][j] for j in range(num - 1)) / (num - 1),
            sum(r[j - 1][j] - b[j] for j in range(1, num)) / (num - 1)]
    np.testing.assert_allclose(found, slow, rtol=0, atol=1e-12)  # float64 sums in another order
    assert found[2] >= -found[1] - 1e-12  # the best is at least what it was when learnt


def test_continual_without_the_upper_triangle():
  r = np.array([[0.9, math.nan], [0.6, 0.8]])
  assert continual.forgetting(r) == pytest.approx(0.3) and math.isnan(continual.forward_transfer(r, [0, 0.1]))
  assert continual.accuracy([[0.5]]) == 0.5
  for wrong in ([[0.5]], [0.5, 0.6], [[0.1, 0.2]]):
    with pytest.raises(ValueError, match='scores must be'):
      continual.forgetting(wrong)
  with pytest.raises(ValueError, match='untrained must have 2 tasks'):
    continual.forward_transfer(CARD, [0.1])


# --- transfer and groups

def test_gains():
  found = gains([[9.0, 0.75], [0.5, 9.0]], [0.25, 0.5], [True, False])
  assert found.tolist() == [[0, -0.25], [0.25, 0]]  # the diagonal is 0 by definition


def test_transfer_matrix_pairs_seeds():
  table = frame(rows('alone', [0.5, 0.7], task='x'), rows('alone', [2.0, 3.0], task='y', metric='mse', higher=False),
                rows('with x', [1.0, 2.5], task='y', metric='mse', higher=False), rows('with x', [0.9], task='x'), rows('with y', {1: 0.6, 0: 0.5}, task='x'))
  found = transfer_matrix(table, 'alone', {'x': 'with x', 'y': 'with y'})
  assert found.tasks == ('x', 'y')
  np.testing.assert_allclose(found.gain, [[0, 0.75], [-0.05, 0]], atol=1e-12)
  np.testing.assert_allclose(found.asymmetry, [[0, 0.8], [-0.8, 0]], atol=1e-12)
  half = stats.t.ppf(0.975, 1) * 0.25
  np.testing.assert_allclose((found.low[0, 1], found.high[0, 1]), (0.75 - half, 0.75 + half))
  with pytest.raises(ValueError, match="no score of task 'z'"):
    transfer_matrix(table, 'alone', {'z': 'with x'})
  gap = transfer_matrix(table, 'alone', {'x': 'with y', 'y': 'with y'})
  assert math.isnan(gap.gain[0, 1]) and gap.gain[1, 0] == pytest.approx(-0.05)


def test_cluster_order_puts_friends_together():
  gain = np.full((4, 4), -1.0)
  gain[0, 2] = gain[2, 0] = gain[1, 3] = gain[3, 1] = 1.0
  order = cluster_order(gain)
  assert sorted(order) == [0, 1, 2, 3] and {frozenset(order[:2]), frozenset(order[2:])} == {frozenset({0, 2}), frozenset({1, 3})}
  assert cluster_order(np.zeros((2, 2))) == [0, 1]


def partitions(items):
  """Every partition of a list."""
  if not items:
    yield []
    return
  for rest in partitions(items[1:]):
    yield [[items[0]], *rest]
    for k in range(len(rest)):
      yield [*rest[:k], [items[0], *rest[k]], *rest[k + 1:]]


def mean_to(z, group, j, include_self):
  own = [z[i, j] for i in group if include_self or i != j or len(group) == 1]
  return sum(own) / len(own)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 5), st.booleans(), SEEDS)
def test_groups_by_enumeration(num, budget, include_self, seed):
  z = np.random.default_rng(seed).normal(size=(num, num))
  value = lambda parts: sum(mean_to(z, group, j, include_self) for group in parts for j in group)
  best = max(value(parts) for parts in partitions(list(range(num))) if len(parts) <= budget)
  found = task_groups(z, budget, include_self=include_self)
  assert len(found) <= budget and sorted(j for _, served in found for j in served) == list(range(num))
  assert value([served for _, served in found]) == pytest.approx(best) and all(group == served for group, served in found)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(1, 3), SEEDS)
def test_overlapping_groups_by_enumeration(num, budget, seed):
  z = np.random.default_rng(seed).normal(size=(num, num))
  subsets = [s for k in range(1, num + 1) for s in itertools.combinations(range(num), k)]
  best = -math.inf
  for chosen in itertools.combinations(subsets, min(budget, len(subsets))):
    if set().union(*chosen) == set(range(num)):
      best = max(best, sum(max(mean_to(z, g, j, True) for g in chosen if j in g) for j in range(num)))
  found = task_groups(z, budget, overlap=True)
  assert all(set(served) <= set(group) for group, served in found)
  assert sum(mean_to(z, group, j, True) for group, served in found for j in served) == pytest.approx(best)


def test_groups_refuse():
  for wrong, message in [((np.zeros((2, 3)), 1), 'affinity must be'), ((np.zeros((13, 13)), 1), 'up to T = 12'), ((np.zeros((2, 2)), 0), 'budget must be')]:
    with pytest.raises(ValueError, match=message):
      task_groups(*wrong)


# --- factor splits

FACTORS = ['modality', 'area', 'task']
GRID = [dict(zip(FACTORS, key)) for key in itertools.product('abc', 'xyz', '123')]
TABLE = [row for i, row in enumerate(GRID) for _ in range(1 + i % 4)]  # unequal sizes


@settings(deadline=None, max_examples=15)
@given(SEEDS, st.sampled_from([1, 3]), st.integers(0, 15))
def test_splits_hold_out_the_combination(seed, covers, dropped):
  table = [row for row in TABLE if row != GRID[dropped]]
  for split in factor_splits(table, FACTORS, covers=covers, seed=seed):
    key = lambda i: tuple(table[i][name] for name in FACTORS)
    assert split.target not in split.related  # never the full target
    assert all(any(other[f] == split.target[f] for other in split.related) for f in range(3))  # together they cover it
    assert not any(set(zip(FACTORS, other)) & set(zip(FACTORS, split.target)) for other in split.unrelated)  # no shared element
    assert len(split.related_rows) == len(split.unrelated_rows) > 0  # within ±1, and exactly
    assert {key(i) for i in split.target_rows} == {split.target}
    assert {key(i) for i in split.related_rows} == set(split.related) and {key(i) for i in split.unrelated_rows} <= set(split.unrelated)
    assert len(set(split.related_rows)) == len(split.related_rows)


def test_covers_are_smallest_and_all():
  target = ('a', 'x', '1')
  keys = [tuple(row.values()) for row in GRID]
  found = list(minimal_covers(target, keys))
  others = [key for key in keys if key != target]
  slow = [pair for pair in itertools.combinations(others, 2) if all(any(o[f] == target[f] for o in pair) for f in range(3))]
  assert {frozenset(pair) for pair in found} == {frozenset(pair) for pair in slow} and len(found) == len(slow)
  thin = [target, ('a', 'y', '2'), ('b', 'x', '3'), ('c', 'z', '1')]
  assert list(minimal_covers(target, thin)) == [tuple(thin[1:])]  # three where two do not do
  assert list(minimal_covers(target, thin[:3])) == []


def test_splits_by_seed_columns_and_errors():
  columns = {name: [row[name] for row in TABLE] for name in FACTORS}
  same = [factor_splits(t, FACTORS, seed=3) for t in (TABLE, columns)]
  assert all(a.related == b.related and np.array_equal(a.unrelated_rows, b.unrelated_rows) for a, b in zip(*same))
  assert len(same[0]) == 27
  assert all(len(split.related_rows) <= 2 for split in factor_splits(TABLE, FACTORS, rows=2))
  with pytest.raises(ValueError, match="no factor 'organ'"):
    factor_splits(TABLE, ['modality', 'organ'])
  with pytest.raises(ValueError, match='at least two different'):
    factor_splits(TABLE, ['area'])
  with pytest.raises(ValueError, match='too small or too empty'):
    factor_splits([{'a': 1, 'b': 1}, {'a': 1, 'b': 2}], ['a', 'b'])


def test_cg_gain():
  found = cg_gain([0.8, 0.7, 0.9, 0.8], [0.6, 0.6, 0.6, 0.6], chance=0.5)
  assert found.value == pytest.approx(0.4) and found.values == pytest.approx((0.4, 0.2, 0.6, 0.4))  # by what is left above chance
  assert found.interval[0] < 0.4 < found.interval[1] and found == cg_gain([0.8, 0.7, 0.9, 0.8], [0.6] * 4, chance=0.5)
  assert cg_gain([0.5, 0.6], [0.5, 0.6]).interval == (0, 0)
  with pytest.raises(ValueError, match='chance must be'):
    cg_gain([0.5], [0.5], chance=1.0)
  with pytest.raises(ValueError, match='alike'):
    cg_gain([0.5], [0.5, 0.6])


# --- over tasks

def test_iqm_of_the_card():
  assert over.iqm(np.arange(4.0).reshape(2, 2)) == 1.5
  assert over.iqm(np.arange(8.0).reshape(4, 2)) == 3.5


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 5), SEEDS)
def test_over_tasks_by_reference(runs, tasks, seed):
  rng = np.random.default_rng(seed)
  x, y = rng.integers(0, 5, (2, runs, tasks)) / 4
  assert over.iqm(x) == pytest.approx(stats.trim_mean(x.ravel(), 0.25))
  assert over.optimality_gap(x, 0.5) == pytest.approx(0.5 - sum(min(v, 0.5) for v in x.ravel()) / x.size)
  taus = [-1, 0, 0.3, 0.5, 1]
  assert over.performance_profile(x, taus).tolist() == pytest.approx([sum(v > t for v in x.ravel()) / x.size for t in taus])
  slow = sum((a > b) + 0.5 * (a == b) for m in range(tasks) for a in x[:, m] for b in y[:, m]) / (runs * runs * tasks)
  assert over.probability_of_improvement(x, y) == pytest.approx(slow)
  assert over.probability_of_improvement(x, y) + over.probability_of_improvement(y, x) == pytest.approx(1)
  for statistic in (over.iqm, over.median, over.mean, over.optimality_gap):  # leading axes stay
    np.testing.assert_allclose(statistic(np.stack([x, y])), [statistic(x), statistic(y)])
  np.testing.assert_allclose(over.performance_profile(np.stack([x, y]), taus)[1], over.performance_profile(y, taus))


def test_limits_over_tasks():
  x = np.array([[0.2, 0.4], [0.3, 0.5]])
  assert over.optimality_gap(x + 2) == 0 and over.probability_of_improvement(x + 1, x) == 1 and over.probability_of_improvement(x, x) == 0.5
  found = over.improvement(np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]), np.zeros((3, 2)))
  assert found.value == 1 and found.interval == (1, 1) and found.n == 3
  band = over.profile_band(np.random.default_rng(0).normal(size=(6, 3)), [-9, 0, 9], draws=500)
  assert band[:, 0].tolist() == [1, 1] and band[:, 2].tolist() == [0, 0] and band[0, 1] < band[1, 1]
  with pytest.raises(ValueError, match='same tasks'):
    over.probability_of_improvement(np.zeros((2, 2)), np.zeros((2, 3)))
  with pytest.raises(ValueError, match='paired runs'):
    over.improvement(np.zeros((2, 2)), np.zeros((3, 2)))


def test_over_tasks_of_a_frame():
  table = frame(*(rows(arm, values, task=task) for arm, shift in [('a', 0.0), ('b', 1.0)] for task, values in [('x', [0 + shift, 1 + shift]), ('y', [2 + shift, 3 + shift])]))
  found = over.across_tasks(table)
  assert {arm: own.value for arm, own in found.items()} == {'a': 1.5, 'b': 2.5} and found['a'].n == 2
  assert found == over.across_tasks(table)  # the generator has a seed
  with pytest.raises(ValueError, match='more is better in all'):
    over.across_tasks(frame(rows('a', [1.0], higher=False)))
