"""The table of scores: columns, disk, a run's folder, choosing steps."""
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from studies.scores import frame, rows

from mtjax.studies.score_frame import COLUMNS, ScoreFrame, by_seed, directions, merge
from mtjax.studies.selection import best_step, select
from mtjax.training.writers import MetricWriter

ROW = rows('a', [0.5])[0]


def test_columns_are_those_of_the_design():
  assert COLUMNS == ('run', 'arm', 'seed', 'task', 'split', 'step', 'metric', 'value', 'n', 'higher_is_better', 'selection', 'wall_s', 'params')


@pytest.mark.parametrize('change, message', [
  ({'split': 'dev'}, "'split'.*'dev'"), ({'seed': -1}, "'seed'.*-1"), ({'seed': 1.0}, "'seed'"), ({'step': True}, "'step'"), ({'value': '0.5'}, "'value'"),
  ({'value': None}, "'value'"), ({'higher_is_better': 1}, "'higher_is_better'"), ({'arm': ''}, "'arm'"), ({'n': 1.5}, "'n'"), ({'wall_s': 'x'}, "'wall_s'"),
  ({'metirc': 'x'}, "unknown column 'metirc'.*'?metric'?")])
def test_wrong_columns_are_named(change, message):
  with pytest.raises(ValueError, match=f'row 0: .*{message}'):
    ScoreFrame.from_rows([{**ROW, **change}])


def test_missing_columns_are_named():
  for name in ('run', 'arm', 'seed', 'task', 'split', 'step', 'metric', 'value', 'higher_is_better'):
    with pytest.raises(ValueError, match=f"no column '{name}'"):
      ScoreFrame.from_rows([{key: value for key, value in ROW.items() if key != name}])


def test_a_row_twice_is_an_error_in_a_table_and_counts_once_in_a_merge():
  one = frame([ROW])
  with pytest.raises(ValueError, match="Two rows for run 'a-0'.*0.5 and 0.6"):
    ScoreFrame.from_rows([ROW, {**ROW, 'value': 0.6}])
  assert one + one == one
  nan = frame([{**ROW, 'value': math.nan}])
  assert len(nan + nan) == 1  # NaN is the same score as NaN
  with pytest.raises(ValueError, match='Two rows'):
    one + frame([{**ROW, 'value': 0.6}])
  assert len(merge([one, frame(rows('b', [1.0, 2.0])), one])) == 3


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(), st.none() | st.integers(0, 10), st.none() | st.floats(0)), max_size=5))
def test_disk_keeps_all(tmp_path_factory, cells):
  table = ScoreFrame.from_rows({**ROW, 'seed': i, 'value': v, 'n': n, 'wall_s': w} for i, (v, n, w) in enumerate(cells))
  path = tmp_path_factory.mktemp('frame') / 'scores.jsonl'
  table.write(path)
  for line in path.read_text().splitlines():
    json.loads(line, parse_constant=lambda name: pytest.fail(f'{name} is not strict JSON'))
  back = ScoreFrame.read(path)
  assert len(back) == len(table) and len(table + back) == len(table)


def test_reading_names_the_line(tmp_path):
  path = tmp_path / 'scores.jsonl'
  good = json.dumps(ROW)
  for bad, message in [('{', 'line 2 is not strict JSON'), (good.replace('0.5', 'NaN'), 'line 2 is not strict JSON: NaN'), ('[]', 'line 2 is not an object'),
                       (good.replace('"test"', '"dev"'), "line 2: Column 'split'")]:
    path.write_text(good + '\n' + bad + '\n')
    with pytest.raises(ValueError, match=message):
      ScoreFrame.read(path)


def test_where_and_unique():
  table = frame(rows('a', [1.0, 2.0]), rows('b', [3.0]))
  assert [row.value for row in table.where(arm='a', seed=[1, 5])] == [2.0]
  assert table.unique('arm') == ['a', 'b'] and len(table.where(arm='c')) == 0
  with pytest.raises(ValueError, match="Unknown column 'sed'.*seed"):
    table.where(sed=1)


def test_groups():
  table = frame(rows('a', [1.0, 2.0]), rows('b', [3.0]))
  assert table.groups('arm', 'seed') == {('a', 0): table.where(arm='a', seed=0), ('a', 1): table.where(arm='a', seed=1), ('b', 0): table.where(arm='b')}


def test_by_seed_refuses_what_would_mislead():
  table = frame(rows('a', [1.0, 2.0]))
  assert by_seed(table, 'a') == {('left', 'accuracy'): {0: 1.0, 1: 2.0}}
  with pytest.raises(ValueError, match="no arm 'b'"):
    by_seed(table, 'b')
  with pytest.raises(ValueError, match="no scores on split 'validation'"):
    by_seed(table, 'a', 'validation')
  with pytest.raises(ValueError, match='several scores.*choose a step'):
    by_seed(table + frame(rows('a', [1.0], step=5)), 'a')
  with pytest.raises(ValueError, match="different rules, 'last', 'per_task'"):  # the two never share a table
    by_seed(table + frame(rows('b', [1.0], selection='per_task')), 'a')
  with pytest.raises(ValueError, match='disagree on whether higher'):
    directions(table + frame(rows('b', [1.0], higher=False)))


