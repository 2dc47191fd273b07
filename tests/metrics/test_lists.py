"""Ranked lists, GAUC, concordance and multiple choice: against scikit-learn, scipy and slow loops; worked numbers."""
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics as sk
from agree import assert_batches_and_hosts_agree, assert_masked_rows_do_not_count, number, of, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax import metrics
from mtjax.metrics import concordance
from mtjax.metrics.gauc import grouped_auc

B, ITEMS, K = 12, 7, 3
LISTS = [metrics.ndcg(K), metrics.hit_rate(K), metrics.recall_at_k(K), metrics.precision_at_k(K), metrics.mrr(K),
         metrics.map_at_k(K), metrics.map_at_k(K, 'hits')]
CHOICE = [metrics.acc(), metrics.acc_norm('bytes'), metrics.acc_mutual_info('prior')]


def list_rows(seed, ties=False):
  rng = np.random.default_rng(seed)
  scores = rng.normal(size=(B, ITEMS)).astype(np.float32)
  label = (rng.random((B, ITEMS)) < 0.3).astype(np.int32)        # some lists have no positive
  return np.round(scores) if ties else scores, {'label': label, 'mask': rng.random((B, ITEMS)) < 0.8}


def slow(scores, positive, k):
  """All numbers of one list, by sorting it with the negatives of equal scores first."""
  hits = [p for _, p in sorted(zip(-scores, positive))][:k]
  total, ranks = sum(positive), [r for r, hit in enumerate(hits, 1) if hit]
  gain = lambda r: 1 / np.log2(r + 1)
  precisions = sum((i + 1) / r for i, r in enumerate(ranks))
  return [sum(map(gain, ranks)) / sum(gain(i) for i in range(1, min(total, k) + 1)), float(bool(ranks)), len(ranks) / total,
          len(ranks) / k, 1 / ranks[0] if ranks else 0.0, precisions / min(total, k), precisions / max(len(ranks), 1)]


@pytest.mark.parametrize('metric', LISTS, ids=lambda metric: metric.specs[0].name)
@seeds
def test_lists_in_batches(metric, seed):
  for ties in (False, True):
    assert_batches_and_hosts_agree(metric, *list_rows(seed, ties))
  assert_masked_rows_do_not_count(metric, *list_rows(seed))


@given(seed=st.integers(0, 10**6), ties=st.booleans())
@settings(max_examples=15, deadline=None)
def test_lists_against_a_loop(seed, ties):
  scores, batch = list_rows(seed, ties)
  rows = [slow(s[m], y[m], K) for s, y, m in zip(scores, batch['label'], batch['mask']) if y[m].any()]
  expected = np.mean(rows, axis=0) if rows else [np.nan] * 7
  np.testing.assert_allclose([number(metric, scores, batch) for metric in LISTS], expected, rtol=1e-6)


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_ndcg_and_map_against_scikit_learn(seed):
  scores, batch = list_rows(seed)
  keep = batch['label'].any(1)
  if not keep.any():
    return
  batch['mask'] = keep
  ndcg = sk.ndcg_score(batch['label'][keep], scores[keep], k=K)
  assert number(LISTS[0], scores, batch) == pytest.approx(ndcg, rel=1e-6)
  # Uncut, both denominators are P, and the number is scikit-learn's average precision.
  uncut = np.mean([sk.average_precision_score(y, s) for y, s in zip(batch['label'][keep], scores[keep])])
  for denominator in ('min(P, k)', 'hits'):
    assert number(of(metrics.map_at_k, ITEMS, denominator), scores, batch) == pytest.approx(uncut, rel=1e-6)


