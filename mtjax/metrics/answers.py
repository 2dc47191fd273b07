"""Metrics of short answers in words: exact match, token F1, word error rate.

Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", EMNLP 2016, section 6.1,
https://arxiv.org/abs/1606.05250.

    exact match = 1[hypothesis = reference]
    token F1 = 2 P R / (P + R) of the bags of words (a word counts as often as it is in both)
    WER = sum_rows substitutions + deletions + insertions / sum_rows words of the reference

`normalisation` comes first and is part of the number: 'none' strips space from the ends; 'lower' lower-cases too;
'squad' also drops ASCII punctuation, the articles a, an, the, and doubled spaces; 'letters' lower-cases, drops accents,
and puts a space for all that is no letter or digit, in any alphabet. Words are what white space separates. Of several
references the best counts.
"""
import collections
from collections.abc import Sequence

import numpy as np

from mtjax.metrics._text import Texts, check_text, in_groups, mean_of_best, normalise
from mtjax.metrics.base import MetricSpec


def word_f1(hypothesis: Sequence[str], reference: Sequence[str]) -> float:
  """F1 of two bags of words; of two empty ones 1, of one empty one 0."""
  if not hypothesis or not reference:
    return float(not hypothesis and not reference)
  same = sum((collections.Counter(hypothesis) & collections.Counter(reference)).values())
  return 2 * same / (len(hypothesis) + len(reference))


def edits(hypothesis: Sequence[str], reference: Sequence[str]) -> int:
  """Levenshtein's distance of two sequences of words."""
  row = list(range(len(reference) + 1))
  for i, word in enumerate(hypothesis, 1):
    corner, row[0] = row[0], i
    for j, other in enumerate(reference, 1):
      corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (word != other))
  return row[-1]


def exact_match(normalisation: str = 'lower', kind: str = 'text') -> Texts:
  """The share of rows whose text is a reference.

  Example:
    >>> metric = exact_match()
    >>> batch = {'label': ['farmer', 'farmer'], 'mask': np.ones(2, bool)}
    >>> metric.compute(metric.update(metric.init(), ['Farmer', 'a farmer'], batch))     # 'squad' would drop the article
    {'exact_match': 0.5}
  """
  check_text(kind, 'exact_match', normalisation)
  same = lambda said, ref: normalise(said, normalisation) == normalise(ref, normalisation)
  return mean_of_best(MetricSpec('exact_match', True, (0, 1)), same)


def token_f1(normalisation: str = 'squad', kind: str = 'text') -> Texts:
  """The mean over rows of the F1 of words.

  Example:
    >>> metric = token_f1()
    >>> batch = {'label': ['the red barn'], 'mask': np.ones(1, bool)}
    >>> round(metric.compute(metric.update(metric.init(), ['A barn.'], batch))['token_f1'], 4)    # P = 1, R = 1/2
    0.6667
  """
  check_text(kind, 'token_f1', normalisation)
  words = lambda text: normalise(text, normalisation).split()
  return mean_of_best(MetricSpec('token_f1', True, (0, 1)), lambda said, ref: word_f1(words(said), words(ref)))


def wer(normalisation: str = 'none', by: str | None = None, groups: Sequence[str] = (), kind: str = 'text') -> Texts:
  """Word error rate of all rows together (not the mean of rows); above 1 where there are many insertions.

  Of several references the one with the fewest edits a word counts. NaN where the references hold no word.

  Args:
    normalisation: see above.
    by: a column of groups [B], 0 … len(groups) - 1: 'wer' is then followed by 'wer/<group>' of each; None = none.
    groups: their names, e.g. languages.
    kind: 'text'.

  Example:
    >>> metric = wer()
    >>> batch = {'label': ['a b c', 'd'], 'mask': np.ones(2, bool)}
    >>> metric.compute(metric.update(metric.init(), ['a x c', 'd e'], batch))     # 1 substitution, 1 insertion; 4 words
    {'wer': 0.5}
  """
  check_text(kind, 'wer', normalisation)
  words = lambda text: normalise(text, normalisation).split()

  def best(said, refs):
    pairs = [(edits(words(said), words(ref)), len(words(ref))) for ref in refs]
    return min(pairs, key=lambda pair: pair[0] / max(pair[1], 1e-9))

  def value(said, refs):
    wrong, total = np.sum([best(s, row) for s, row in zip(said, refs)], axis=0)
    return wrong / total if total else float('nan')

  return in_groups(Texts(MetricSpec('wer', False, (0, np.inf)), value), by, groups)
