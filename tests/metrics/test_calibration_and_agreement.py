"""Calibration, kappa, Matthews' correlation and normalised entropy: scikit-learn and slow loops; worked numbers."""
import warnings

import numpy as np
import pytest
import sklearn.metrics as sk
from agree import assert_batches_and_hosts_agree, assert_masked_rows_do_not_count, compute, number, of, seeds
from hypothesis import given, settings
from hypothesis import strategies as st
from test_metrics import rows

from mtjax import metrics
from mtjax.metrics import calibration
from mtjax.metrics.decode import probabilities

N, C, K = 60, 3, 4
MAKERS = [metrics.mce, metrics.adaptive_ece, metrics.classwise_ece, metrics.brier, metrics.kappa, metrics.linear_kappa,
          metrics.mcc, metrics.normalised_entropy, lambda kind: metrics.reliability(kind, bins=3)]
ALL = [(kind, make(kind)) for make in MAKERS for kind in ('softmax', 'sigmoid', 'ordinal')]
IDS = [f'{metric.specs[0].name}-{kind}' for kind, metric in ALL]


def batch_of(kind, seed, **case):
  outputs, label, mask = rows(kind, N, seed, **case)
  return outputs, {'label': label, 'mask': mask}


@pytest.mark.parametrize('kind, metric', ALL, ids=IDS)
@seeds
def test_in_batches(kind, metric, seed):
  for case in (dict(), dict(ties=True), dict(one_class=True)):
    assert_batches_and_hosts_agree(metric, *batch_of(kind, seed, **case))
  assert_masked_rows_do_not_count(metric, *batch_of(kind, seed))


def slow_bins(confidence, right, bins):
  """[(n, accuracy, confidence)] of the bins (k / bins, (k + 1) / bins] that hold a row."""
  found = []
  for k in range(bins):
    here = (confidence > k / bins) & (confidence <= (k + 1) / bins)
    if here.any():
      found.append((here.sum(), right[here].mean(), confidence[here].mean()))
  return found


@given(seed=st.integers(0, 10**6), kind=st.sampled_from(['softmax', 'sigmoid', 'ordinal']))
@settings(max_examples=15, deadline=None)
def test_calibration_against_a_loop(seed, kind):
  outputs, batch = batch_of(kind, seed)
  p, mask, label = np.asarray(probabilities(outputs, kind), np.float64), batch['mask'], batch['label']
  if kind == 'sigmoid':
    confidence, right = np.maximum(p, 1 - p)[mask].ravel(), ((p > 0.5) == (label > 0))[mask].ravel()
    sides = [(p[mask][:, k], label[mask][:, k] > 0) for k in range(K)]
  else:
    confidence, right = p[mask].max(1), (p.argmax(1) == label)[mask]
    sides = [(p[mask][:, c], label[mask] == c) for c in range(C)]
  bins = slow_bins(confidence, right, 10)
  gaps = [(n / len(right), abs(a - c)) for n, a, c in bins]
  check = lambda metric, value: np.testing.assert_allclose(number(metric, outputs, batch), value, rtol=1e-5, atol=1e-6)
  check(of(metrics.ece, kind, 10), sum(share * gap for share, gap in gaps))
  check(of(metrics.ece, kind, 10, 'l2'), sum(share * gap ** 2 for share, gap in gaps) ** 0.5)
  check(of(metrics.mce, kind, 10), max(gap for _, gap in gaps))
  check(of(metrics.classwise_ece, kind, 10), np.mean(
    [sum(n / len(y) * abs(a - c) for n, a, c in slow_bins(q, y, 10)) for q, y in sides]))
  found = compute(of(metrics.reliability, kind, 10), outputs, batch)
  full = [tuple(found[f'reliability/{k}/{field}'] for field in ('n', 'accuracy', 'confidence')) for k in range(10)
          if found[f'reliability/{k}/n']]
  np.testing.assert_allclose(full, bins, rtol=1e-5)
  # Without ties as many rows as there are bins make each row its own bin; one bin is the gap of the means.
  check(of(metrics.adaptive_ece, kind, len(right)), np.mean(np.abs(confidence - right)))
  check(of(metrics.adaptive_ece, kind, 1), abs(confidence.mean() - right.mean()))
  third = np.array_split(np.argsort(confidence), 3) if len(right) % 3 == 0 else []
  if len(third):
    check(of(metrics.adaptive_ece, kind, 3), np.mean([abs(confidence[i].mean() - right[i].mean()) for i in third]))


def test_the_worked_bins():
  # Confidences .8 .8 .6 .6, right 1 0 1 1: gaps .3 and .4, each of half of the rows.
  p = np.float32([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
  batch = {'label': np.array([0, 1, 0, 0]), 'mask': np.ones(4, bool)}
  check = lambda metric, value: assert_close(number(metric, np.log(p), batch), value)
  assert_close = lambda got, value: np.testing.assert_allclose(got, value, rtol=1e-6)
  check(metrics.ece(bins=10), 0.35)
  check(metrics.ece(bins=10, norm='l2'), ((0.09 + 0.16) / 2) ** 0.5)
  check(metrics.mce(bins=10), 0.4)
  check(metrics.adaptive_ece(bins=2), 0.35)
  # Each class for itself has the same gaps, the second one at 1 - p.
  check(metrics.classwise_ece(bins=10), 0.35)
  check(metrics.brier(), 2 * np.mean([0.04, 0.64, 0.16, 0.16]))


def test_yes_or_no_has_two_binnings():
  # p = .2 and .8, labels 0 and 0. On p(y = 1): |0 - .2| / 2 + |0 - .8| / 2. On confidence: both .8, one right of two.
  logits, batch = np.log(np.float32([0.25, 4])), {'label': np.array([0, 0]), 'mask': np.ones(2, bool)}
  assert number(metrics.classwise_ece('sigmoid', 10), logits, batch) == pytest.approx(0.5, rel=1e-6)
  assert number(metrics.ece('sigmoid', 10), logits, batch) == pytest.approx(0.3, rel=1e-6)


def test_rows_of_one_confidence_stay_together():
  # Whatever the order of the rows: 3 rows at .6 and 1 at .9, cut at the median, are the bins {.6 .6 .6} and {.9}.
  confidence, right = np.array([0.6, 0.9, 0.6, 0.6]), np.array([1, 1, 0, 0])
  for order in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2]):
    p = np.stack([confidence, 1 - confidence], 1)[order]
    batch = {'label': 1 - right[order], 'mask': np.ones(4, bool)}
    expected = 0.75 * abs(1 / 3 - 0.6) + 0.25 * abs(1 - 0.9)
    assert number(metrics.adaptive_ece(bins=2), np.log(p), batch) == pytest.approx(expected, rel=1e-5)


