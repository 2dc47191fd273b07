"""Metrics of text: against sacreBLEU, rouge-score and slow loops; normalisation, several references, missing extras."""
import functools
import sys

import numpy as np
import pytest
from agree import assert_batches_and_hosts_agree, assert_masked_rows_do_not_count, number, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax import metrics
from mtjax.metrics import answers
from mtjax.metrics._text import normalise

OWN = [metrics.exact_match(), metrics.token_f1(), metrics.wer()]
BLEU = [metrics.bleu(), metrics.chrf(), metrics.chrf(word_order=2), metrics.ter()]
ROUGE = [metrics.rouge1(), metrics.rouge2(), metrics.rouge_l()]
ALL = OWN + BLEU + ROUGE
WORDS = ('a', 'the', 'Cat', 'cat', 'sat', 'on', 'mat.', 'mat')
texts = st.lists(st.sampled_from(WORDS), max_size=6).map(' '.join)
corpora = st.lists(st.tuples(texts, texts), min_size=1, max_size=6)


def need(metric):
  if metric in BLEU:
    pytest.importorskip('sacrebleu', reason="pip install 'mtjax[text]'")
  if metric in ROUGE:
    pytest.importorskip('rouge_score', reason="pip install 'mtjax[text]'")


def rows(seed, several=False):
  rng = np.random.default_rng(seed)
  text = lambda: ' '.join(rng.choice(WORDS, rng.integers(1, 7)))
  label = [tuple(text() for _ in range(rng.integers(1, 4))) if several else text() for _ in range(12)]
  return [text() for _ in range(12)], {'label': label, 'mask': rng.random(12) < 0.7}


@pytest.mark.parametrize('metric', ALL, ids=lambda metric: metric.specs[0].name)
@seeds
def test_in_batches(metric, seed):
  need(metric)
  for several in (False, True):
    assert_batches_and_hosts_agree(metric, *rows(seed, several))
  assert_masked_rows_do_not_count(metric, *rows(seed))


@pytest.mark.parametrize('metric', ALL, ids=lambda metric: metric.specs[0].name)
def test_identical_texts(metric):
  need(metric)
  lines = ['the cat sat on the mat', 'a mat is on the cat']
  best = {'bleu': 100, 'chrf': 100, 'chrf++': 100, 'ter': 0, 'wer': 0}.get(metric.specs[0].name, 1)
  assert number(metric, lines, {'label': lines, 'mask': np.ones(2, bool)}) == pytest.approx(best, abs=1e-9)


@given(corpus=corpora)
@settings(max_examples=20, deadline=None)
def test_corpus_scores_are_those_of_sacrebleu(corpus):
  sacrebleu = pytest.importorskip('sacrebleu', reason="pip install 'mtjax[text]'")
  said, label = map(list, zip(*corpus))
  batch = {'label': label, 'mask': np.ones(len(said), bool)}
  expected = [sacrebleu.corpus_bleu(said, [label]).score, sacrebleu.corpus_chrf(said, [label]).score,
              sacrebleu.corpus_chrf(said, [label], word_order=2).score, sacrebleu.corpus_ter(said, [label]).score]
  assert [number(metric, said, batch) for metric in BLEU] == pytest.approx(expected, abs=1e-12)


def test_a_corpus_is_not_the_mean_of_its_sentences_and_says_how_it_was_scored(caplog):
  pytest.importorskip('sacrebleu', reason="pip install 'mtjax[text]'")
  said, label = ['the cat sat on the mat', 'a dog'], ['the cat sat on a mat', 'a dog barked at me']
  metric = metrics.bleu()
  state = metric.update(metric.init(), said, {'label': label})
  with caplog.at_level('INFO', logger='mtjax'):
    (corpus,) = metric.compute(state).values()
  single = [number(metric, said[i:i + 1], {'label': label[i:i + 1]}) for i in range(2)]
  assert corpus != pytest.approx(np.mean(single), rel=0.01)
  signature = metric.signature(state)
  assert 'nrefs:1' in signature and 'tok:13a' in signature and 'smooth:exp' in signature and signature in caplog.text
  assert 'nc:6|nw:2' in metrics.chrf(2).signature(state) and 'nc:6|nw:0' in metrics.chrf().signature(state)


def test_rows_may_have_different_numbers_of_references():
  sacrebleu = pytest.importorskip('sacrebleu', reason="pip install 'mtjax[text]'")
  said = ['the cat sat on the mat', 'a mat']
  batch = {'label': [('a cat sat on the mat', 'the cat sat here'), ('the mat',)], 'mask': np.ones(2, bool)}
  expected = sacrebleu.corpus_bleu(said, [['a cat sat on the mat', 'the mat'], ['the cat sat here', None]]).score
  assert number(metrics.bleu(), said, batch) == pytest.approx(expected, abs=1e-12)


@given(corpus=corpora)
@settings(max_examples=20, deadline=None)
def test_rouge_is_that_of_rouge_score(corpus):
  scorer = pytest.importorskip('rouge_score.rouge_scorer', reason="pip install 'mtjax[text]'")
  said, label = map(list, zip(*corpus))
  batch = {'label': label, 'mask': np.ones(len(said), bool)}
  for name, metric in zip(('rouge1', 'rouge2', 'rougeL'), ROUGE):
    each = [scorer.RougeScorer([name]).score(y, x)[name].fmeasure for x, y in zip(said, label)]
    assert number(metric, said, batch) == pytest.approx(np.mean(each), abs=1e-12)


