"""What holds of every metric: one batch, many batches and many hosts give the same number; masked rows do not count."""
import functools

import jax
import numpy as np


def compute(metric, outputs, batch, sizes=None):
  """{name: value} of the rows in batches of these sizes."""
  state, start = metric.init(), 0
  for size in sizes or [len(outputs)]:
    state = metric.update(state, *cut(outputs, batch, slice(start, start + size)))
    start += size
  return metric.compute(jax.device_get(state))


def number(metric, outputs, batch, sizes=None):
  """The value of a metric that has one number."""
  (value,) = compute(metric, outputs, batch, sizes).values()
  return value


def cut(outputs, batch, part):
  """Some rows of outputs and batch; lists of strings too."""
  return outputs[part], {name: column[part] for name, column in batch.items()}


def assert_batches_and_hosts_agree(metric, outputs, batch, parts=(3, 1, 4, 2), rtol=1e-6, jit=True):
  """Sums that are exact, or compensated, agree to 1e-6 whatever the tree in which they are merged."""
  assert len(outputs) == sum(parts)
  whole = compute(metric, outputs, batch)
  same = lambda got: np.testing.assert_allclose(list(got.values()), list(whole.values()), rtol=rtol, atol=1e-7)
  same(compute(metric, outputs, batch, parts))
  ends = np.cumsum([0, *parts])
  hosts = lambda: [jax.device_get(metric.update(metric.init(), *cut(outputs, batch, slice(a, b))))
                   for a, b in zip(ends[:-1], ends[1:])]
  same(metric.compute(functools.reduce(metric.merge, [metric.init(), *hosts()])))              # ((a b) c) d
  a, b, c, d = hosts()
  same(metric.compute(metric.merge(metric.merge(a, b), metric.merge(c, d))))                   # (a b) (c d)
  a, b, c, d = hosts()
  same(metric.compute(metric.merge(a, metric.merge(b, metric.merge(c, d)))))                   # a (b (c d))
  if jit:
    same(metric.compute(jax.device_get(jax.jit(metric.update)(metric.init(), outputs, batch))))


def assert_masked_rows_do_not_count(metric, outputs, batch):
  """What stands in masked rows is no matter, and all of them masked is NaN, or 0 rows in a bin."""
  mask = np.asarray(batch['mask'])
  keep = np.flatnonzero(mask.reshape(len(mask), -1).any(1))
  if len(keep) < len(mask):
    rows = lambda x: [x[i] for i in keep] if isinstance(x, list) else np.asarray(x)[keep]
    kept = compute(metric, rows(outputs), {name: rows(column) for name, column in batch.items()})
    np.testing.assert_allclose(list(compute(metric, outputs, batch).values()), list(kept.values()), rtol=1e-6)
  nothing = compute(metric, outputs, batch | {'mask': np.zeros_like(mask)})
  assert all(np.isnan(value) or (name.endswith('/n') and value == 0) for name, value in nothing.items())
  assert list(metric.compute(metric.init())) == [spec.name for spec in metric.specs] == list(nothing)
