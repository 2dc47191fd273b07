"""Intervals and tests of significance: by hand, by scipy, by property."""
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from mtjax.studies import intervals, significance
from mtjax.studies.across_tasks import iqm, mean

X = np.array([0.3, 1.2, 0.7, 2.9, 1.1, 0.4, 1.8])


def test_t_by_scipy():
  assert intervals.interval(X) == pytest.approx(stats.t.interval(0.95, 6, X.mean(), stats.sem(X)))
  assert intervals.interval(X, level=0.8) == pytest.approx(stats.t.interval(0.8, 6, X.mean(), stats.sem(X)))


@pytest.mark.parametrize('kind', ['percentile', 'bca'])
def test_bootstrap_by_scipy(kind):
  reference = stats.bootstrap((X,), np.mean, method={'percentile': 'percentile', 'bca': 'BCa'}[kind], n_resamples=20_000, rng=1).confidence_interval
  # two simulations of 20 000 draws: the standard error of a 2.5 % quantile is about .01 here
  assert intervals.interval(X, kind, draws=20_000) == pytest.approx(tuple(reference), abs=0.05)


def test_percentile_by_every_draw():
  x = np.array([0.0, 1.0, 5.0])
  means = np.array([np.mean(draw) for draw in itertools.product(x, repeat=3)])  # all 27
  low, high = np.quantile(means, [0.25, 0.75], method='inverted_cdf')  # 2/3 and 10/3, well inside their atoms
  assert intervals.interval(x, 'percentile', level=0.5, draws=50_000) == pytest.approx((low, high))


def test_expanded_is_wider_and_tends_to_percentile():
  def ratio(n):
    x = np.random.default_rng(0).normal(size=n)
    a, b = (intervals.interval(x, kind, draws=20_000) for kind in ('expanded', 'percentile'))
    return (a[1] - a[0]) / (b[1] - b[0])

  assert ratio(5) > 1.3 and 1 <= ratio(200) < 1.03  # sqrt(n / (n - 1)) t / z: 1.58 for 5, 1.01 for 200
  x = np.random.default_rng(1).normal(size=(40, 1))
  one = intervals.stratified(x, mean, draws=20_000), intervals.interval(x[:, 0], 'expanded', draws=20_000)
  assert one[0] == pytest.approx(one[1], abs=0.03)  # one task: the same interval but for the draws


def test_bootstrap_t_by_a_slow_loop():
  rng, t = np.random.default_rng(0), []
  for rows in rng.integers(0, 7, (500, 7)):
    draw = X[rows]
    if draw.std(ddof=1) > 0:
      t.append((draw.mean() - X.mean()) / (draw.std(ddof=1) / math.sqrt(7)))
  low, high = np.quantile(t, [0.975, 0.025])
  assert intervals.interval(X, 'bootstrap_t', draws=500) == pytest.approx((X.mean() - low * stats.sem(X), X.mean() - high * stats.sem(X)))


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(intervals.KINDS), st.integers(3, 9), st.floats(-5, 5), st.floats(0.1, 10), st.integers(0, 2 ** 31))
def test_properties_of_intervals(kind, n, shift, scale, seed):
  x = np.random.default_rng(seed).normal(size=n)
  low, high = intervals.interval(x, kind, draws=300)
  assert low <= high and (low, high) == intervals.interval(x, kind, draws=300)  # a seeded generator
  moved = intervals.interval(shift + scale * x, kind, draws=300)
  # rounding may break ties of draws otherwise, which moves the bca levels by one draw at most
  if kind != 'bca':
    assert moved == pytest.approx((shift + scale * low, shift + scale * high), rel=1e-6, abs=1e-6)
  equal = intervals.interval(np.full(n, 0.3), kind, draws=300)
  assert equal == pytest.approx((0.3, 0.3))


def test_nothing_to_say():
  assert intervals.interval([1.0]) is None and intervals.interval([1.0, math.nan], 'bca') is None
  assert intervals.stratified(np.ones((1, 4)), iqm) is None and intervals.estimate([2.0]) == intervals.Estimate(2.0, None, 1, (2.0,))
  for wrong, message in [(dict(kind='normal'), 'kind must be one of'), (dict(level=1.0), 'level must be'), (dict(draws=10), 'draws must be')]:
    with pytest.raises(ValueError, match=message):
      intervals.interval(X, **wrong)
  with pytest.raises(ValueError, match='one a seed'):
    intervals.interval(np.ones((2, 2)))
  with pytest.raises(ValueError, match='runs x tasks'):
    intervals.stratified(X, iqm)
  with pytest.raises(ValueError, match="'percentile' or 'expanded'"):
    intervals.stratified(np.ones((2, 2)), iqm, 'bca')


def test_stratified_draws_within_tasks():
  # tasks differ, runs do not: no draw changes anything
  assert intervals.stratified(np.tile([0.0, 1.0, 5.0], (4, 1)), mean, draws=200) == (2, 2)
  wide = intervals.stratified(np.array([[0.0, 5.0], [1.0, 6.0]]), lambda x: x[..., 0].mean(-1), 'percentile', draws=200)
  assert wide == (0, 1)  # of the first task only


# --- tests of significance

