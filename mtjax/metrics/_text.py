"""What metrics of text share: rows of strings, several references a row, normalisation, the libraries."""
import dataclasses
import importlib
import re
import string
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mtjax.metrics.base import MetricSpec, check_choice
from mtjax.metrics.decode import check_kind

NORMALISATIONS = ('none', 'lower', 'squad', 'letters')
_ARTICLES = re.compile(r'\b(a|an|the)\b')
_PUNCTUATION = str.maketrans('', '', string.punctuation)

References = tuple[str, ...]


class Texts:
  """A quantity of all rows of text, on the host.

  `update` takes strings: outputs [B], batch['label'] [B] of a string or of a sequence of them (several references, of
  which the row's metric says what becomes), and batch['mask'] [B] where rows are missing. In a run the outputs are what
  the model writes, see `mtjax.training.text_evaluation`.

  Args:
    spec: name and direction.
    value: (hypotheses, references of each) -> the value.
  """

  collects = True
  reads_text = True
  columns = ()

  def __init__(self, spec: MetricSpec, value: Callable[[Sequence[str], Sequence[References]], float]):
    self.specs = (spec,)
    self._value = value

  def init(self) -> tuple:
    """No rows: a state is a tuple of (hypothesis, references)."""
    return ()

  def update(self, state: tuple, outputs: Sequence[str], batch: Any) -> tuple:
    """Appends the rows of a batch."""
    mask = np.ones(len(outputs), bool) if batch.get('mask') is None else np.asarray(batch['mask'])
    if len(outputs) != len(batch['label']):
      raise ValueError(f'{self.specs[0].name}: {len(outputs)} outputs, but {len(batch["label"])} labels.')
    rows = ((_string(said), _references(label)) for said, label, m in zip(outputs, batch['label'], mask) if m)
    return (*state, *rows)

  def merge(self, a: tuple, b: tuple) -> tuple:
    """The rows of both."""
    return (*a, *b)

  def compute(self, state: tuple) -> dict[str, float]:
    """{name: value}; NaN without rows."""
    value = self._value([said for said, _ in state], [refs for _, refs in state]) if state else float('nan')
    return {self.specs[0].name: float(value)}


class Grouped(Texts):
  """A metric of all rows, and of each group of them: name, name/<group>, ….

  Args:
    metric: of text.
    by: the batch's column of groups [B], 0 … len(groups) - 1.
    groups: their names.
  """

  def __init__(self, metric: Texts, by: str, groups: Sequence[str]):
    (spec,) = metric.specs
    self.specs = (spec, *(dataclasses.replace(spec, name=f'{spec.name}/{group}') for group in groups))
    self.columns, self._metric = (by,), metric

  def update(self, state: tuple, outputs: Sequence[str], batch: Any) -> tuple:
    """Appends the rows of a batch, each with its group."""
    mask = np.ones(len(outputs), bool) if batch.get('mask') is None else np.asarray(batch['mask'])
    rows = self._metric.update((), outputs, batch)
    return (*state, *((*row, int(group)) for row, group in zip(rows, np.asarray(batch[self.columns[0]])[mask])))

  def compute(self, state: tuple) -> dict[str, float]:
    """{name: value of all rows, name/<group>: of its rows}."""
    values = self._metric.compute(tuple(row[:2] for row in state))
    for i, spec in enumerate(self.specs[1:]):
      values[spec.name] = next(iter(self._metric.compute(tuple(row[:2] for row in state if row[2] == i)).values()))
    return values


def in_groups(metric: Texts, by: str | None, groups: Sequence[str]) -> Texts:
  """The metric as it is where `by` is None, else `Grouped`; raises ValueError where one of the two is missing."""
  if isinstance(groups, str) or (by is None) != (not groups) or not all(isinstance(g, str) and g for g in groups):
    raise ValueError(f'{metric.specs[0].name} has by={by!r} and groups={groups!r}; allowed are a column with the names '
                     f'of its groups, or neither.')
  return metric if by is None else Grouped(metric, by, tuple(groups))


def mean_of_best(spec: MetricSpec, score: Callable[[str, str], float]) -> Texts:
  """The mean over rows of score(hypothesis, reference), of several references the best."""
  return Texts(spec, lambda said, refs: np.mean([max(score(s, r) for r in row) for s, row in zip(said, refs)]))


def normalise(text: str, how: str) -> str:
  """'none': as it is, without space around it; 'lower': lower case too; 'squad': also without punctuation, the articles
  a, an, the, and doubled spaces, in the order lower case, punctuation, articles, spaces; 'letters': lower case without
  accents, and a space for all that is no letter or digit, in any alphabet."""
  if how != 'none':
    text = text.lower()
  if how == 'letters':
    plain = (c for c in unicodedata.normalize('NFKD', text).lower() if not unicodedata.combining(c))
    text = ' '.join(''.join(c if c.isalnum() else ' ' for c in plain).split())
  if how == 'squad':
    text = ' '.join(_ARTICLES.sub(' ', text.translate(_PUNCTUATION)).split())
  return text.strip()


def check_text(kind: str, metric: str, normalisation: str = 'none') -> None:
  """Raises ValueError unless the head makes text and the normalisation is one of ours."""
  check_kind(kind, ('text',), metric)
  check_choice(normalisation, NORMALISATIONS, 'normalisation', metric)


def library(name: str) -> Any:
  """A module of the extra `text`; ImportError with the install line where it is missing."""
  try:
    return importlib.import_module(name)
  except ImportError as error:
    raise ImportError(f"This metric is computed by {name.split('.')[0]}, which is not installed: "
                      f"pip install 'mtjax[text]'.") from error


def _string(text: Any) -> str:
  if isinstance(text, bytes):
    return text.decode('utf-8')
  if not isinstance(text, str):
    raise ValueError(f'Metrics of text take strings, got {type(text).__name__}.')
  return str(text)


def _references(label: Any) -> References:
  """One or several, never none."""
  refs = (label,) if isinstance(label, (str, bytes)) else tuple(label)
  if not refs:
    raise ValueError('A row has no reference text; mask it.')
  return tuple(_string(ref) for ref in refs)
