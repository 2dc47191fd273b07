"""Comparisons of arms: their statistics, test beds, training and tables."""
import dataclasses
import json

import numpy as np
import pytest
from scipy import stats as scipy_stats

from experiments.studies import (
  arms,
  beds,
  cells,
  cheaper_statistics,
  comparison,
  flatness,
  rules,
  stats,
  tables,
  verdicts,
)
from experiments.studies.harness import Setting, Trainer
from mtjax.studies import index


@pytest.fixture(scope='module')
def bed():
  """Composite digits for six steps."""
  return dataclasses.replace(beds.load('composite_digits'), steps=6, learning_rates=(1e-3, 1e-2), seeds=2)


def test_delta_m_knows_directions():
  values, baseline = np.array([[0.9, 2.0]]), np.array([[0.8, 1.0]])
  np.testing.assert_allclose(stats.change(values, baseline, [True, False]), [[-12.5, 100]])
  np.testing.assert_allclose(stats.delta_m(values, baseline, [True, False]), [43.75])
  with pytest.raises(ValueError, match='baseline of metric 1 is 0'):
    stats.change(values, np.array([[0.8, 0.0]]), [True, False])


def test_pairs_agree_with_scipy():
  one, other = np.array([1.0, 2.5, 0.5, 3.0, 1.5, 2.0]), np.array([0.5, 1.5, 1.0, 2.0, 1.0, 1.5])
  found = stats.paired(one, other)
  test = scipy_stats.ttest_rel(one, other)
  np.testing.assert_allclose([found['p'], *found['interval']], [test.pvalue, *test.confidence_interval()])
  exact = scipy_stats.permutation_test((one - other,), np.mean, permutation_type='samples', n_resamples=10_000)
  np.testing.assert_allclose(found['p_sign_flip'], exact.pvalue)


def test_a_claim_holds_fails_or_has_no_evidence():
  pair = lambda difference, *interval: {'difference': difference, 'interval': interval}
  assert [stats.holds(pair(d), p) for d, p in ((-1, 0.01), (1, 0.01), (-1, 0.2))] == [True, False, None]
  kept = [(pair(0.1, -0.2, 0.4), 0.5), (pair(2.0, 1.5, 2.5), 0.01), (pair(2.0, -1.0, 5.0), 0.5)]
  assert [stats.holds(*found, 'kept') for found in kept] == [True, False, None]
  assert stats.holds({'difference': 0.0, 'interval': None}, None, 'kept') is None


def test_a_verdict_needs_evidence_and_less_is_better():
  assert [stats.verdict({'difference': d}, p) for d, p in ((-1, 0.01), (1, 0.01), (-1, 0.2), (-1, None))] == [
    'better', 'worse', 'no evidence', 'no evidence']


@pytest.mark.parametrize('name', ['composite_digits', 'composite_digits_noisy', 'unequal_digits'])
def test_the_splits_of_a_bed_share_nothing_and_orders_are_functions_of_the_seed(name):
  found = beds.load(name)
  found.check()
  assert set(found.splits) == {'train', 'validation', 'test'} and found.seeds >= stats.FEWEST
  np.testing.assert_array_equal(found.order(1, steps=4), found.order(1, steps=4))
  assert (found.order(1, steps=4) != found.order(2, steps=4)).any()
  epoch = found.order(0, steps=found.steps_per_epoch)
  assert len(np.unique(epoch)) == epoch.size


def test_a_bed_whose_splits_overlap_is_an_error(bed):
  with pytest.raises(ValueError, match='train and test share 1 base examples'):
    dataclasses.replace(bed, origin={**bed.origin, 'test': bed.origin['train'][:1]}).check()


def test_the_engine_trains_as_the_plain_step_does_in_one_program(bed):
  settings = [Setting(3e-3, (1.0, 1.0), 0), Setting(1e-3, (0.5, 2.0), 1)]
  plain = Trainer(bed, rules.plain)
  engine = Trainer(bed, arms.ARMS[arms.BASELINE].rule)
  for one, other in zip(plain(settings), engine(settings)):
    assert one.metrics.keys() == {'validation', 'test'}
    for task in bed.tasks:  # one in a thousand: a row whose two largest logits are as good as equal
      assert abs(one.metrics['test'][task]['accuracy'] - other.metrics['test'][task]['accuracy']) < 1e-3
  assert plain.num_compiled == engine.num_compiled == 1