DIFFERENCES = st.lists(st.integers(-8, 8).filter(bool).map(lambda i: i / 8), min_size=2, max_size=8)


@settings(deadline=None, max_examples=60)
@given(DIFFERENCES)
def test_p_values_by_scipy(d):
  d = np.array(d)
  if d.std() > 0:
    assert significance.paired_t(d) == pytest.approx(stats.ttest_1samp(d, 0).pvalue)
  if len(d) <= 5 or len(set(np.abs(d))) == len(d):  # with ties scipy permutes, which is slow
    assert significance.wilcoxon(d) == pytest.approx(stats.wilcoxon(d).pvalue)
  exact = stats.permutation_test((d, np.zeros_like(d)), lambda x, y, axis: (x - y).sum(axis=axis), permutation_type='samples', vectorized=True)
  assert significance.sign_flip(d) == pytest.approx(exact.pvalue)
  assert significance.sign_flip(d) == significance.sign_flip(-d) >= 2 / 2 ** len(d)
  assert significance.paired_t(d) == pytest.approx(significance.paired_t(-d))


@pytest.mark.parametrize('n', range(1, 9))
def test_sign_flip_of_pairs_that_agree(n):
  assert significance.sign_flip(np.arange(1, n + 1) / 10) == 2 / 2 ** n  # n = 5: .0625, never below .05


def test_sign_flip_of_many_pairs():
  d = np.random.default_rng(0).normal(0.4, 1, 30)
  # 100 000 draws: standard error of p about .0006; the t-test is near, at n = 30
  assert significance.sign_flip(d) == significance.sign_flip(d) == pytest.approx(significance.paired_t(d), abs=0.01)
  assert 0 < significance.sign_flip(np.ones(40)) < 1e-4


def test_degenerate_differences():
  assert significance.paired_t([0.0, 0.0]) == 1 and significance.wilcoxon([0.0, 0.0]) == 1 and significance.sign_flip([0.0, 0.0]) == 1
  assert significance.paired_t([0.1, 0.1]) is None and significance.paired_t([0.1]) is None
  x = np.array([0.7, 0.8, 0.9])
  assert significance.paired_t(x - (x - 0.1), scale=0.9) is None  # .1 but for rounding


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_by_scipy(b, c):
  reference = stats.binomtest(b, b + c).pvalue if b + c else 1.0
  assert significance.mcnemar(b, c) == pytest.approx(reference) and significance.mcnemar(b, c) == significance.mcnemar(c, b)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm(p):
  named = dict(enumerate(p))
  found = significance.holm(named)
  for i in named:  # closed testing with Bonferroni: the worst over all subsets that hold i
    slow = max(min(1.0, len(s) * min(named[j] for j in s)) for k in range(1, len(p) + 1) for s in itertools.combinations(named, k) if i in s)
    assert found[i] == pytest.approx(slow)
  assert significance.holm({**named, 'none': None}) == {**found, 'none': None}


def test_holm_refuses():
  assert significance.holm({}) == {} and significance.holm({'a': 0.04}) == {'a': 0.04}
  with pytest.raises(ValueError, match='in \\[0, 1\\], got 1.5'):
    significance.holm({'a': 1.5})
  with pytest.raises(ValueError, match='from 0|>= 0'):
    significance.mcnemar(-1, 0)


def test_friedman():
  values = np.random.default_rng(0).normal(size=(4, 9))
  assert significance.friedman(values) == pytest.approx(stats.friedmanchisquare(*values).pvalue)
  assert significance.friedman(np.ones((3, 5))) == 1
  with pytest.raises(ValueError, match='at least 3 methods x 5'):
    significance.friedman(values[:2])


# --- power

def test_power_by_simulation():
  rng = np.random.default_rng(0)
  for effect, n in [(0.0, 5), (0.8, 6), (1.5, 10)]:
    p = stats.ttest_1samp(rng.normal(effect, 1, (20_000, n)), 0, axis=1).pvalue
    assert significance.power(effect, n) == pytest.approx((p < 0.05).mean(), abs=0.012)  # over three standard errors of .0035
  assert significance.power(-0.8, 6) == significance.power(0.8, 6)
  assert significance.power(30.0, 50) == pytest.approx(1)


def test_minimal_detectable_effect():
  for n in (2, 5, 20):
    root = optimize.brentq(lambda e, n=n: significance.power(e, n) - 0.8, 0.01, 100)
    assert significance.minimal_detectable_effect(2.0, n) == pytest.approx(2 * root, rel=1e-6)
  assert significance.minimal_detectable_effect(1.0, 1) is None
  assert significance.minimal_detectable_effect(1.0, 10) == pytest.approx(0.997, abs=5e-3)  # tables of the one-sample t-test: n = 10 for d = 1
  with pytest.raises(ValueError, match='chance must be'):
    significance.minimal_detectable_effect(1.0, 5, 0.05, 0.01)
  with pytest.raises(ValueError, match='n >= 2'):
    significance.power(1.0, 1)


def test_wilcoxon_of_many_pairs():
  d = np.random.default_rng(0).normal(0.3, 1, 30)
  # the normal approximation without continuity, at n = 30, against scipy's exact one
  assert significance.wilcoxon(d) == pytest.approx(stats.wilcoxon(d, method='exact').pvalue, abs=0.01)
