"""What holds of every metric: one batch, many batches and many hosts give the same number; masked rows do not count.

Updates are compiled, as in an evaluation: once a metric and shape, so that tests which share shapes are fast.
"""
import functools

import jax
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mtjax.metrics._text import Texts


def seeds(test):
  """A property of rows drawn by any seed; few examples each, since there are many metrics."""
  return settings(max_examples=4, deadline=None)(given(seed=st.integers(0, 10**6))(test))


@functools.cache
def of(make, *settings):
  """make(*settings), the same object every time."""
  return make(*settings)


@functools.cache
def step(metric):
  """The metric's update, compiled unless it is of strings."""
  return metric.update if isinstance(metric, Texts) else jax.jit(metric.update)


def state_of(metric, outputs, batch):
  """The state of one batch, on the host."""
  return jax.device_get(step(metric)(metric.init(), outputs, batch))


def compute(metric, outputs, batch, sizes=None):
  """{name: value} of the rows in batches of these sizes, one after the other, as an evaluation goes through them."""
  state, start = metric.init(), 0
  for size in sizes or [len(outputs)]:
    part = cut(outputs, batch, slice(start, start + size))
    state = metric.merge(state, state_of(metric, *part)) if metric.collects else step(metric)(state, *part)
    start += size
  return metric.compute(jax.device_get(state))


def number(metric, outputs, batch, sizes=None):
  """The value of a metric that has one number."""
  (value,) = compute(metric, outputs, batch, sizes).values()
  return value


def cut(outputs, batch, part):
  """Some rows of outputs and batch; lists of strings too."""
  return outputs[part], {name: column[part] for name, column in batch.items()}


def assert_batches_and_hosts_agree(metric, outputs, batch, parts=None, rtol=1e-6):
  """Sums that are exact, or compensated, agree to 1e-6 whatever the tree in which they are merged.

  parts: sizes of four batches; None = equal ones.
  """
  parts = parts or [len(outputs) // 4] * 4
  assert len(outputs) == sum(parts)
  whole = compute(metric, outputs, batch)
  same = lambda got: np.testing.assert_allclose(list(got.values()), list(whole.values()), rtol=rtol, atol=1e-7)
  same(compute(metric, outputs, batch, parts))
  ends = np.cumsum([0, *parts])
  a, b, c, d = (state_of(metric, *cut(outputs, batch, slice(*span))) for span in zip(ends[:-1], ends[1:]))
  merge = metric.merge
  same(metric.compute(merge(merge(merge(merge(metric.init(), a), b), c), d)))
  same(metric.compute(merge(merge(d, b), merge(c, a))))
  same(metric.compute(merge(a, merge(b, merge(c, d)))))


def assert_masked_rows_do_not_count(metric, outputs, batch):
  """What stands in masked rows is no matter; all of them masked is NaN, or 0 rows in a bin."""
  mask = np.array(batch['mask'])
  mask[1], batch = False, batch | {'mask': mask}
  gone = ~mask.reshape(len(mask), -1).any(1)
  # In place of a masked row stands the one before it.
  other = lambda x: [x[i - gone[i]] for i in range(len(x))] if isinstance(x, list) else np.asarray(x)[np.arange(len(x)) - gone]
  garbled = {name: column if name == 'mask' else other(column) for name, column in batch.items()}
  np.testing.assert_array_equal(list(compute(metric, other(outputs), garbled).values()),
                                list(compute(metric, outputs, batch).values()))
  nothing = compute(metric, outputs, batch | {'mask': np.zeros_like(mask)})
  assert all(np.isnan(value) or (name.endswith('/n') and value == 0) for name, value in nothing.items())
  assert list(metric.compute(metric.init())) == [spec.name for spec in metric.specs] == list(nothing)