@pytest.fixture
def workdir(tmp_path):
  folder = tmp_path / 'run-3'
  with MetricWriter(folder, tensorboard=False) as writer:
    writer.write(10, 'train', {'train/left/loss': 1.0, 'train/loss': 1.0})
    for step, split, value in [(10, 'validation', 0.5), (20, 'validation', 0.6), (20, 'validation', math.nan), (20, 'test', 0.7)]:
      writer.write(step, split, {'eval/loss': 2.0, 'eval/left/loss': 1.0, 'eval/left/n': 40, 'eval/left/accuracy': value, 'eval/right/mse': 3.0, 'eval/right/n': 8})
  (folder / 'config.json').write_text(json.dumps({'seed': 3, 'tasks': {'left': {}, 'right': {}}}))
  (folder / 'run.json').write_text(json.dumps({'status': 'finished', 'seconds': 4.5, 'parameters': 99}))
  return folder


def test_from_workdir(workdir):
  table = ScoreFrame.from_workdir(workdir, arm='joint')
  assert len(table) == 6  # two metrics at 10 and 20 on validation, 20 on test; the second line of a step counts
  row = table.where(split='test', task='left').rows[0]
  assert (row.run, row.arm, row.seed, row.step, row.metric, row.value, row.n, row.wall_s, row.params, row.selection) == (
    'run-3', 'joint', 3, 20, 'accuracy', 0.7, 40, 4.5, 99, '')
  assert row.higher_is_better and not table.where(task='right').rows[0].higher_is_better
  assert math.isnan(table.where(split='validation', step=20, task='left').rows[0].value)
  assert ScoreFrame.from_workdir(workdir, losses=True).where(task='left').unique('metric') == ['loss', 'accuracy']
  assert ScoreFrame.from_workdir(workdir, higher_is_better={'mse': True}).where(task='right').rows[0].higher_is_better
  assert [row.value for row in select(table, 'last').where(split='test')] == [0.7, 3.0]


def test_from_workdir_takes_directions_from_the_run(workdir):
  facts = json.loads((workdir / 'run.json').read_text())
  says = lambda direction: {'higher_is_better': direction, 'range': [None, None], 'primary': True, 'null_value': None}
  facts['metrics'] = {'left': {'accuracy': says(False)}, 'right': {'mse': says(None)}}
  (workdir / 'run.json').write_text(json.dumps(facts))
  table = ScoreFrame.from_workdir(workdir)
  assert table.unique('task') == ['left'] and not table.rows[0].higher_is_better


def test_from_workdir_refuses_half_a_run(workdir, tmp_path):
  with pytest.raises(ValueError, match='no metrics.jsonl'):
    ScoreFrame.from_workdir(tmp_path / 'nothing')
  (workdir / 'run.json').write_text(json.dumps({'status': 'failed'}))
  with pytest.raises(ValueError, match='is failed, not finished'):
    ScoreFrame.from_workdir(workdir)
  assert len(ScoreFrame.from_workdir(workdir, unfinished=True)) == 6
  (workdir / 'config.json').write_text('{}')
  with pytest.raises(ValueError, match='names no seed'):
    ScoreFrame.from_workdir(workdir, unfinished=True)


def curves(**tasks):
  """{task: [value at steps 1, 2, …]} on validation, 10 of it on test."""
  return frame(*(rows('a', [v * scale], task=task, split=split, step=i + 1, selection='', metric='loss' if task.startswith('loss') else 'accuracy',
                      higher=not task.startswith('loss'))
                 for split, scale in (('validation', 1.0), ('test', 10.0)) for task, values in tasks.items() for i, v in enumerate(values)))


def chosen(table):
  return {task: table.where(task=task).unique('step') for task in table.unique('task')}


def test_rules_by_hand():
  table = curves(x=[0.9, 0.5, 0.6], y=[0.1, 0.3, 0.25])
  assert chosen(select(table, 'last')) == {'x': [3], 'y': [3]}
  assert chosen(select(table, 'per_task')) == {'x': [1], 'y': [2]}
  assert chosen(select(table, 'best:mean')) == {'x': [1], 'y': [1]}  # .5, .4, .425
  assert chosen(select(table, 'best:normalised')) == {'x': [1], 'y': [1]}  # (1 + 0) / 2, (0 + 1) / 2, (.25 + .75) / 2: the first of equals
  base = {('x', 'accuracy'): 0.9, ('y', 'accuracy'): 0.1}
  assert chosen(select(table, 'best:delta_m', baseline=base)) == {'x': [2], 'y': [2]}  # 0, (-.444 + 2) / 2, (-.333 + 1.5) / 2
  assert chosen(select(table, 'joint:mean')) == {'x': [1], 'y': [1]}
  assert [row.value for row in select(table, 'per_task').where(split='test')] == [9.0, 3.0]
  assert chosen(select(curves(loss=[3.0, 1.0, 2.0]), 'best:mean')) == {'loss': [2]}
  assert chosen(select(curves(x=[math.nan, 0.1]), 'best:mean')) == {'x': [2]}


