"""Sweeps: grids in their order, searches that go on where they were, and stay inside their space."""
import functools
import json
import math
import statistics
import subprocess
import sys

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from mtjax.studies.search import Choice, Search, Uniform, arm_name, grid

pytest.importorskip('optuna')

LR, WIDTH = 'optimizer.lr', 'encoder.width'
SPACE = {LR: Uniform(1e-4, 1e-1, log=True), WIDTH: [32, 64, 128], 'encoder.depth': Uniform(1, 6, integer=True)}


def sweep(search, score, tried=(), higher_is_better=True):
  """All (overrides, score) of a search, from what was tried on."""
  tried = [tuple(entry) for entry in tried]
  while (arm := search.propose(tried, higher_is_better)) is not None:
    tried.append((arm, score(arm)))
  return tried


def fitness(arm):
  """Best at a learning rate of 0.01 and depth 4."""
  return -(math.log10(arm[LR]) + 2) ** 2 - (arm['encoder.depth'] - 4) ** 2 / 10 - 1 / arm[WIDTH]


def test_a_grid_is_the_product_and_its_last_field_is_the_fastest():
  arms = grid({LR: [0.1, 1e-3], WIDTH: (64, 32), 'sharpness': Choice([{}, {'name': 'sam'}])})
  assert list(arms)[:3] == ['lr=0.1, width=64, sharpness={}', 'lr=0.1, width=64, sharpness={"name": "sam"}',
                            'lr=0.1, width=32, sharpness={}']
  assert len(arms) == 8
  assert arms['lr=0.001, width=32, sharpness={}'] == {LR: 0.001, WIDTH: 32, 'sharpness': {}}


@pytest.mark.parametrize('overrides, name', [
  ({LR: 1e-3, WIDTH: 64}, 'lr=0.001, width=64'),
  ({WIDTH: 64, 'tasks.a.head.width': 8, 'tasks.b.head.width': 4}, 'encoder.width=64, a.head.width=8, b.head.width=4'),
  ({'width': 1, WIDTH: 2}, 'width=1, encoder.width=2'),               # one is the end of the other
  ({'aggregator.name': 'upgrad', 'ema': True, 'betas': (0.9, 0.95)}, 'name=upgrad, ema=True, betas=[0.9, 0.95]'),
  ({}, 'base'),
])
def test_an_arm_is_named_by_the_ends_of_its_fields(overrides, name):
  assert arm_name(overrides) == name


def test_a_search_of_a_grid_proposes_it_in_order():
  space = {LR: [1e-3, 1e-2], WIDTH: [32, 64]}
  search = Search(space, method='grid')
  assert search.num_arms == 4
  assert [arm for arm, _ in sweep(search, lambda arm: None)] == list(grid(space).values())


@pytest.mark.parametrize('method', ['random', 'bayesian'])
def test_a_killed_sweep_goes_on_with_the_same_arms(method):
  search = Search(SPACE, 16, method, seed=3)
  whole = sweep(search, fitness)
  assert len(whole) == 16
  for kept in (1, 7, 15):
    stored = json.loads(json.dumps(whole[:kept]))                      # as a file gives it back, to another process
    assert sweep(Search(SPACE, 16, method, seed=3), fitness, stored) == whole
  assert sweep(Search(SPACE, 16, method, seed=4), fitness)[0] != whole[0]


@pytest.mark.parametrize('method', ['random', 'bayesian'])
def test_no_arm_is_proposed_twice_and_a_failed_one_never_again(method):
  fails = lambda arm: None if arm[WIDTH] == 32 else math.nan if arm[WIDTH] == 64 else fitness(arm)
  tried = sweep(Search(SPACE, 30, method), fails)
  assert len({arm_name(arm) for arm, _ in tried}) == 30
  assert {arm[WIDTH] for arm, _ in tried} == {32, 64, 128}


