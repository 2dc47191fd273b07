"""Concordance index of survival times, some of them censored.

Harrell et al., "Evaluating the Yield of Medical Tests", JAMA 247, 1982; "Multivariable Prognostic Models", Statistics
in Medicine 15, 1996, section 5.5.

    C = sum over comparable pairs of 1[f_i < f_j] + 1[f_i = f_j] / 2   /   #comparable pairs

A pair (i, j) is comparable where i is known to come first: event_i = 1 and t_i < t_j, or t_i = t_j and only i had the
event. t: observed time [N]; event: 1 = it happened at t, 0 = not until t; f: predicted time [N].
"""
import jax
import numpy as np

from mtjax.losses.survival import survival_curve
from mtjax.metrics.base import Collected, MetricSpec, check_choice
from mtjax.metrics.decode import check_kind

_BLOCK = 1 << 22      # pairs held at once


def concordance(predicted: np.ndarray, time: np.ndarray, event: np.ndarray) -> float:
  """C of predicted times, observed times and events (bool), all [N]; NaN where no pair is comparable.

  All N^2 pairs are looked at, in blocks.
  """
  first = np.flatnonzero(event)
  right, pairs = 0.0, 0
  step = max(1, _BLOCK // max(1, len(time)))
  for start in range(0, len(first), step):
    i = first[start:start + step, None]
    comparable = (time[i] < time) | ((time[i] == time) & ~event)
    before, same = predicted[i] < predicted, predicted[i] == predicted
    right += np.sum(comparable & before) + 0.5 * np.sum(comparable & same)
    pairs += int(comparable.sum())
  return right / pairs if pairs else float('nan')


def concordance_index(event: str | None = None, predicts: str = 'time', kind: str = 'identity') -> Collected:
  """Harrell's C.

  Args:
    event: the batch's column of events [B] (1 = happened, 0 = censored); None where all happened.
    predicts: 'time' (more is later) or 'risk' (more is earlier).
    kind: 'identity'; the label is the observed time [B].

  Example:
    >>> metric = concordance_index(event='died')
    >>> batch = {'label': np.array([1.0, 2.0, 3.0]), 'died': np.array([1, 0, 1]), 'mask': np.ones(3, bool)}
    >>> state = metric.update(metric.init(), np.array([2.0, 1.0, 3.0]), batch)
    >>> metric.compute(state)                                          # row 0 before 1: no; before 2: yes
    {'concordance_index': 0.5}
  """
  check_kind(kind, ('identity',), 'concordance_index')
  check_choice(predicts, ('time', 'risk'), 'predicts', 'concordance_index')
  if event is not None and (not isinstance(event, str) or not event):
    raise ValueError(f'concordance_index has event={event!r}; allowed is the name of a column, or None.')

  def value(outputs, time, mask, events=None):
    keep = mask.reshape(len(mask), -1).all(1)
    events = np.ones(len(keep)) if events is None else events
    outputs, time, events = (x.reshape(len(keep))[keep] for x in (outputs, time, events))
    return concordance(outputs if predicts == 'time' else -outputs, time, events > 0)

  return Collected(MetricSpec('concordance_index', True, (0, 1), null_value=0.5), value,
                   columns=(event,) if event else ())


def survival_concordance(time: str | None = None, event: str | None = None, kind: str = 'sigmoid') -> Collected:
  """Harrell's C of a discrete survival model (`mtjax.heads.Survival`), whose predicted time is sum_k S_k.

  Args:
    time: the batch's column of observed times [B]; None = the label's intervals, which has many ties.
    event: the batch's column of events [B] (1 = happened, 0 = censored); None = the label's.
    kind: 'sigmoid': outputs are the log-odds of the hazards [B, K], labels (interval, event) [B, 2].

  Example:
    >>> metric = survival_concordance()
    >>> batch = {'label': np.array([[0, 1], [1, 1], [1, 0]]), 'mask': np.ones(3, bool)}
    >>> state = metric.update(metric.init(), np.array([[0.0, 0.0], [-1.0, -1.0], [-2.0, -2.0]]), batch)
    >>> metric.compute(state)                                          # the sooner, the higher the hazard
    {'concordance': 1.0}
  """
  check_kind(kind, ('sigmoid',), 'survival_concordance')
  columns = tuple(name for name in (time, event) if name is not None)
  if not all(isinstance(name, str) and name for name in columns):
    raise ValueError(f'survival_concordance has time={time!r} and event={event!r}; allowed are names of columns, or '
                     f'None.')

  def value(curve, label, mask, *read):
    keep = mask.reshape(len(mask), -1).all(1)
    own = dict(zip(columns, read))
    times, events = own.get(time, label[:, 0])[keep], own.get(event, label[:, 1])[keep]
    return concordance(curve.astype(np.float64).sum(axis=1)[keep], times, events > 0)

  return Collected(MetricSpec('concordance', True, (0, 1), null_value=0.5), value, prepare=_curve, columns=columns)


def _curve(outputs: jax.Array) -> jax.Array:
  return survival_curve(jax.numpy.asarray(outputs))