def test_a_lane_of_a_vmap_is_the_run_alone(bed):
  settings = [Setting(3e-3, (1.0, 1.0), seed) for seed in range(2)]
  alone, lanes = (Trainer(bed, rules.plain, lanes=n)(settings) for n in (1, 2))
  for one, other in zip(alone, lanes):
    np.testing.assert_allclose(list(one.losses.values()), list(other.losses.values()), rtol=1e-4)


@pytest.mark.parametrize('make', [arms.methods, flatness.arms, cheaper_statistics.arms])
def test_arms_are_compared_with_arms_that_exist(make, bed):
  found = make(bed)
  for name, arm in found.items():
    assert arm.name == name and arm.kind in tables.HUES
    assert set(arm.versus.values()) <= set(found)


def test_every_method_of_the_library_is_an_arm():
  import mtjax.optim
  made = [_made(getattr(mtjax.optim, name)) for name in dir(mtjax.optim)]
  methods = {method.name for method in made if isinstance(method, mtjax.optim.Aggregator)}
  named = {name.split(',')[0].split('(')[0] for name in arms.ARMS}
  assert len(methods) > 30 and methods <= named


def _made(factory):
  """What a factory makes without arguments, or None."""
  try:
    return factory()
  except Exception:  # classes, functions of arrays, and factories that need an argument
    return None


@pytest.mark.slow
def test_a_comparison_runs_resumes_and_becomes_a_page(tmp_path, monkeypatch, bed):
  monkeypatch.setattr(beds, 'load', lambda name: bed)
  argv = ['--bed=composite_digits', '--smoke', f'--workdir={tmp_path}', '--methods=linear_scalarisation;upgrad;mgda']
  run = lambda: comparison.main('gradient_methods', 'claim', 'help', arms.methods, ['composite_digits'], argv)
  run()
  path = tmp_path / 'smoke' / 'gradient_methods' / 'composite_digits.json'
  first = json.loads(path.read_text())
  assert {arm['status'] for arm in first['arms'].values()} == {'finished'}
  assert first['arms']['upgrad']['versus']['sum']['with'] == arms.BASELINE
  assert any('fewer than 5' in text for text in first['warnings'])

  monkeypatch.setattr(comparison, 'train_arm', lambda *args: pytest.fail('a finished cell was trained again'))
  run()
  assert json.loads(path.read_text())['arms'] == first['arms']

  tables.main([f'--results={tmp_path / "smoke"}', '--study=gradient_methods'])
  page = (path.parent / 'README.md').read_text()
  assert '| `upgrad` |' in page and 'Warning: --smoke' in page
  assert (path.parent / 'cost_quality.svg').read_text().count('<svg') == 1
  found = json.loads((path.parent / 'verdict.json').read_text())
  assert found['smoke'] and found['arms']['upgrad']['n'] == 2 and len(found['comparisons']) == 2
  assert list(tables.load('gradient_methods', tmp_path / 'smoke')) == ['composite_digits']  # the verdict is no bed


def result(bed, versus, **more):
  """A bed's result with what a verdict reads: versus = {arm: {role: holds}}."""
  words = {True: 'better', False: 'worse', None: 'no evidence'}
  arm = lambda roles: {
    'status': 'finished', 'delta_m': {'mean': 1.0, 'interval': [0.5, 1.5], 'values': [1.0] * 6},
    'versus': {role: {'with': 'rule', 'n': 6, 'difference': -0.5, 'interval': [-0.7, -0.3], 'd_z': -1.0, 'p': 0.01,
                      'p_holm': 0.02, 'verdict': words[holds], 'holds': holds} for role, holds in roles.items()}}
  return {'claim': 'Claim.', 'command': f'python -m x --bed={bed}', 'commit': 'abc', 'warnings': [],
          'settings': {'seeds': [0, 1, 2, 3, 4, 5]}, 'arms': {name: arm(roles) for name, roles in versus.items()}, **more}


