"""Claims: what they compare, and when they hold."""
import numpy as np
import pytest

from mtjax.studies import verdict
from mtjax.studies.score_frame import ScoreFrame
from mtjax.studies.verdict import all_of, best_arm, better, claims_of, measured, not_worse, per_task, summary, table

SEEDS = 8


def frame(**arms):
  """{arm: {(task, metric): [values]}} -> ScoreFrame; 'loss' is lower-better."""
  rows = []
  for arm, columns in arms.items():
    for (task, metric), values in columns.items():
      rows += [dict(run=f'{arm}/{seed}', arm=arm, seed=seed, task=task, split='test', step=9, metric=metric, selection='last',
                    value=float(value), higher_is_better=metric != 'loss') for seed, value in enumerate(values)]
  return ScoreFrame.from_rows(rows)


def noisy(mean, scale=0.01, seed=0):
  return mean + scale * np.random.default_rng(seed).normal(size=SEEDS)


BOTH = frame(
  joint={('left', 'accuracy'): noisy(0.95), ('left', 'loss'): noisy(0.2), ('right', 'accuracy'): noisy(0.90, seed=1)},
  single={('left', 'accuracy'): noisy(0.93, seed=2), ('left', 'loss'): noisy(0.3, seed=3), ('right', 'accuracy'): noisy(0.85, seed=4)})


def test_a_metric_names_columns():
  assert table(BOTH, 'joint', None).columns == [('left', 'accuracy'), ('right', 'accuracy')]
  assert table(BOTH, 'joint', 'accuracy').columns == table(BOTH, 'joint', None).columns
  assert table(BOTH, 'joint', 'left/loss').columns == table(BOTH, 'joint', 'eval/left/loss').columns == [('left', 'loss')]
  assert not table(BOTH, 'joint', 'left/loss').higher_is_better
  with pytest.raises(ValueError, match="'acuracy', which arm 'joint' has not. Did you mean 'accuracy'"):
    table(BOTH, 'joint', 'acuracy')


def test_directions_are_not_mixed():
  mixed = frame(a={('x', 'loss'): [1.0], ('y', 'accuracy'): [0.5]})
  with pytest.raises(ValueError, match="metric='delta_m'"):
    table(mixed, 'a', None)


def test_delta_m_by_hand():
  data = frame(new={('A', 'accuracy'): [0.6, 0.9], ('A', 'loss'): [1.0, 2.0], ('B', 'loss'): [0.5, 0.5]},
               base={('A', 'accuracy'): [0.5, 0.6], ('A', 'loss'): [2.0, 2.0], ('B', 'loss'): [1.0, 0.4]})
  first = table(data, 'new', 'delta_m', 'base')
  np.testing.assert_allclose(first.values, [[20, 50], [50, -25]])            # of A the accuracy, of B the loss
  whole = table(data, 'new', 'delta_m_all', 'base')
  np.testing.assert_allclose(whole.values, [[(20 + 50) / 2, 50], [25, -25]])  # within the task first
  assert first.higher_is_better and first.by_seed == pytest.approx({0: 35.0, 1: 12.5})
  with pytest.raises(ValueError, match='give the study a baseline'):
    table(data, 'new', 'delta_m')


def test_claims_hold_or_not_or_nothing_is_known():
  found = measured(BOTH, 'joint', 'single', 'accuracy', {})
  assert found.n == SEEDS and found.difference == pytest.approx(
    table(BOTH, 'joint', 'accuracy').values.mean() - table(BOTH, 'single', 'accuracy').values.mean())
  assert better('joint', 'single').holds(found) is True
  assert better('joint', 'single', margin=0.01).holds(found) is True
  assert better('joint', 'single', margin=0.2).holds(found) is False  # surely less than that
  assert better('single', 'joint').holds(measured(BOTH, 'single', 'joint', 'accuracy', {})) is False
  same = measured(frame(a={('x', 'accuracy'): noisy(0.5)}, b={('x', 'accuracy'): noisy(0.5, seed=9)}), 'a', 'b', None, {})
  assert better('a', 'b').holds(same) is None
  assert not_worse('a', 'b', margin=0.05).holds(same) is True
  assert not_worse('a', 'b', margin=1e-6).holds(same) is None
  assert not_worse('single', 'joint', margin=0.001).holds(measured(BOTH, 'single', 'joint', 'accuracy', {})) is False


