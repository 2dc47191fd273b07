"""What scores come to: delta_m, ranks, normalisation, tags, levels, retention; by hand, by property, by a slow loop."""
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from studies.scores import frame, rows

from mtjax.studies.aggregates import bounds, by_tag, cube, mean_rank, normalised, ranks, retention, three_level_report
from mtjax.studies.delta_m import delta_m, delta_m_values, relative_change

A, B = ('A', 'one'), ('A', 'two')
CARD = dict(values=[93, 99, 0.5], baseline=[96, 98, 0.2], higher=[True] * 3, tasks=['A', 'A', 'B'])


def test_delta_m_of_the_card():
  assert delta_m_values(**CARD) == pytest.approx(100 * ((-0.03125 + 1 / 98) / 2 + 1.5) / 2)
  assert round(float(delta_m_values(**CARD)), 2) == 74.47
  flat = delta_m_values(**CARD, within_task_first=False)
  assert flat == pytest.approx(100 * (-0.03125 + 1 / 98 + 1.5) / 3)  # 49.3: the convention matters


def test_equal_scores_change_nothing():
  for first in (True, False):
    assert delta_m_values([93, 99, 0.5], [93, 99, 0.5], CARD['higher'], CARD['tasks'], first) == 0


def test_direction_and_sign_of_the_baseline():
  assert relative_change([0.5], [1.0], [False]) == [0.5]  # half the loss is 50 % better
  assert relative_change([-1.0], [-2.0], [True]) == [0.5]  # -1 is better than -2, by half of |-2|
  assert relative_change([-1.0], [-2.0], [False]) == [-0.5]


@pytest.mark.parametrize('baseline', [0.0, 1e-9, -1e-9])
def test_a_baseline_near_zero_is_refused(baseline):
  with pytest.raises(ValueError, match='metric 1 is .*within 1e-08 of 0'):
    relative_change([1.0, 1.0], [1.0, baseline], [True, True])
  assert relative_change([1.0], [1e-9], [True], epsilon=1e-12) > 0


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2 ** 31))
def test_delta_m_by_a_slow_loop(num_tasks, seeds, seed):
  rng = np.random.default_rng(seed)
  tasks = [t for t in range(num_tasks) for _ in range(rng.integers(1, 4))]
  values, base = rng.normal(size=(2, seeds, len(tasks))) + np.array([[[0.0]], [[3.0]]])
  base = np.where(np.abs(base) < 0.1, 0.1, base)
  higher = rng.random(len(tasks)) < 0.5
  for s in range(seeds):
    per_task = {}
    for m, task in enumerate(tasks):
      per_task.setdefault(task, []).append((1 if higher[m] else -1) * (values[s, m] - base[s, m]) / abs(base[s, m]))
    first = 100 * sum(sum(own) / len(own) for own in per_task.values()) / num_tasks
    flat = 100 * sum(x for own in per_task.values() for x in own) / len(tasks)
    # float64 sums of a dozen terms in another order
    assert delta_m_values(values, base, higher, tasks)[s] == pytest.approx(first, rel=1e-9, abs=1e-9)
    assert delta_m_values(values, base, higher, tasks, False)[s] == pytest.approx(flat, rel=1e-9, abs=1e-9)
  scale = rng.uniform(0.1, 10, len(tasks))  # units do not matter
  np.testing.assert_allclose(delta_m_values(values * scale, base * scale, higher, tasks), delta_m_values(values, base, higher, tasks), rtol=1e-9, atol=1e-9)
  if len(tasks) == num_tasks:  # one metric a task: the conventions agree
    np.testing.assert_allclose(delta_m_values(values, base, higher, tasks), delta_m_values(values, base, higher, tasks, False), rtol=1e-9, atol=1e-9)


def two_arms():
  return frame(rows('single', [0.8, 0.9, 1.0]), rows('joint', {2: 1.1, 1: 0.9, 0: 0.84}), rows('single', [2.0, 1.0, 4.0], task='right', metric='mse', higher=False),
               rows('joint', [1.0, 1.0, 5.0], task='right', metric='mse', higher=False))