@pytest.mark.parametrize('study, beds_of, holds', [
  # every arm on every bed
  ('cheaper_statistics', [{'a': {'exact': True}, 'b': {'exact': True}}, {'a': {'exact': True}}], True),
  ('cheaper_statistics', [{'a': {'exact': True}, 'b': {'exact': None}}, {'a': {'exact': True}}], None),
  ('cheaper_statistics', [{'a': {'exact': False}, 'b': {'exact': None}}, {'a': {'exact': None}}], False),
  ('cheaper_statistics', [{'a': {'exact': True}, 'b': {'exact': False}}], None),
  # some method on every bed; the searched sum is none, nor is SAM
  ('gradient_methods', [{'a': {'sum': True}, 'b': {'sum': False}}, {'a': {'sum': None}, 'b': {'sum': True}}], True),
  ('gradient_methods', [{'a': {'sum': True}}, {'a': {'sum': False}}], None),
  ('gradient_methods', [{'a': {'sum': None}, 'sam': {'sum': True}, verdicts.SUMS[0]: {'sum': True}}], None),
  # both parts of the claim
  ('flatness', [{'a': {'without sam': True, 'direct': True}}], True),
  ('flatness', [{'a': {'without sam': True, 'direct': None, 'sum': True}}], None),
  ('flatness', [{'a': {'without sam': None, 'direct': False}}], False),
])
def test_a_claim_over_beds_holds_where_its_pairs_say_so(study, beds_of, holds):
  results = {f'bed{i}': result(f'bed{i}', versus) for i, versus in enumerate(beds_of)}
  assert verdicts.verdict(study, 'Title', results, 'x.svg', 'x')['holds'] is holds


def test_a_verdict_counts_its_pairs_and_says_how_to_make_it_again():
  failed = {'status': 'failed', 'error': 'ValueError: x'}
  one = result('one', {'rule': {}, 'a': {'without sam': True, 'direct': None}})
  two = result('two', {'rule': {}, 'a': {'without sam': None, 'direct': False}})
  two['arms']['b'] = failed
  found = verdicts.verdict('flatness', 'Title', {'one': one, 'two': two}, 'x.svg', 'x')
  assert found['sentence'] == (
    "Better with SAM's gradients than without in 1 of 2 comparisons, worse in 0, no evidence in 1; better with loss and "
    "flatness apart than by the rule on SAM's gradients in 0 of 2 comparisons, worse in 1, no evidence in 1 (2 beds; p "
    'after Holm within a bed).')
  assert found['command'] == ('for bed in one two; do python -m x --bed=$bed; done; '
                              'python -m experiments.studies.tables --study=flatness')
  assert found['paper'] == 'ftl' and found['beds'] == {'one': None, 'two': False} and found['holds'] is False
  assert found['warnings'] == ["two: 'b' failed and is compared with nothing: ValueError: x"]
  assert {name: (arm['status'], arm['n'], arm['mean']) for name, arm in found['arms'].items()} == {
    'rule': ('finished', 6, None), 'a': ('finished', 6, None), 'b': ('failed', 0, None)}
  assert found['comparisons'][0]['sentence'] == (
    "'a' is better than 'rule' on one: -0.5 points of Δm (95 % interval -0.7 to -0.3), 6 seeds, p = 0.02 after Holm.")


@pytest.mark.parametrize('study', tables.STUDIES)
def test_the_verdicts_that_are_stored_are_those_of_their_results(study):
  stored = json.loads((cells.RESULTS / study / 'verdict.json').read_text(encoding='utf-8'))
  made = verdicts.verdict(study, tables.TITLES[study], tables.load(study), 'cost_quality.svg', tables.FIGURE_TEXT)
  assert json.loads(json.dumps(made)) == stored, 'run python -m experiments.studies.tables'
  assert index.Entry.read(cells.RESULTS / study / 'verdict.json').problem == ''


def test_an_unknown_arm_or_bed_names_what_is_known(tmp_path):
  with pytest.raises(ValueError, match='no arm .upgrat.*upgrad'):
    comparison.main('gradient_methods', 'claim', '', arms.methods, ['composite_digits'],
                    ['--bed=composite_digits', f'--workdir={tmp_path}', '--methods=upgrat'])
  with pytest.raises(ValueError, match='no bed .qm10.*qm9'):
    beds.load('qm10')


def test_a_cell_that_fails_is_kept_as_failed_and_tried_again(tmp_path):
  path = tmp_path / 'cell.json'
  failed = cells.compute(path, {'a': 1}, lambda: {}['missing'])
  assert failed['status'] == 'failed' and 'KeyError' in failed['error']
  assert cells.compute(path, {'a': 1}, lambda: {'x': 2})['x'] == 2
  assert cells.compute(path, {'a': 1}, lambda: {'x': 3})['x'] == 2
  assert cells.compute(path, {'a': 2}, lambda: {'x': 3})['x'] == 3


def test_a_flat_arm_records_conflict(bed):
  result = Trainer(bed, rules.plain, watch=rules.conflicts)([Setting(1e-3, (1.0, 1.0), 0)])[0]
  assert 0 <= result.extra['conflict'] <= 1
