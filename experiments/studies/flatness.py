"""Flatness and conflict: the plain rule, SAM on the sum, the rule on SAM's gradients, and F-MTL's two parts apart.

python -m experiments.studies.flatness --bed=NAME ['--methods=mgda;ftl(mgda)'] [--seeds=N] [--smoke]
python -m experiments.studies.tables

Phan et al., 2022, https://arxiv.org/abs/2211.13723: any rule gains when the gradients of loss and of flatness are
aggregated apart. For PCGrad, CAGrad, MGDA and IMTL-G: the rule on {g_t}; `direct`, the rule on {g_t^SAM}; and F-MTL,
the rule on {g_t} plus the rule on {g_t^SAM - g_t}. Beside them the sum of the losses and SAM on it. rho = 0.2 and joint
norms. Recorded besides: the share of steps whose gradients point apart. How arms are trained and compared:
`experiments.studies.comparison`. Writes experiments/results/flatness/BED.json.
"""
import dataclasses

import mtjax.optim
from experiments.studies import comparison, rules
from experiments.studies.arms import BASELINE, Arm
from experiments.studies.beds.base import Bed

CLAIM = "Any rule gains from SAM's gradients, and more when loss and flatness are aggregated apart (F-MTL)."
RULES = ('pcgrad', 'cagrad', 'mgda', 'imtl_g')
RHO = 0.2
BEDS = ('composite_digits', 'composite_digits_noisy', 'composite_digits_fixed', 'composite_digits_noisy_fixed',
        'multimnist', 'multifashion')


def flat(name: str, mode: str):
  """F-MTL around an aggregator, in one of its modes."""
  return rules.engine(lambda problem: getattr(mtjax.optim, name)(), sharpness=lambda method, num_tasks:
                      mtjax.optim.ftl(RHO, method, norms='joint', mode=mode, num_tasks=num_tasks))


def arms(bed: Bed) -> dict[str, Arm]:
  """{name: arm}; each with SAM against the rule without and SAM on the sum, F-MTL against the direct rule besides."""
  del bed
  total = rules.engine(lambda problem: mtjax.optim.linear_scalarisation())
  sam = rules.engine(lambda problem: mtjax.optim.linear_scalarisation(),
                     sharpness=lambda method, num_tasks: mtjax.optim.sam(RHO))
  found = {BASELINE: Arm(BASELINE, total, 'losses', versus={}),
           'sam': Arm('sam', sam, 'sharpness', versus={'without sam': BASELINE})}
  for name in RULES:
    factory = getattr(mtjax.optim, name)
    plain = rules.engine(lambda problem, factory=factory: factory())
    direct, both = f'ftl({name}, direct)', f'ftl({name})'
    found[name] = Arm(name, plain, 'gramian', versus={'sum': BASELINE})
    versus = {'without sam': name, 'sam on the sum': 'sam'}
    found[direct] = Arm(direct, flat(name, 'direct'), 'sharpness', versus=versus)
    found[both] = Arm(both, flat(name, 'decomposed'), 'sharpness', versus={**versus, 'direct': direct})
  return {name: dataclasses.replace(arm, watch=rules.conflicts) for name, arm in found.items()}


if __name__ == '__main__':
  comparison.main('flatness', CLAIM, __doc__, arms, BEDS)
