"""ROUGE-1, ROUGE-2 and ROUGE-L, by rouge-score (extra `text`).

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, https://aclanthology.org/W04-1013.

    ROUGE-n = F1 of the bags of n-grams,     ROUGE-L = F1 of the longest common subsequence of words

each the mean over rows, 0 … 1; of several references the best counts. Words are runs of lower-cased letters a … z and
digits (rouge-score's own tokens), without stemming: text of other alphabets has none.
"""
import functools

from mtjax.metrics._text import Texts, check_text, library, mean_of_best
from mtjax.metrics.base import MetricSpec


def rouge1(kind: str = 'text') -> Texts:
  """F1 of words.

  Example:
    >>> metric = rouge1()
    >>> batch = {'label': ['the cat sat'], 'mask': np.ones(1, bool)}
    >>> metric.compute(metric.update(metric.init(), ['The cat!'], batch))           # P = 1, R = 2/3
    {'rouge1': 0.8}
  """
  return _rouge('rouge1', kind)


def rouge2(kind: str = 'text') -> Texts:
  """F1 of pairs of words."""
  return _rouge('rouge2', kind)


def rouge_l(kind: str = 'text') -> Texts:
  """F1 of the longest common subsequence of words."""
  return _rouge('rougeL', kind)


def _rouge(name: str, kind: str) -> Texts:
  check_text(kind, name)
  scorer = functools.cache(lambda: library('rouge_score.rouge_scorer').RougeScorer([name]))
  return mean_of_best(MetricSpec(name, True, (0, 1)), lambda said, ref: scorer().score(ref, said)[name].fmeasure)