def test_the_rule_stands_in_every_row():
  for rule in ('last', 'per_task', 'best:mean', 'joint:normalised'):
    assert select(curves(x=[1.0, 2.0]), rule).unique('selection') == [rule]
  with pytest.raises(ValueError, match="chosen already, by 'last'"):
    select(select(curves(x=[1.0]), 'last'), 'per_task')


@pytest.mark.parametrize('rule', ['last', 'per_task', 'best:mean', 'best:normalised'])
def test_the_test_split_chooses_nothing(rule):
  with pytest.raises(ValueError, match="refuses split='test'"):
    select(curves(x=[1.0]), rule, split='test')
  table = curves(x=[1.0, 2.0])
  changed = ScoreFrame.from_rows({**vars(row), 'value': row.value * (-1 if row.split == 'test' else 1)} for row in table)
  assert chosen(select(table, rule)) == chosen(select(changed, rule))


def test_wrong_rules():
  table = curves(x=[1.0, 2.0])
  with pytest.raises(ValueError, match="Unknown rule 'best:meen'.*best:mean"):
    select(table, 'best:meen')
  with pytest.raises(ValueError, match="'best:delta_m' needs a baseline"):
    select(table, 'best:delta_m')
  with pytest.raises(ValueError, match='has no use for a baseline'):
    select(table, 'last', baseline={})
  with pytest.raises(ValueError, match='no value of x/accuracy'):
    select(table, 'best:delta_m', baseline={})
  with pytest.raises(ValueError, match="no scores on 'validation'"):
    select(table.where(split='test'), 'per_task')
  with pytest.raises(ValueError, match="Run 'a-0'.*No step has finite"):
    select(curves(x=[math.nan]), 'best:mean')


def test_a_step_without_test_scores_is_not_passed_over():
  table = curves(x=[1.0, 2.0])
  late = table.where(split='validation') + table.where(split='test', step=1)
  with pytest.raises(ValueError, match='chose step 2.*no test scores.*only at \\[1\\]'):
    select(late, 'last')


def test_runs_choose_for_themselves():
  table = frame(*(rows('a', {seed: value}, split='validation', step=step, selection='')
                  for seed, values in {0: [1.0, 2.0], 1: [2.0, 1.0]}.items() for step, value in enumerate(values)))
  assert [(row.seed, row.step) for row in select(table, 'best:mean')] == [(0, 1), (1, 0)]


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(0, 2 ** 31))
def test_per_task_is_at_least_as_good_as_any_joint_rule(num_tasks, steps, seed):
  rng = np.random.default_rng(seed)
  values, higher = rng.normal(size=(steps, num_tasks)), rng.random(num_tasks) < 0.5
  names, baseline = list(map(str, range(num_tasks))), rng.uniform(1, 2, num_tasks)
  signed = values * np.where(higher, 1, -1)
  own = [signed[best_step(values[:, [t]], higher[[t]], 'first', names[:1]), t] for t in range(num_tasks)]
  assert np.array_equal(own, signed.max(0))  # exact: the same numbers
  for aggregate in ('mean', 'normalised', 'delta_m'):
    joint = signed[best_step(values, higher, aggregate, names, baseline)]
    assert (np.array(own) >= joint).all()


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2 ** 31))
@example(17513)  # two equal steps whose sums round differently
def test_normalised_by_a_slow_loop(seed):
  rng = np.random.default_rng(seed)
  values, higher = rng.integers(0, 4, (5, 3)).astype(float), [True, False, True]
  best, found = -math.inf, None
  for step in range(5):
    total = 0.0
    for m, up in zip(range(3), higher):
      column = [v if up else -v for v in values[:, m]]
      span = max(column) - min(column)
      total += (column[step] - min(column)) / span if span else 0.0
    if total > best + 1e-12:  # sums in another order
      best, found = total, step
  assert best_step(values, higher, 'normalised', ['a', 'b', 'c']) == found


def test_order_of_rows_does_not_matter():
  table = curves(x=[0.1, 0.3, 0.2], y=[0.5, 0.1, 0.1])
  for order in itertools.islice(itertools.permutations(table.rows), 0, 400, 37):
    assert chosen(select(ScoreFrame(order), 'best:mean'))['x'] == chosen(select(table, 'best:mean'))['x']