def test_delta_m_keeps_seed_pairs():
  found = delta_m(two_arms(), 'single')
  assert list(found) == ['joint']
  # seeds: (.05 + .5) / 2, (0 + 0) / 2, (.1 - .25) / 2, whatever the order of the rows
  assert found['joint'].values == pytest.approx((27.5, 0.0, -7.5))
  assert found['joint'].value == pytest.approx(20 / 3) and found['joint'].n == 3
  half = stats.t.ppf(0.975, 2) * np.std([27.5, 0.0, -7.5], ddof=1) / math.sqrt(3)
  assert found['joint'].interval == pytest.approx((20 / 3 - half, 20 / 3 + half))


def test_delta_m_against_given_values():
  found = delta_m(two_arms(), {('left', 'accuracy'): 1.0, ('right', 'mse'): 1.0})
  assert found['single'].values == pytest.approx(tuple(100 * (a + b) / 2 for a, b in [(-0.2, -1), (-0.1, 0), (0.0, -3)]))


def test_a_baseline_of_few_seeds_is_warned_of(caplog):
  delta_m(two_arms(), 'single')
  assert not caplog.records
  delta_m(two_arms().where(seed=[0, 1]), 'single')
  assert "'joint': the baseline 'single' has 2 seed(s)" in caplog.text


def test_delta_m_names_what_is_missing():
  with pytest.raises(ValueError, match='no value of right/mse'):
    delta_m(two_arms(), {('left', 'accuracy'): 1.0})
  with pytest.raises(ValueError, match='share no seed'):
    delta_m(frame(rows('a', {0: 1.0}), rows('b', {1: 1.0})), 'a')
  assert delta_m(frame(rows('a', {0: 1.0}), rows('b', {0: 1.1})), 'a')['b'].interval is None  # one pair says nothing of spread


def test_ranks_by_hand():
  # metric 1 (higher): a 1, b and c share 2 and 3; metric 2 (lower): c 1, a 2, b 3
  assert ranks([[0.9, 2.0], [0.5, 3.0], [0.5, 1.0]], [True, False]).tolist() == [1.5, 2.75, 1.75]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(0, 2 ** 31))
def test_ranks_sum_and_invariance(arms, metrics, seed):
  values = np.random.default_rng(seed).integers(0, 3, (arms, metrics)).astype(float)
  found = ranks(values, [True] * metrics)
  assert found.sum() == pytest.approx(arms * (arms + 1) / 2)
  np.testing.assert_array_equal(ranks(np.exp(values), [True] * metrics), found)  # monotone
  np.testing.assert_allclose(ranks(values, [True] * metrics) + ranks(values, [False] * metrics), arms + 1)


def test_mean_rank_of_a_frame_and_an_added_arm():
  table = frame(rows('a', [3.0, 3.0]), rows('b', [2.0, 4.0]))
  assert {arm: found.value for arm, found in mean_rank(table).items()} == {'a': 1.5, 'b': 1.5}
  more = table + frame(rows('c', [2.5, 2.5]))  # seed 0: a c b, seed 1: b a c
  assert {arm: found.value for arm, found in mean_rank(more).items()} == {'a': 1.5, 'b': 2.0, 'c': 2.5}


def test_cube_refuses_holes():
  with pytest.raises(ValueError, match="Arm 'b' has no right/accuracy"):
    cube(frame(rows('a', [1.0]), rows('a', [1.0], task='right'), rows('b', [1.0])))
  with pytest.raises(ValueError, match='No seed has scores of all arms'):
    cube(frame(rows('a', {0: 1.0}), rows('b', {1: 1.0})))
  with pytest.raises(ValueError, match="no scores on split 'train'"):
    cube(frame(rows('a', [1.0])), 'train')


