"""Several metrics as one."""
import dataclasses
from collections.abc import Mapping
from typing import Any


class Collection:
  """Metrics of one task, updated together.

  Args:
    metrics: {name: metric}.
  """

  def __init__(self, metrics: Mapping[str, Any]):
    self.metrics = dict(metrics)

  def __bool__(self) -> bool:
    return bool(self.metrics)

  @property
  def specs(self) -> tuple:
    """What their numbers mean, in order; the first one is the task's primary metric."""
    specs = (spec for metric in self.metrics.values() for spec in metric.specs)
    return tuple(dataclasses.replace(spec, primary=i == 0) for i, spec in enumerate(specs))

  @property
  def columns(self) -> tuple[str, ...]:
    """What they read of a batch besides its label."""
    return tuple(dict.fromkeys(name for metric in self.metrics.values() for name in getattr(metric, 'columns', ())))

  @property
  def names(self) -> tuple[str, ...]:
    """The names of their numbers."""
    return tuple(spec.name for spec in self.specs)

  @property
  def streaming(self) -> 'Collection':
    """Those whose state is a few sums: to be updated inside a compiled step."""
    return Collection({name: metric for name, metric in self.metrics.items() if not metric.collects})

  @property
  def collecting(self) -> 'Collection':
    """Those that keep every row of outputs: to be updated on the host."""
    return Collection({name: metric for name, metric in self.metrics.items() if metric.collects and not _reads(metric)})

  @property
  def of_text(self) -> 'Collection':
    """Those that read what a model writes."""
    return Collection({name: metric for name, metric in self.metrics.items() if _reads(metric)})

  def init(self) -> dict[str, Any]:
    """{name: state}."""
    return {name: metric.init() for name, metric in self.metrics.items()}

  def update(self, state: Mapping[str, Any], outputs: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """All of them."""
    return {name: metric.update(state[name], outputs, batch) for name, metric in self.metrics.items()}

  def merge(self, a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """All of them."""
    return {name: metric.merge(a[name], b[name]) for name, metric in self.metrics.items()}

  def compute(self, state: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of all of them."""
    return {key: value for name, metric in self.metrics.items() for key, value in metric.compute(state[name]).items()}


def _reads(metric: Any) -> bool:
  return getattr(metric, 'reads_text', False)
