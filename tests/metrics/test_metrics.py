"""Every metric against scikit-learn and scipy, on ordinary and degenerate inputs; one batch or many."""
import warnings

import jax
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
from agree import assert_batches_and_hosts_agree, assert_masked_rows_do_not_count, number, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax import metrics
from mtjax.metrics.decode import probabilities

C, K = 3, 4
SOFT = [metrics.accuracy, metrics.log_loss, metrics.macro_f1, metrics.balanced_accuracy, metrics.ece, metrics.auc,
        metrics.average_precision]
NUMBERS = [metrics.mse, metrics.rmse, metrics.mae, metrics.r2, metrics.pearson, metrics.spearman]
ALL = ([(f'{m.__name__}-softmax', m('softmax')) for m in SOFT] + [(f'{m.__name__}-sigmoid', m('sigmoid')) for m in SOFT]
       + [(f'{m.__name__}-ordinal', m('ordinal')) for m in (*SOFT, metrics.mae, metrics.quadratic_kappa)]
       + [(f'{m.__name__}-identity', m()) for m in NUMBERS])
OF = dict(ALL)                        # the same objects everywhere: each is compiled once


def rows(kind, n, seed, ties=False, one_class=False):
  """Random outputs, labels and mask of `n` rows; masked labels are garbage."""
  rng = np.random.default_rng(seed)
  shape = {'softmax': (n, C), 'ordinal': (n, C - 1), 'sigmoid': (n, K), 'identity': (n,)}[kind]
  outputs = rng.normal(size=shape).astype(np.float32)
  if ties:
    outputs = np.round(outputs)
  if kind == 'ordinal':
    outputs = -np.sort(-outputs, axis=1) + np.float32([0.1, 0])
  if kind in ('softmax', 'ordinal'):
    label = np.zeros(n, np.int32) if one_class else rng.integers(0, C, n).astype(np.int32)
  elif kind == 'sigmoid':
    label = np.zeros((n, K), np.int32) if one_class else rng.integers(0, 2, (n, K)).astype(np.int32)
  else:
    label = np.full(n, 2.0, np.float32) if one_class else (outputs + rng.normal(size=n)).astype(np.float32)
  mask = rng.random(n) < 0.7
  garbage = np.nan if kind == 'identity' else -1
  label = np.where(mask.reshape(-1, *[1] * (label.ndim - 1)), label, np.array(garbage, label.dtype))
  return outputs, label, mask


def value(metric, outputs, label, mask):
  """The metric's number."""
  return number(metric, outputs, {'label': label, 'mask': mask})


@pytest.mark.parametrize('name, metric', ALL, ids=[name for name, _ in ALL])
@seeds
def test_batches_hosts_and_garbage(name, metric, seed):
  for case in (dict(), dict(ties=True), dict(one_class=True)):
    outputs, label, mask = rows(name.split('-')[1], 60, seed, **case)
    assert_batches_and_hosts_agree(metric, outputs, {'label': label, 'mask': mask})
  assert_masked_rows_do_not_count(metric, outputs, {'label': label, 'mask': mask})


@pytest.mark.parametrize('name', ['accuracy-softmax', 'ece-sigmoid', 'auc-ordinal'])
def test_batches_of_any_size(name):
  outputs, label, mask = rows(name.split('-')[1], 60, seed=1)
  assert_batches_and_hosts_agree(OF[name], outputs, {'label': label, 'mask': mask}, parts=(1, 20, 9, 30))


@pytest.mark.parametrize('name, metric', ALL, ids=[name for name, _ in ALL])
def test_no_rows_is_nan_without_a_warning(name, metric):
  outputs, label, mask = rows(name.split('-')[1], 60, seed=0)
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    assert np.isnan(value(metric, outputs, label, np.zeros_like(mask)))
    assert np.isnan(list(metric.compute(metric.init()).values())[0])