def test_a_margin_is_towards_better_where_less_is_better():
  found = measured(BOTH, 'joint', 'single', 'left/loss', {})
  assert found.difference < 0
  assert better('joint', 'single', margin=0.05).holds(found) is True
  assert not_worse('joint', 'single', margin=0.05).holds(found) is True


def test_delta_m_of_a_pair_is_relative_to_the_one_that_is_the_baseline():
  found = measured(BOTH, 'joint', 'single', 'delta_m', {'joint': 'single'})
  expected = table(BOTH, 'joint', 'delta_m', 'single').values.mean()
  assert found.difference == pytest.approx(expected)
  back = measured(BOTH, 'single', 'joint', 'delta_m', {'joint': 'single'})
  assert back.difference == pytest.approx(-expected)


def test_a_claim_may_be_about_other_tasks():
  many = {(f't{i}', 'accuracy'): noisy(0.5 + 0.01 * i, seed=i) for i in range(6)}
  lifted = {column: values + (0.1 if column[0] in ('t0', 't1') else 0.0) for column, values in many.items()}
  data = frame(a=lifted, b=many)
  by_seed, by_task = (measured(data, 'a', 'b', None, {}, unit=unit) for unit in ('seed', 'task'))
  assert by_seed.n == SEEDS and by_task.n == 6 and by_task.unit == 'task'
  assert by_seed.difference == pytest.approx(by_task.difference) == pytest.approx(0.2 / 6)
  assert by_seed.verdict == 'better' and by_task.verdict == 'no evidence'  # two tasks of six carry it
  assert '6 tasks' in by_task.sentence
  with pytest.raises(ValueError, match="'unit'"):
    better('a', 'b', unit='item')


def test_per_task_with_holm_over_the_tasks():
  found = {result.task: result for result in per_task(BOTH, 'joint', 'single', 'accuracy')}
  assert set(found) == {'left', 'right'} and all(result.p_holm >= result.p for result in found.values())
  assert {result.metric for result in per_task(BOTH, 'joint', 'single', 'delta_m')} == {'accuracy'}


def test_the_best_is_better_than_every_other():
  values = {'a': dict(enumerate(noisy(0.9))), 'b': dict(enumerate(noisy(0.8, seed=1))), 'c': dict(enumerate(noisy(0.7, seed=2)))}
  assert best_arm(values, True) == 'a' and best_arm(values, False) == 'c'
  assert best_arm({**values, 'd': dict(enumerate(noisy(0.9, seed=3)))}, True) is None  # as good as another
  assert best_arm({'a': values['a']}, True) is None


def test_summary_has_both_intervals():
  found = summary(table(BOTH, 'joint', 'accuracy'))
  assert found['n'] == SEEDS and found['interval'][0] < found['mean'] < found['interval'][1]
  assert found['iqm_interval'][0] < found['iqm'] < found['iqm_interval'][1]
  assert list(found['values']) == [str(seed) for seed in range(SEEDS)]


def test_how_a_verdict_is_written():
  assert claims_of('a > b', ['a', 'b']) == [better('a', 'b')]
  assert claims_of(None, ['a', 'b', 'c']) == [better('a', 'b'), better('a', 'c')]
  assert claims_of(['a > b', not_worse('a', 'c', 1.0)], ['a', 'b', 'c']) == [better('a', 'b'), not_worse('a', 'c', 1.0)]
  assert claims_of(lambda frame: True, ['a']) == []
  assert claims_of('better', ['a', 'b']) == claims_of(('a', 'b'), ['a', 'b']) == [better('a', 'b')]
  for wrong in ('a < b', 'a >', 'a > b > c'):
    with pytest.raises(ValueError, match="'a > b'"):
      claims_of(wrong, ['a', 'b'])
  with pytest.raises(ValueError, match='twice'):
    better('a', 'a')
  with pytest.raises(ValueError, match='margin'):
    not_worse('a', 'b', margin=0.0)
  with pytest.raises(ValueError, match='level'):
    better('a', 'b', level=95)


def test_all_of():
  assert all_of([True, True]) is True and all_of([True, None]) is None and all_of([None, False]) is False
  assert all_of([]) is None


def test_arms_without_a_common_seed_are_refused():
  data = frame(a={('x', 'accuracy'): [0.5]})
  other = frame(b={('x', 'accuracy'): [0.5, 0.6]}).where(seed=1)
  with pytest.raises(ValueError, match='share no seed'):
    measured(data + other, 'a', 'b', None, {})
  assert verdict.CHOSEN == '(chosen)'
