"""`config.gradients`: how the engine works."""
import dataclasses

from mtjax.config import did_you_mean
from mtjax.optim import Aggregator

PLANS = ('auto', 'losses', 'jacobian', 'tape', 'probe', 'disjoint')


@dataclasses.dataclass(frozen=True)
class Options:
  """`config.gradients`.

  Attributes:
    plan: 'auto' picks the cheapest that the method can use, by counted flops; or a name of PLANS.
    at: 'parameters', or 'features': conflict is resolved on the shared representation.
    every_k: the weights are computed anew every k-th step, and used again in between.
    sub_batch: the share of the rows that the Gramian is computed on, in (0, 1].
    layers: patterns of the shared parameters that the Gramian is computed on; () = all.
    ema: decay of a moving average of the Gramian, 0 = none.
    group: tasks whose averaged cosine exceeds this are merged into one row before the solver; None = none are.
    sketch: number of random directions from which the Gramian is estimated; 0 = it is exact.
    chunk: tasks passed backward at a time; 0 = one at a time, each written out in the program, since a CPU is slow at
      convolutions within loops. None = all, but on a CPU 1, or 0 where convolutions prevail.
    accumulate: micro-batches a step (`mtjax.training.accumulation`); a method that `needs` only the losses goes forward
      twice then, since its weights come of the losses of all of them.
    affinity_every: every so many steps the affinity between tasks is measured (`mtjax.training.affinity`), at T
      backward and T + 1 forward passes, about T plain steps; the log has their mean. 0 = never, at no cost.
    max_bad: steps at which one task's gradient may be not finite (it is masked then) before the run stops.
  """

  plan: str = 'auto'
  at: str = 'parameters'
  every_k: int = 1
  sub_batch: float = 1.0
  layers: tuple[str, ...] = ()
  ema: float = 0.0
  group: float | None = None
  sketch: int = 0
  chunk: int | None = None
  accumulate: int = 1
  affinity_every: int = 0
  max_bad: int = 10

  @property
  def cheaper(self) -> bool:
    """Whether the Gramian is made from less than all rows, layers and directions."""
    return bool(self.sketch or self.layers or self.sub_batch < 1)

  def __post_init__(self):
    _check_choice('plan', self.plan, PLANS)
    _check_choice('at', self.at, ('parameters', 'features'))
    for field, low in (('every_k', 1), ('sketch', 0), ('accumulate', 1), ('affinity_every', 0),
                       ('max_bad', 0)):
      value = getattr(self, field)
      if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"'gradients.{field}' must be a whole number >= {low}, got {value!r}.")
    if self.chunk is not None and (not isinstance(self.chunk, int) or self.chunk < 0):
      raise ValueError(f"'gradients.chunk' must be None or a whole number >= 0, got {self.chunk!r}.")
    for field, inside, text in (('sub_batch', lambda x: 0 < x <= 1, 'in (0, 1]'),
                                ('ema', lambda x: 0 <= x < 1, 'in [0, 1)'),
                                ('group', lambda x: x is None or -1 < x < 1, 'None or in (-1, 1)')):
      value = getattr(self, field)
      if not (value is None or isinstance(value, (int, float))) or not inside(value):
        raise ValueError(f"'gradients.{field}' must be {text}, got {value!r}.")


def check_method(aggregator: Aggregator, options: Options, num_tasks: int, flat: bool = False) -> None:
  """Raises ValueError for options that a method cannot use; `flat`: within F-MTL."""
  name, needs = aggregator.name, aggregator.needs
  changed = [field for field in Options.__dataclass_fields__ if getattr(options, field) != getattr(Options(), field)]
  unused = [field for field in changed if field not in ('chunk', 'affinity_every', 'max_bad')]
  if flat and unused:
    raise ValueError(f"ftl takes every task's gradient twice, and has no use for 'gradients.{unused[0]}'.")
  usable = {'losses': ('auto', 'losses'), 'gramian': ('auto', 'jacobian', 'tape', 'probe', 'disjoint'),
            'jacobian': ('auto', 'jacobian', 'disjoint')}[needs]
  if aggregator.double_sampling:
    usable = ('auto', 'jacobian')
  if options.affinity_every and options.accumulate > 1:
    raise ValueError("'gradients.affinity_every' looks ahead on the whole batch, which 'gradients.accumulate' is to "
                     'avoid; choose one.')
  if options.plan not in usable:
    raise ValueError(f"'gradients.plan' is {options.plan!r}, which {name} cannot use: it needs the {needs}. "
                     f'Allowed: {", ".join(usable)}.')
  if num_tasks < 2 and needs != 'losses':
    raise ValueError(f'{name} resolves conflict between tasks, but there is only one task. Leave the aggregator out.')
  cheaper = [field for field in ('every_k', 'sub_batch', 'layers', 'ema', 'group', 'sketch') if field in changed]
  if cheaper and needs != 'gramian':
    raise ValueError(f"'gradients.{cheaper[0]}' makes a Gramian cheaper, but {name} needs the {needs}, not a Gramian.")
  sources = [field for field in ('sketch', 'layers', 'sub_batch') if field in cheaper]
  if 'sketch' in sources and len(sources) > 1:
    raise ValueError(f"'gradients.sketch' and 'gradients.{sources[1]}' are two ways to get the Gramian; choose one.")
  if sources and options.plan == 'probe':
    raise ValueError(f"'gradients.plan' is 'probe', which 'gradients.{sources[0]}' does not use. Leave it at 'auto'.")
  if options.at == 'features':
    blocked = [field for field in ('layers', 'sub_batch', 'sketch') if field in cheaper]
    blocked += ['accumulate'] if options.accumulate > 1 else []
    blocked += ['plan'] if options.plan != 'auto' else []
    if needs == 'losses' or aggregator.double_sampling or blocked:
      reason = f"'gradients.{blocked[0]}' concerns parameters" if blocked else f'{name} looks at no representation'
      raise ValueError(f"'gradients.at' is 'features', but {reason}. Use at='parameters'.")
  if aggregator.double_sampling and (sources or options.accumulate > 1):
    raise ValueError(f'{name} samples two batches by halves; it cannot be combined with accumulate, layers, sub_batch '
                     f'or sketch.')


def _check_choice(field: str, value: str, known: tuple[str, ...]) -> None:
  if value not in known:
    raise ValueError(f"Unknown 'gradients.{field}' {value!r}. {did_you_mean(value, known)}")