def test_the_first_bin_holds_its_lower_end():
  n, accuracy, confidence = calibration.binned(np.array([0.0, 0.5, 0.51]), np.array([0, 1, 1]), np.array([0, 0.5, 1]))
  assert n.tolist() == [2, 1] and accuracy.tolist() == [0.5, 1] and confidence.tolist() == [0.25, 0.51]


@given(seed=st.integers(0, 10**6), ties=st.booleans())
@settings(max_examples=15, deadline=None)
def test_agreement_against_scikit_learn(seed, ties):
  check = lambda metric, *rows, to: np.testing.assert_allclose(number(metric, *rows), to, rtol=2e-5, atol=1e-7)
  outputs, batch = batch_of('softmax', seed, ties=ties)
  y, said = batch['label'][batch['mask']], outputs[batch['mask']].argmax(1)
  p = np.asarray(probabilities(outputs, 'softmax'), np.float64)[batch['mask']]
  p /= p.sum(1, keepdims=True)                       # float32's are off by more than scikit-learn allows
  for weights in (None, 'linear', 'quadratic'):
    check(of(metrics.kappa, 'softmax', weights), outputs, batch, to=sk.cohen_kappa_score(y, said, weights=weights))
  check(of(metrics.mcc), outputs, batch, to=sk.matthews_corrcoef(y, said))
  check(of(metrics.brier), outputs, batch, to=sk.brier_score_loss(y, p, labels=range(C), scale_by_half=False))
  rates = np.bincount(y) / len(y)
  entropy = -sum(rate * np.log(rate) for rate in rates if rate)
  check(of(metrics.normalised_entropy, 'softmax'), outputs, batch, to=sk.log_loss(y, p, labels=range(C)) / entropy)

  outputs, batch = batch_of('sigmoid', seed, ties=ties)
  p = np.asarray(probabilities(outputs, 'sigmoid'), np.float64)[batch['mask']]
  y, said = batch['label'][batch['mask']], p > 0.5
  mean = lambda score, x: np.mean([score(y[:, k], x[:, k]) for k in range(K)])
  check(of(metrics.kappa, 'sigmoid'), outputs, batch, to=mean(sk.cohen_kappa_score, said))
  check(of(metrics.mcc, 'sigmoid'), outputs, batch, to=mean(sk.matthews_corrcoef, said))
  check(of(metrics.brier, 'sigmoid'), outputs, batch, to=mean(sk.brier_score_loss, p))
  base = lambda label: sk.log_loss(label, np.full(len(label), label.mean()))
  check(of(metrics.normalised_entropy, 'sigmoid'), outputs, batch,
        to=mean(lambda label, q: sk.log_loss(label, q) / base(label), p))


def test_agreement_of_one_class():
  outputs, batch = batch_of('softmax', 0, one_class=True)
  all_zero = np.float32([[5, 0, 0]] * N)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert np.isnan(number(metrics.kappa(), all_zero, batch))             # one class in both: 0 / 0
    assert number(metrics.mcc(), outputs, batch) == 0                     # scikit-learn's rule
    assert number(metrics.kappa(), outputs, batch) == 0
    assert np.isnan(number(metrics.normalised_entropy('softmax'), outputs, batch))


def test_base_rates_have_a_normalised_entropy_of_one():
  y = np.array([1, 0, 0, 0])
  logits = np.full(4, np.log(1 / 3), np.float32)                           # p = 1/4
  batch = {'label': y, 'mask': np.ones(4, bool)}
  assert number(metrics.normalised_entropy(), logits, batch) == pytest.approx(1, rel=1e-6)
  three = np.log(np.float32([[0.5, 0.25, 0.25]] * 4))
  batch = {'label': np.array([0, 0, 1, 2]), 'mask': np.ones(4, bool)}
  assert number(metrics.normalised_entropy('softmax'), three, batch) == pytest.approx(1, rel=1e-6)


def test_brier_of_distributions():
  p, label = np.float32([[0.7, 0.2, 0.1]]), np.float32([[0.5, 0.5, 0]])
  batch = {'label': label, 'mask': np.ones(1, bool)}
  assert number(metrics.brier(), np.log(p), batch) == pytest.approx(0.04 + 0.09 + 0.01, rel=1e-5)


def test_settings_are_checked():
  for make, words in ((lambda: metrics.ece(norm='l3'), "norm='l3'; allowed are 'l1', 'l2', 'max'"),
                      (lambda: metrics.mce(bins=0), 'bins=0; allowed is an integer >= 1'),
                      (lambda: metrics.kappa(weights='cubic'), "weights='cubic'; allowed are None, 'linear', 'quadratic'"),
                      (lambda: metrics.brier('identity'), "'brier' is for heads of kind .*, got 'identity'")):
    with pytest.raises(ValueError, match=words):
      make()