@given(hypothesis=texts, reference=texts)
@settings(max_examples=40, deadline=None)
def test_edits_against_the_recursion(hypothesis, reference):
  a, b = hypothesis.split(), reference.split()

  @functools.cache
  def distance(i, j):
    if not i or not j:
      return i + j
    return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

  assert answers.edits(a, b) == distance(len(a), len(b)) == answers.edits(b, a)


def test_word_error_rate_is_of_all_words_together():
  # 1 of 1 words and 1 of 4 wrong: 2/5, where the mean of the rows were 5/8.
  batch = {'label': ['a', 'a b c d'], 'mask': np.ones(2, bool)}
  assert number(metrics.wer(), ['x', 'a b c x'], batch) == pytest.approx(2 / 5)
  assert number(metrics.wer(), ['x y z', ''], batch) == pytest.approx(7 / 5)            # above 1
  assert np.isnan(number(metrics.wer(), ['x'], {'label': [''], 'mask': np.ones(1, bool)}))
  two = {'label': [('a b', 'a b c d')], 'mask': np.ones(1, bool)}                       # 1 of 4 beats 1 of 2
  assert number(metrics.wer(), ['a b c'], two) == pytest.approx(1 / 4)


def test_word_error_rate_by_groups():
  metric = metrics.wer(by='language', groups=('en', 'it', 'ru'))
  assert [spec.name for spec in metric.specs] == ['wer', 'wer/en', 'wer/it', 'wer/ru'] and metric.columns == ('language',)
  # 1 of 3 words of en wrong (its second row is masked), 1 of 1 of it; ru has no row
  batch = {'label': ['a b c', 'd', 'e'], 'language': np.array([0, 0, 1]), 'mask': np.array([True, False, True])}
  found = metric.compute(metric.update(metric.init(), ['a b x', 'y', 'z'], batch))
  assert np.isnan(found.pop('wer/ru')) and found == {'wer': 2 / 4, 'wer/en': 1 / 3, 'wer/it': 1.0}
  for how in (dict(by='language'), dict(groups=('en',)), dict(by='language', groups='en')):
    with pytest.raises(ValueError, match='allowed are a column with the names of its groups, or neither'):
      metrics.wer(**how)


@seeds
def test_groups_in_batches(seed):
  said, batch = rows(seed)
  batch['group'] = np.arange(12) % 2
  metric = metrics.wer(by='group', groups=('even', 'odd'))
  whole = metric.compute(metric.update(metric.init(), said, batch))
  halves = [metric.update((), said[part], {k: v[part] for k, v in batch.items()}) for part in (slice(7), slice(7, 12))]
  np.testing.assert_equal(metric.compute(metric.merge(*halves)), whole)


def test_normalisation():
  text = ' The  cat, an animal; is A cat! '
  assert normalise(text, 'none') == 'The  cat, an animal; is A cat!'
  assert normalise(text, 'lower') == 'the  cat, an animal; is a cat!'
  assert normalise(text, 'squad') == 'cat animal is cat'
  assert normalise('theatre', 'squad') == 'theatre'                                     # an article is a word
  assert normalise("  C'È\tl'été: №1 — Ёлка! ", 'letters') == 'c e l ete no1 елка' and normalise('…', 'letters') == ''


def test_exact_match_by_normalisation():
  match = lambda said, label, **how: number(metrics.exact_match(**how), [said], {'label': [label], 'mask': np.ones(1, bool)})
  assert match('Farmer', 'farmer') == 1 and match('a farmer', 'farmer') == 0            # lower case only, by default
  assert match('a farmer', 'farmer', normalisation='squad') == 1
  assert match('Farmer', 'farmer', normalisation='none') == 0 and match(' farmer ', 'farmer', normalisation='none') == 1
  assert match('185 cm', '185') == 0
  assert match('x', ('y', 'X')) == 1                                                    # the best of several references
  with pytest.raises(ValueError, match="normalisation='upper'; allowed are 'none', 'lower', 'squad'"):
    metrics.exact_match('upper')


def test_token_f1_of_bags():
  assert answers.word_f1(['b', 'b', 'a'], ['b', 'a', 'a']) == pytest.approx(2 * 2 / 6)   # b once, a once
  assert answers.word_f1([], []) == 1 and answers.word_f1([], ['a']) == 0 == answers.word_f1(['a'], [])


def test_what_is_no_text_is_refused():
  for make in (metrics.bleu, metrics.rouge1, metrics.exact_match):
    with pytest.raises(ValueError, match="is for heads of kind 'text', got 'softmax'"):
      make(kind='softmax')
  with pytest.raises(ValueError, match='take strings, got int'):
    number(metrics.wer(), [3], {'label': ['a'], 'mask': np.ones(1, bool)})
  with pytest.raises(ValueError, match='2 outputs, but 1 labels'):
    number(metrics.wer(), ['a', 'b'], {'label': ['a'], 'mask': np.ones(2, bool)})
  with pytest.raises(ValueError, match='no reference'):
    number(metrics.wer(), ['a'], {'label': [()], 'mask': np.ones(1, bool)})
  with pytest.raises(ValueError, match='word_order=1; allowed are 0'):
    metrics.chrf(1)
  assert number(metrics.wer(), np.array([b'a', b'b']), {'label': np.array(['a', 'c']), 'mask': np.ones(2, bool)}) == 0.5


@pytest.mark.parametrize('metric, module', [(metrics.bleu, 'sacrebleu'), (metrics.rouge1, 'rouge_score.rouge_scorer')])
def test_a_missing_library_names_the_extra(monkeypatch, metric, module):
  monkeypatch.setitem(sys.modules, module, None)
  metric = metric()
  with pytest.raises(ImportError, match=r"pip install 'mtjax\[text\]'"):
    number(metric, ['a'], {'label': ['a'], 'mask': np.ones(1, bool)})