@given(seed=st.integers(0, 10**6), ties=st.booleans())
@settings(max_examples=15, deadline=None)
def test_classes_against_scikit_learn(seed, ties):
  outputs, label, mask = rows('softmax', 60, seed, ties)
  p, y = np.asarray(probabilities(outputs, 'softmax'), np.float64)[mask], label[mask]  # ties as ours, to the last bit
  said = outputs[mask].argmax(-1)
  check = lambda metric, expected: np.testing.assert_allclose(value(metric, outputs, label, mask), expected, rtol=2e-5)
  check(OF['accuracy-softmax'], sk.accuracy_score(y, said))
  check(OF['macro_f1-softmax'], sk.f1_score(y, said, average='macro', zero_division=0))
  check(OF['balanced_accuracy-softmax'], sk.balanced_accuracy_score(y, said))
  check(OF['log_loss-softmax'], sk.log_loss(y, p / p.sum(1, keepdims=True), labels=range(C)))  # it warns of float32's sums
  check(OF['auc-softmax'], sk.roc_auc_score(np.eye(C)[y], p, average='macro'))
  check(OF['average_precision-softmax'], sk.average_precision_score(np.eye(C)[y], p, average='macro'))
  check(metrics.quadratic_kappa('softmax'), sk.cohen_kappa_score(y, said, weights='quadratic'))


@given(seed=st.integers(0, 10**6), ties=st.booleans())
@settings(max_examples=15, deadline=None)
def test_binary_vectors_against_scikit_learn(seed, ties):
  outputs, label, mask = rows('sigmoid', 60, seed, ties)
  p, y, said = np.asarray(probabilities(outputs, 'sigmoid'), np.float64)[mask], label[mask], (outputs[mask] > 0).astype(int)
  check = lambda metric, expected: np.testing.assert_allclose(value(metric, outputs, label, mask), expected, rtol=2e-5)
  check(OF['accuracy-sigmoid'], (said == y).mean())
  check(OF['macro_f1-sigmoid'], sk.f1_score(y, said, average='macro', zero_division=0))
  check(OF['auc-sigmoid'], sk.roc_auc_score(y, p, average='macro'))
  check(OF['log_loss-sigmoid'], np.mean([sk.log_loss(y[:, k], p[:, k], labels=[0, 1]) for k in range(K)]))


@given(seed=st.integers(0, 10**6), offset=st.sampled_from([0.0, 1e3, -1e4]))
@settings(max_examples=15, deadline=None)
def test_numbers_against_scikit_learn_and_scipy(seed, offset):
  outputs, label, mask = rows('identity', 60, seed)
  outputs, label = outputs + np.float32(offset), label + np.float32(offset)
  f, y = outputs[mask].astype(np.float64), label[mask].astype(np.float64)
  check = lambda metric, expected: np.testing.assert_allclose(value(metric, outputs, label, mask), expected, rtol=2e-5)
  check(OF['mse-identity'], sk.mean_squared_error(y, f))
  check(OF['rmse-identity'], sk.mean_squared_error(y, f) ** 0.5)
  check(OF['mae-identity'], sk.mean_absolute_error(y, f))
  check(OF['r2-identity'], sk.r2_score(y, f))
  check(OF['pearson-identity'], scipy.stats.pearsonr(y, f)[0])
  check(OF['spearman-identity'], scipy.stats.spearmanr(y, f)[0])


def test_one_class_or_no_variation_is_nan():
  logits = np.array([[1.0, 0], [0, 1], [2, 0]], np.float32)
  batch = (logits, np.zeros(3, np.int32), np.ones(3, bool))
  assert np.isnan(value(metrics.auc(), *batch)) and np.isnan(value(metrics.average_precision(), *batch))
  flat = (np.array([1.0, 2, 3], np.float32), np.ones(3, np.float32), np.ones(3, bool))
  assert all(np.isnan(value(metric(), *flat)) for metric in (metrics.r2, metrics.pearson, metrics.spearman))


