"""The arms of the comparison: every method of `mtjax.optim` that can train a bed, with its card's defaults.

Left out: a learnt rotation for RotoGrad (its lengths alone are here), and variants of a method behind a switch. Krum
and the trimmed mean need four and three tasks. CR-MOGM wraps MGDA.
"""
import dataclasses
from collections.abc import Callable, Mapping

import mtjax.optim
from experiments.studies import rules
from experiments.studies.beds.base import Bed
from experiments.studies.harness import Rule

BASELINE = 'linear_scalarisation'
SEARCHED = 'linear_scalarisation, weights searched'


@dataclasses.dataclass(frozen=True)
class Arm:
  """One method.

  Attributes:
    name: in results.
    rule: how it makes a step.
    kind: what it needs: 'losses', 'gramian', 'jacobian', 'features', or 'sharpness' (a second gradient).
    validation: whether it looks at validation batches during training.
    draws: random loss weights tried at the chosen learning rate, per learning rate in the grid.
    least_tasks: it needs so many.
    watch: what is recorded before every tenth step; see `Trainer`.
    versus: {role: the arm it is compared with}.
    claims: {role: 'better' or 'kept', see `stats.holds`}; 'better' where it is not said.
  """

  name: str
  rule: Rule
  kind: str
  validation: bool = False
  draws: int = 0
  least_tasks: int = 2
  watch: Callable | None = None
  versus: Mapping[str, str] = dataclasses.field(default_factory=lambda: {'sum': BASELINE, 'searched weights': SEARCHED})
  claims: Mapping[str, str] = dataclasses.field(default_factory=dict)


def of(name: str, kind: str, *, clip: float | None = None, validation: bool = False, label: str | None = None,
       least_tasks: int = 2, **arguments) -> Arm:
  """An arm of the engine: the factory `name` of `mtjax.optim`; arguments may be functions of the problem."""
  factory: Callable = getattr(mtjax.optim, name)

  def make(problem):
    return factory(**{key: value(problem) if callable(value) else value for key, value in arguments.items()})

  return Arm(label or name, rules.engine(make, clip=clip), kind, validation, least_tasks=least_tasks)


def scalarisation(name: str, draws: int = 0) -> Arm:
  """The sum of losses, its weights equal or searched."""
  return Arm(name, rules.engine(lambda problem: mtjax.optim.linear_scalarisation()), 'losses', draws=draws)


def sharp(variant: str) -> Arm:
  """A variant of SAM on the sum of losses, with its defaults: one perturbed point for all tasks."""
  rule = rules.engine(lambda problem: mtjax.optim.linear_scalarisation(),
                      sharpness=lambda method, num_tasks: mtjax.optim.sam(variant=variant))
  return Arm(variant, rule, 'sharpness')


def flat(name: str) -> Arm:
  """F-MTL around an aggregator, with its defaults: a perturbed point for each task."""
  rule = rules.engine(lambda problem: getattr(mtjax.optim, name)(), sharpness=lambda method, num_tasks:
                      mtjax.optim.ftl(aggregator=method, num_tasks=num_tasks))
  return Arm(f'ftl({name})', rule, 'sharpness')


def equal_ratios(problem) -> tuple[float, ...]:
  """Every task drawn equally often."""
  return (1 / problem.num_tasks,) * problem.num_tasks


def epochs(count: int, most: float) -> Callable:
  """Steps of `count` epochs, but at most a share `most` of the training."""
  return lambda problem: max(1, min(count * problem.bed.steps_per_epoch, int(most * problem.bed.steps)))


ARMS: dict[str, Arm] = {arm.name: arm for arm in (
  # Fixed weights: the baselines.
  scalarisation(BASELINE),
  scalarisation(SEARCHED, draws=1),
  scalarisation('linear_scalarisation, weights searched 5x', draws=5),

  # Weightings of losses.
  of('scale_invariant', 'losses'),
  of('geometric', 'losses'),
  of('tchebycheff', 'losses'),
  of('stch', 'losses'),
  of('stch', 'losses', label='stch, recipe', warmup_steps=epochs(4, 0.2), nadir_steps=epochs(1, 0.05)),
  of('cosmos', 'losses'),
  of('pbi', 'losses'),
  of('rlw', 'losses'),
  of('uncertainty', 'losses'),
  of('imtl_l', 'losses'),
  of('dwa', 'losses'),
  of('famo', 'losses', clip=1.0),
  of('famo', 'losses', clip=1.0, label='famo, validation', validation=True, after='validation'),
  of('coba', 'losses', validation=True),
  of('self_paced', 'losses', validation=True),
  of('unmixed', 'losses', sampling=equal_ratios),
  Arm('tbgn', rules.unmixed(equal_ratios, lambda ratios, lr: mtjax.optim.tbgn(lr, sampling=ratios)), 'losses'),
  of('gradnorm', 'gramian', layer=lambda problem: problem.bed.last_layer),

  # Aggregators by the Gramian.
  of('mgda', 'gramian'),
  of('mgda_ub', 'features'),
  of('cr_mogm', 'gramian', label='cr_mogm(mgda)', aggregator=lambda problem: mtjax.optim.mgda()),
  of('sdmgrad', 'gramian'),
  of('modo', 'gramian'),
  of('upgrad', 'gramian'),
  of('dualproj', 'gramian'),
  of('pcd', 'gramian'),
  of('pcgrad', 'gramian'),
  of('gradvac', 'gramian'),
  of('cagrad', 'gramian'),
  of('imtl_g', 'gramian'),
  of('config', 'gramian'),
  of('aligned_mtl', 'gramian'),
  of('nash_mtl', 'gramian'),
  of('fairgrad', 'gramian'),
  of('db_mtl', 'gramian'),
  of('rotograd', 'features'),
  of('krum', 'gramian', least_tasks=4),

  # Aggregators of the whole Jacobian.
  of('moco', 'jacobian'),
  of('excess_mtl', 'jacobian'),
  of('graddrop', 'jacobian'),
  of('m_config', 'jacobian'),
  of('trimmed_mean', 'jacobian', least_tasks=3),

  # A second gradient at a perturbed point.
  sharp('sam'),
  sharp('asam'),
  sharp('gsam'),
  sharp('fsam'),
  sharp('looksam'),
  flat('pcgrad'),
  flat('cagrad'),
)}


def methods(bed: Bed) -> dict[str, Arm]:
  """Those that can train a bed; where the learning rate is tuned on few seeds, without the longest search."""
  return {name: arm for name, arm in ARMS.items()
          if bed.num_tasks >= arm.least_tasks and (bed.tune_seeds is None or arm.draws <= 1)}