def test_one_positive_at_rank_three():
  batch = {'label': np.array([2]), 'mask': np.ones(1, bool)}
  scores = np.float32([[0.9, 0.8, 0.7, 0.6, 0.1]])
  values = [number(make(5), scores, batch) for make in (metrics.ndcg, metrics.mrr, metrics.hit_rate, metrics.recall_at_k,
                                                        metrics.precision_at_k, metrics.map_at_k)]
  assert values == pytest.approx([0.5, 1 / 3, 1, 1, 1 / 5, 1 / 3], rel=1e-6)
  assert [number(make(2), scores, batch) for make in (metrics.ndcg, metrics.mrr, metrics.hit_rate)] == [0, 0, 0]


def test_the_two_denominators_of_average_precision():
  # Positives at ranks 2, 4 and 5; k = 3. Precision at 2 is 1/2: over min(3, 3) or over the one hit.
  batch = {'label': np.array([[0, 1, 0, 1, 1]]), 'mask': np.ones(1, bool)}
  scores = np.float32([[5, 4, 3, 2, 1]])
  assert number(metrics.map_at_k(3), scores, batch) == pytest.approx(1 / 6, rel=1e-6)
  assert number(metrics.map_at_k(3, 'hits'), scores, batch) == pytest.approx(1 / 2, rel=1e-6)
  with pytest.raises(ValueError, match=r"denominator='P'; allowed are 'min\(P, k\)', 'hits'"):
    metrics.map_at_k(3, 'P')
  for seed in range(20):
    lists = list_rows(seed)
    low, high = (number(metric, *lists) for metric in LISTS[-2:])
    assert low <= high + 1e-6


def test_constant_scores_do_not_look_perfect():
  batch = {'label': np.arange(4) % 2, 'mask': np.ones(4, bool)}
  for metric in LISTS[:5]:
    assert number(metric, np.zeros((4, ITEMS), np.float32), batch) == 0


def test_history_is_taken_out():
  # The two items of the history score highest; without them the positive comes first.
  scores, label = np.float32([[9, 8, 7, 1]]), np.array([[0, 0, 1, 0]])
  ndcg = lambda s, mask: number(LISTS[0], s, {'label': label, 'mask': mask})
  assert ndcg(scores, np.ones(1, bool)) == 0.5
  assert ndcg(scores, np.array([[False, False, True, True]])) == 1
  assert ndcg(np.float32([[-np.inf, -np.inf, 7, 1]]), np.ones(1, bool)) == 1


def test_scores_that_are_no_numbers_are_not_hidden():
  batch = {'label': np.array([0, 0]), 'mask': np.array([True, True])}
  scores = np.float32([[1, 0], [np.nan, 0]])
  assert np.isnan(number(metrics.ndcg(2), scores, batch))
  assert number(metrics.ndcg(2), scores, batch | {'mask': np.array([True, False])}) == 1


def test_at_k_is_checked():
  with pytest.raises(ValueError, match='ndcg has k=0; allowed is an integer >= 1'):
    metrics.ndcg(0)
  with pytest.raises(ValueError, match="'mrr' is for heads of kind"):
    metrics.mrr(3, 'ordinal')


def click_rows(seed, ties=False, users=3):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=40).astype(np.float32)
  batch = {'label': rng.integers(0, 2, 40), 'mask': rng.random(40) < 0.8, 'user': rng.integers(0, users, 40) * 7}
  return np.round(logits) if ties else logits, batch


@given(seed=st.integers(0, 10**6), ties=st.booleans(), users=st.sampled_from([1, 3, 20]))
@settings(max_examples=20, deadline=None)
def test_gauc_against_scikit_learn(seed, ties, users):
  logits, batch = click_rows(seed, ties, users)
  areas, sizes, positives = [], [], []
  for user in np.unique(batch['user']):
    rows = batch['mask'] & (batch['user'] == user)
    y = batch['label'][rows]
    if len(np.unique(y)) == 2:
      areas.append(sk.roc_auc_score(y, logits[rows]))
      sizes.append(len(y))
      positives.append(y.sum())
  for weights, w in (('impressions', sizes), ('positives', positives)):
    expected = np.average(areas, weights=w) if areas else np.nan
    got = number(of(metrics.gauc, 'user', weights), logits, batch)
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    two = np.stack([0 * logits, logits], axis=1)
    np.testing.assert_allclose(number(of(metrics.gauc, 'user', weights, 'softmax'), two, batch), expected, rtol=1e-9)