def test_worked_examples():
  # The card's calibration example: confidences .8 .8 .6 .6, right 1 0 1 1: |.5 - .8| / 2 + |1 - .6| / 2 = .35.
  p = np.array([[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]], np.float32)
  ece = value(metrics.ece(bins=10), np.log(p), np.array([0, 1, 0, 0], np.int32), np.ones(4, bool))
  assert ece == pytest.approx(0.35, abs=1e-6)
  # Scores .1 .4 .35 .8 of classes 0 0 1 1: three of four pairs are in order.
  scores = np.array([0.1, 0.4, 0.35, 0.8], np.float32)
  assert value(metrics.auc('sigmoid'), scores, np.array([0, 0, 1, 1], np.int32), np.ones(4, bool)) == 0.75
  # The confusion [[8, 2], [1, 9]]: recalls .8 and .9.
  label = np.array([0] * 10 + [1] * 10, np.int32)
  said = np.array([0] * 8 + [1] * 2 + [0] + [1] * 9)
  assert value(metrics.balanced_accuracy(), np.eye(2, dtype=np.float32)[said], label, np.ones(20, bool)) == (
    pytest.approx(0.85))


def test_labels_may_be_distributions():
  logits = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], np.float32))
  label = np.array([[0.5, 0.5, 0.0], [0.0, 0.6, 0.4]], np.float32)
  ones = np.ones(2, bool)
  assert value(metrics.accuracy(), logits, label, ones) == 0.5  # modes 0 and 1, predictions 0 and 2
  expected = -np.mean([0.5 * np.log(0.7) + 0.5 * np.log(0.2), 0.6 * np.log(0.2) + 0.4 * np.log(0.7)])
  assert value(metrics.log_loss(), logits, label, ones) == pytest.approx(expected, rel=1e-5)


def test_masks_of_single_entries():
  outputs = np.array([[1.0, -1.0], [2.0, 2.0]], np.float32)
  label = np.array([[1, 1], [0, 1]], np.int32)
  mask = np.array([[True, False], [False, True]])
  assert value(metrics.accuracy('sigmoid'), outputs, label, mask) == 1.0
  numbers = np.array([[1.0, np.nan], [3.0, 5.0]], np.float32)
  mask = ~np.isnan(numbers)
  assert value(metrics.mae(), np.zeros((2, 2), np.float32), numbers, mask) == 3.0


def test_long_streams_do_not_lose_small_terms():
  metric = metrics.mae()
  update = jax.jit(metric.update)
  state = metric.init()
  big = {'label': np.full(4, 1e7, np.float32), 'mask': np.ones(4, bool)}
  small = {'label': np.full(4, 0.3, np.float32), 'mask': np.ones(4, bool)}
  zero = np.zeros(4, np.float32)
  state = update(state, zero, big)
  for _ in range(300):
    state = update(state, zero, small)
  (mean,) = metric.compute(state).values()
  assert mean == pytest.approx((4e7 + 1200 * float(np.float32(0.3))) / 1204, rel=1e-9)


def test_a_collection_keeps_streaming_and_collecting_apart():
  both = metrics.Collection({'accuracy': metrics.accuracy(), 'auc': metrics.auc()})
  assert both.names == ('accuracy', 'auc') and both.specs[0].higher_is_better
  assert both.streaming.names == ('accuracy',) and both.collecting.names == ('auc',)
  assert both and not both.streaming.collecting
  outputs, label, mask = rows('softmax', 20, seed=0)
  batch = {'label': label, 'mask': mask}
  twice = both.merge(both.update(both.init(), outputs, batch), both.update(both.init(), outputs, batch))
  assert both.compute(twice) == pytest.approx(both.compute(both.update(both.init(), outputs, batch)))


def test_a_metric_refuses_heads_that_it_does_not_fit():
  for make, kind in ((metrics.accuracy, 'identity'), (metrics.auc, 'identity'), (metrics.rmse, 'sigmoid')):
    with pytest.raises(ValueError, match=f"'{make.__name__}' is for heads of kind .*, got '{kind}'"):
      make(kind)