@pytest.mark.parametrize('method', ['random', 'bayesian', 'grid'])
@pytest.mark.parametrize('score', [lambda arm: float(arm['a']), lambda arm: None], ids=['scores', 'all fail'])
def test_a_finite_space_is_exhausted(method, score):
  space = {'a': [1, 2, 3], 'b': ['x', 'y'], 'c': Choice([True]) if method == 'grid' else Uniform(7, 8, integer=True)}
  search = Search(space, None if method == 'grid' else 100, method)
  tried = sweep(search, score)
  assert len(tried) == len({arm_name(arm) for arm, _ in tried}) == search.size == (6 if method == 'grid' else 12)


def test_the_last_arm_of_a_large_space_is_found():
  space = {'a': Uniform(1, 3000, integer=True, log=True)}
  tried = [({'a': a}, None) for a in range(1, 3000)]
  assert Search(space, 5000).propose(tried, True) == {'a': 3000}


def test_random_draws_follow_the_space():
  space = {'lr': Uniform(1e-4, 1.0, log=True), 'x': Uniform(-1, 3), 'n': Uniform(1, 4, integer=True), 'c': ['a', 'b']}
  arms = [arm for arm, _ in sweep(Search(space, 400), lambda arm: 0.0)]
  column = {field: np.array([arm[field] for arm in arms]) for field in space}
  # Of 400 draws a share of 1/4 or 1/2 has a standard deviation of at most 0.025; four of them are 0.1.
  close = functools.partial(np.testing.assert_allclose, atol=0.1)
  for quarter in range(1, 4):
    close((column['lr'] < 10.0 ** (quarter - 4)).mean(), quarter / 4)
    close((column['x'] < quarter - 1).mean(), quarter / 4)
    close((column['n'] <= quarter).mean(), quarter / 4)
  close((column['c'] == 'a').mean(), 0.5)
  close(((column['lr'] < 1e-2) == (column['x'] < 1)).mean(), 0.5)      # the fields know nothing of each other


@pytest.mark.parametrize('higher', [True, False])
def test_bayesian_needs_fewer_arms_than_random(higher):
  space = {'a': Uniform(-1, 1), 'b': Uniform(-1, 1)}

  def needed(method, seed):
    tried, search = [], Search(space, 60, method, seed)
    while (arm := search.propose(tried, higher)) is not None:
      error = (arm['a'] - 0.3) ** 2 + (arm['b'] + 0.5) ** 2
      tried.append((arm, -error if higher else error))
      if error < 0.005:                                                 # 0.4 % of the space
        break
    return len(tried)

  found = {method: statistics.median(needed(method, seed) for seed in range(5)) for method in ('random', 'bayesian')}
  assert found['bayesian'] < 0.8 * found['random'], found


numbers = st.floats(-1e6, 1e6, allow_subnormal=False)
plain = st.one_of(st.lists(st.integers(), min_size=1, max_size=3, unique=True), st.just([[1, 2], [3]]),
                  st.lists(st.text(max_size=3), min_size=1, max_size=3, unique=True), st.just([{}, {'name': 'sam'}]))


@st.composite
def uniforms(draw):
  """Any interval."""
  log, integer = draw(st.booleans()), draw(st.booleans())
  low = draw(st.floats(1e-9, 1e3) if log else numbers)
  high = low + draw(st.floats(1e-3, 1e6)) * max(abs(low), 1e-3)
  return Uniform(math.floor(low) + 1, math.ceil(high) + 2, log, True) if integer else Uniform(low, high, log)


@hypothesis.settings(max_examples=60, deadline=None)
@hypothesis.given(st.dictionaries(st.sampled_from(['a', 'b.c', 'b.d']), st.one_of(plain, uniforms()), min_size=1),
                  st.sampled_from(['random', 'bayesian']), st.integers(0, 99), st.booleans())