def test_gauc_of_one_group_is_the_auc():
  scores, label = np.float32([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
  assert grouped_auc(scores, label, np.zeros(4)) == 0.75
  assert np.isnan(grouped_auc(scores, label, np.array([0, 0, 1, 1])))       # no group with both classes
  # User 0: AUC 1 with 3 rows and 2 positives; user 1: AUC 0 with 3 rows and 1 positive.
  six = np.float32([0, 1, 2, 1, 2, 0]), np.array([0, 1, 1, 0, 0, 1]), np.array([0, 0, 0, 1, 1, 1])
  assert grouped_auc(*six) == 1 / 2 and grouped_auc(*six, 'positives') == pytest.approx(2 / 3)
  with pytest.raises(ValueError, match="weights='rows'; allowed are 'impressions', 'positives'"):
    metrics.gauc('user', 'rows')


@seeds
def test_gauc_in_batches(seed):
  metric = of(metrics.gauc, 'user')
  for case in (dict(), dict(ties=True), dict(users=1)):
    assert_batches_and_hosts_agree(metric, *click_rows(seed, **case))
  assert_masked_rows_do_not_count(metric, *click_rows(seed))


def survival_rows(seed, ties=False, censored=0.4):
  rng = np.random.default_rng(seed)
  time, predicted = rng.exponential(size=(2, 32)).astype(np.float32)
  if ties:
    time, predicted = np.ceil(4 * time), np.ceil(4 * predicted)
  return predicted, {'label': time, 'event': (rng.random(32) > censored).astype(np.int32), 'mask': rng.random(32) < 0.8}


@given(seed=st.integers(0, 10**6), ties=st.booleans())
@settings(max_examples=20, deadline=None)
def test_concordance_against_a_loop_over_pairs(seed, ties):
  predicted, batch = survival_rows(seed, ties)
  right = pairs = 0
  rows = [(t, d, f) for t, d, f, m in zip(batch['label'], batch['event'], predicted, batch['mask']) if m]
  for ti, di, fi in rows:
    for tj, dj, fj in rows:
      if di and (ti < tj or (ti == tj and not dj)):
        right, pairs = right + (fi < fj) + 0.5 * (fi == fj), pairs + 1
  expected = right / pairs if pairs else np.nan
  np.testing.assert_allclose(number(of(metrics.concordance_index, 'event'), predicted, batch), expected, rtol=1e-12)
  risk = number(of(metrics.concordance_index, 'event', 'risk'), -predicted, batch)
  np.testing.assert_allclose(risk, expected, rtol=1e-12)


@given(seed=st.integers(0, 10**6), ties=st.booleans())
@settings(max_examples=10, deadline=None)
def test_without_censoring_concordance_is_somers_d(seed, ties):
  predicted, batch = survival_rows(seed, ties)
  keep = batch['mask']
  d = scipy.stats.somersd(batch['label'][keep], predicted[keep]).statistic
  assert number(of(metrics.concordance_index), predicted, batch) == pytest.approx((d + 1) / 2, rel=1e-9)


@given(seed=st.integers(0, 10**6), ties=st.booleans())
@settings(max_examples=5, deadline=None)
def test_concordance_of_hazards_is_that_of_mean_survival(seed, ties):
  _, batch = survival_rows(seed, ties)
  rng = np.random.default_rng(seed)
  hazards = rng.normal(size=(32, 3)).astype(np.float32)
  mean = np.cumprod(1 - 1 / (1 + np.exp(-hazards.astype(np.float64))), axis=1).sum(axis=1)
  label = np.stack([np.digitize(batch['label'], [1.0, 2.0, 3.0]), batch['event']], axis=1)
  time, event, mask = batch['label'], batch['event'], batch['mask']
  by_days = of(metrics.survival_concordance, 'days', 'died')
  assert by_days.columns == ('days', 'died')
  got = number(by_days, hazards, {'label': label, 'mask': mask, 'days': time, 'died': event})
  np.testing.assert_allclose(got, concordance.concordance(mean[mask], time[mask], event[mask] > 0), rtol=1e-9)
  got = number(of(metrics.survival_concordance), hazards, {'label': label, 'mask': mask})
  np.testing.assert_allclose(got, concordance.concordance(mean[mask], label[mask, 0], event[mask] > 0), rtol=1e-9)


def test_concordance_of_hazards_needs_hazards():
  with pytest.raises(ValueError, match="'survival_concordance' is for heads of kind 'sigmoid', got 'softmax'"):
    metrics.survival_concordance(kind='softmax')
  with pytest.raises(ValueError, match="time='' and event=None; allowed are names of columns"):
    metrics.survival_concordance(time='')


def test_concordance_of_awkward_rows(monkeypatch):
  one = np.ones(3)
  assert np.isnan(concordance.concordance(one, np.arange(3.0), np.zeros(3, bool)))       # all censored
  assert np.isnan(concordance.concordance(np.arange(3.0), one, np.ones(3, bool)))        # all at one time
  assert concordance.concordance(one, np.arange(3.0), np.ones(3, bool)) == 0.5           # a constant prediction
  predicted, batch = survival_rows(0)
  whole = number(of(metrics.concordance_index, 'event'), predicted, batch)
  monkeypatch.setattr(concordance, '_BLOCK', 50)                                         # pairs in blocks of one row
  assert number(of(metrics.concordance_index, 'event'), predicted, batch) == whole


@seeds
def test_concordance_in_batches(seed):
  metric = of(metrics.concordance_index, 'event')
  assert_batches_and_hosts_agree(metric, *survival_rows(seed, ties=True))
  assert_masked_rows_do_not_count(metric, *survival_rows(seed))


def choice_rows(seed, lengths=None):
  rng = np.random.default_rng(seed)
  outputs = -rng.exponential(4, size=(B, 4)).astype(np.float32)
  outputs[:3, 3] = -np.inf                                        # three options only
  length = rng.integers(1, 20, (B, 4)) if lengths is None else np.full((B, 4), lengths)
  return outputs, {'label': rng.integers(0, 3, B), 'mask': rng.random(B) < 0.7, 'bytes': length,
                   'prior': -rng.exponential(4, size=(B, 4)).astype(np.float32)}


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_multiple_choice_against_numpy(seed):
  outputs, batch = choice_rows(seed)
  batch['mask'][0] = True
  score = lambda x: (x.argmax(1) == batch['label'])[batch['mask']].mean()
  expected = [score(outputs), score(outputs / batch['bytes']), score(outputs - batch['prior'])]
  assert [number(metric, outputs, batch) for metric in CHOICE] == pytest.approx(expected, abs=1e-7)


def test_options_of_equal_length_need_no_normalisation():
  for seed in range(5):
    outputs, batch = choice_rows(seed, lengths=6)
    assert number(CHOICE[0], outputs, batch) == number(CHOICE[1], outputs, batch)


def test_an_option_of_no_length_is_none():
  batch = {'label': np.array([0]), 'mask': np.ones(1, bool), 'bytes': np.array([[3, 0]])}
  assert number(CHOICE[1], np.float32([[-6, 0]]), batch) == 1


@pytest.mark.parametrize('metric', CHOICE, ids=lambda metric: metric.specs[0].name)
@seeds
def test_multiple_choice_in_batches(metric, seed):
  assert_batches_and_hosts_agree(metric, *choice_rows(seed))
  assert_masked_rows_do_not_count(metric, *choice_rows(seed))