def test_normalised_puts_the_worst_arm_at_zero_and_the_ideal_at_one():
  table = frame(rows('a', [0.5, 0.7]), rows('b', [0.9, 0.9]), rows('a', [4.0, 4.0], task='right', metric='mse', higher=False),
                rows('b', [1.0, 3.0], task='right', metric='mse', higher=False))
  ideal = {('left', 'accuracy'): 1.0, ('right', 'mse'): 0.0}
  found = normalised(table, hi=ideal)
  left, right = (found.where(task=task) for task in ('left', 'right'))
  assert [row.value for row in left] == pytest.approx([-0.25, 0.25, 0.75, 0.75])  # lo = .6, the worst arm's mean
  assert [row.value for row in right] == pytest.approx([0.0, 0.0, 0.75, 0.25])
  assert all(row.higher_is_better for row in found)
  for task in ('left', 'right'):
    means = [np.mean([row.value for row in found.where(task=task, arm=arm)]) for arm in 'ab']
    assert min(means) == pytest.approx(0, abs=1e-15)  # the worst model is 0 in each column
  shifted = normalised(frame(*([{**vars(row), 'value': row.value + 5} for row in table],)), hi={key: value + 5 for key, value in ideal.items()})
  assert [row.value for row in shifted] == pytest.approx([row.value for row in found])  # a constant added to all changes nothing
  worst, best = bounds(table)
  assert worst == pytest.approx({('left', 'accuracy'): 0.6, ('right', 'mse'): 4.0}) and best == pytest.approx({('left', 'accuracy'): 0.9, ('right', 'mse'): 2.0})


def test_normalised_refuses_bounds_that_say_nothing():
  table = frame(rows('a', [0.5]), rows('b', [0.5]))
  key = ('left', 'accuracy')
  with pytest.raises(ValueError, match='are both 0.5'):
    normalised(table)
  with pytest.raises(ValueError, match='hi of left/accuracy must be the better bound'):
    normalised(table, {key: 1.0}, {key: 0.0})
  with pytest.raises(ValueError, match='lo has no bound of left/accuracy'):
    normalised(table, {}, {key: 1.0})


def test_tags_and_levels():
  table = frame(*(rows('a', [x, x + 0.2], task=task) for task, x in [('cat', 0.2), ('dog', 0.4), ('car', 0.6), ('bus', 0.8)]), rows('a', [0.0, 0.0], task='cat', metric='f1'))
  found = by_tag(table, {'cat': 'animal', 'dog': ['animal', 'pet'], 'car': 'vehicle'})
  # cat first over its own metrics: .1 and .2; then (.1 + .4) / 2 and (.2 + .6) / 2
  assert found['animal']['a'].values == pytest.approx((0.25, 0.4)) and found['pet']['a'].values == pytest.approx((0.4, 0.6))
  category = {'cat': 'animal', 'dog': 'animal', 'car': 'vehicle', 'bus': 'vehicle'}
  levels = three_level_report(table, category, trained=['cat'])
  assert {level: own['a'].values for level, own in levels.items()} == {
    'instances': pytest.approx((0.1, 0.2)), 'tasks': pytest.approx((0.4, 0.6)), 'categories': pytest.approx((0.7, 0.9))}
  assert list(three_level_report(table, category, trained=['cat', 'car'])) == ['instances', 'tasks']
  with pytest.raises(ValueError, match="no entry of task 'dog'"):
    three_level_report(table, {'cat': 'animal'}, ['cat'])
  with pytest.raises(ValueError, match="names task 'cow'"):
    by_tag(table, {'cow': 'animal'})
  with pytest.raises(ValueError, match="'x' mixes metrics"):
    by_tag(two_arms(), {'left': 'x', 'right': 'x'})


def test_retention():
  found = retention(two_arms(), 'single')['joint']
  assert found['left', 'accuracy'].values == pytest.approx((1.05, 1.0, 1.1)) and found['right', 'mse'].values == pytest.approx((0.5, 1.0, 1.25))
  with pytest.raises(ValueError, match='left/accuracy is within'):
    retention(frame(rows('a', [0.0]), rows('b', [1.0])), 'a')
