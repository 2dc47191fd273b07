"""BLEU, chrF, chrF++ and TER of a corpus, by sacreBLEU (extra `text`).

Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018, https://arxiv.org/abs/1804.08771. BLEU: Papineni et al.,
ACL 2002, tokens '13a', smoothing 'exp'; chrF: Popović, WMT 2015, character n-grams to 6, beta = 2; chrF++: the same
with words and pairs of words; TER: Snover et al., AMTA 2006.

All are of the whole corpus, 0 … 100 (TER may be more): the mean of sentences' BLEU is another number.
`signature(state)` is what a paper should print; it is logged with every number.
"""
import itertools
import logging
import math
from collections.abc import Sequence

from mtjax.metrics._text import References, Texts, check_text, library
from mtjax.metrics.base import MetricSpec

log = logging.getLogger('mtjax')


class SacreBleu(Texts):
  """One metric of sacreBLEU; `make` gives it anew."""

  def __init__(self, spec: MetricSpec, make):
    super().__init__(spec, self._logged)
    self._make = make

  def signature(self, state: tuple) -> str:
    """How sacreBLEU made the number of a state: version, tokens, smoothing, references."""
    return self._score([said for said, _ in state], [refs for _, refs in state])[1]

  def _logged(self, said: Sequence[str], refs: Sequence[References]) -> float:
    score, signature = self._score(said, refs)
    log.info('%s %.4f %s', self.specs[0].name, score, signature)
    return score

  def _score(self, said: Sequence[str], refs: Sequence[References]) -> tuple[float, str]:
    metric = self._make(library('sacrebleu'))
    # Rows with fewer references than others have None in the rest.
    score = metric.corpus_score(list(said), [list(column) for column in itertools.zip_longest(*refs)]).score
    return score, str(metric.get_signature())


def bleu(kind: str = 'text') -> SacreBleu:
  """BLEU of the corpus, 0 … 100.

  Example:
    >>> metric = bleu()
    >>> batch = {'label': ['the cat sat on the mat'], 'mask': np.ones(1, bool)}
    >>> round(metric.compute(metric.update(metric.init(), ['the cat sat on the mat'], batch))['bleu'], 6)
    100.0
  """
  check_text(kind, 'bleu')
  return SacreBleu(MetricSpec('bleu', True, (0, 100), null_value=0.0), lambda library: library.BLEU())


def chrf(word_order: int = 0, kind: str = 'text') -> SacreBleu:
  """chrF of the corpus, 0 … 100.

  Args:
    word_order: 0 ('chrf') or 2 (chrF++, 'chrf++').
    kind: 'text'.
  """
  check_text(kind, 'chrf')
  if word_order not in (0, 2):
    raise ValueError(f'chrf has word_order={word_order!r}; allowed are 0 (chrF) and 2 (chrF++).')
  name = 'chrf++' if word_order else 'chrf'
  spec = MetricSpec(name, True, (0, 100), null_value=0.0)
  return SacreBleu(spec, lambda library: library.CHRF(word_order=word_order))


def ter(kind: str = 'text') -> SacreBleu:
  """Translation edit rate of the corpus in percent: edits and shifts a word of the reference; 0 is best."""
  check_text(kind, 'ter')
  return SacreBleu(MetricSpec('ter', False, (0, math.inf)), lambda library: library.TER())