def test_all_proposals_are_inside_the_space_and_plain(space, method, seed, higher):
  search = Search(space, 6, method, seed)
  tried = sweep(search, lambda arm: float(len(arm_name(arm))), higher_is_better=higher)
  assert len(tried) == min(6, search.size)
  for arm, _ in tried:
    assert arm.keys() == space.keys() and json.loads(json.dumps(arm)) == arm
    for field, value in arm.items():
      if isinstance(space[field], Uniform):
        assert space[field].low <= value <= space[field].high
        assert type(value) is (int if space[field].integer else float)
      else:
        assert value in space[field]


@pytest.mark.parametrize('make, message', [
  (lambda: grid({}), 'at least one field'),
  (lambda: grid({'a': Uniform(0, 1)}), "'a' is Uniform"),
  (lambda: grid({'a': 'abc'}), "a: A choice takes a list of values.*'abc'"),
  (lambda: grid({'a': []}), 'a: .*at least one'),
  (lambda: grid({'a': [1], 'b..c': [1]}), 'written with dots'),
  (lambda: grid({'a': [1, 'x']}), 'a: .*one kind, got number and str'),
  (lambda: grid({'a': [1, True]}), 'a: .*one kind, got bool and number'),
  (lambda: grid({'a': [0.1, 0.1]}), 'a: The value 0.1 occurs twice'),
  (lambda: grid({'a': [None, 0.1]}), 'a: .*plain Python.*None'),
  (lambda: grid({'a': [math.nan]}), 'a: .*finite'),
  (lambda: grid({'encoder': [{}], 'encoder.width': [1]}), "'encoder' and 'encoder.width'"),
  (lambda: grid({'a': ['x, b=1', 'x'], 'b': ['1, b=2', '2']}), 'would be called'),
  (lambda: Uniform(1, 1), 'low < high, got 1.0 and 1.0'),
  (lambda: Uniform(0, 1, log=True), 'low > 0, got 0.0'),
  (lambda: Uniform(0.5, 2, integer=True), 'whole low, got 0.5'),
  (lambda: Uniform(0, math.inf), 'finite high'),
  (lambda: Search(SPACE), 'num_arms >= 1.*None'),
  (lambda: Search(SPACE, 0), 'num_arms >= 1.*0'),
  (lambda: Search(SPACE, 3, 'bayes'), "'bayes'.*Did you mean 'bayesian'"),
  (lambda: Search(SPACE, 3, seed=-1), 'seed >= 0.*-1'),
  (lambda: Search({'a': [1, 2]}, 3, 'grid'), 'grid has 2 arms.*3'),
  (lambda: Search({'a': [1]}, 3).propose([({'b': 1}, 0.0)], True), 'sets a; got'),
  (lambda: Search({'a': [1]}, 3).propose([({'a': 2}, 0.0)], True), 'a=2, which is not in the space: 1'),
  (lambda: Search({'a': Uniform(1, 2)}, 3).propose([({'a': 3.0}, 0.0)], True), 'a=3.0, .*1.0 to 2.0'),
])
def test_what_makes_no_sense_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_dimensions_say_what_they_are():
  assert [str(Choice([32, 64])), str(Uniform(1e-4, 0.1, log=True)), str(Uniform(1, 4, integer=True))] == [
    '32, 64', '0.0001 to 0.1, log', '1 to 4, integer']


def test_optuna_is_imported_when_used_and_named_when_missing_and_says_nothing():
  code = '''
import sys, mtjax.studies.search as s
assert 'optuna' not in sys.modules
search = s.Search({'a': s.Uniform(0, 1)}, 3, 'bayesian')
tried = []
for _ in range(3):
  tried.append((search.propose(tried, True), 0.5))
for name in [name for name in sys.modules if name.split('.')[0] == 'optuna']:
  del sys.modules[name]
sys.modules['optuna'] = None
assert s.Search({'a': [1]}, method='grid').propose([], True) == {'a': 1}
try:
  search.propose([], True)
except ImportError as error:
  print(error)
'''
  done = subprocess.run([sys.executable, '-W', 'always', '-c', code], capture_output=True, text=True, check=True)
  assert "pip install 'mtjax[sweep]'" in done.stdout and len(done.stdout.splitlines()) == 1
  assert done.stderr == ''
