"""Cheaper statistics: do conflict-aware weights from less than the exact Gramian keep the quality?

python -m experiments.studies.cheaper_statistics --bed=NAME ['--methods=upgrad;upgrad, every_k=8'] [--seeds=N] [--smoke]
python -m experiments.studies.tables

UPGrad, CAGrad and Nash-MTL with the exact Gramian; with weights kept for eight steps (`every_k`), from an eighth of the
rows (`sub_batch`), from the last shared layer (`layers`), and with the Gramian of the shared representation
(`features`). How arms are trained and compared: `experiments.studies.comparison`; each is compared with its own exact
rule. Writes experiments/results/cheaper_statistics/BED.json.
"""
import dataclasses

import mtjax.optim
from experiments.studies import beds, comparison, rules
from experiments.studies.arms import BASELINE, Arm
from experiments.studies.beds.base import Bed

CLAIM = 'Weights from less than the exact Gramian keep the quality (delta_m is worse by less than 1 point).'
RULES = ('upgrad', 'cagrad', 'nash_mtl')


def arms(bed: Bed) -> dict[str, Arm]:
  """{name: arm}."""
  cheaper = {'every_k=8': {'every_k': 8}, 'sub_batch=1/8': {'sub_batch': 0.125},
             'layers=last': {'layers': (bed.last_layer,)}, 'features': {'at': 'features'},
             'every_k=8, layers=last': {'every_k': 8, 'layers': (bed.last_layer,)},
             'every_k=8, sub_batch=1/8': {'every_k': 8, 'sub_batch': 0.125}}
  total = rules.engine(lambda problem: mtjax.optim.linear_scalarisation())
  found = [Arm(BASELINE, total, 'losses', versus={})]
  for name in RULES:
    factory = getattr(mtjax.optim, name)
    exact = Arm(name, rules.engine(lambda problem, factory=factory: factory()), 'gramian', versus={'sum': BASELINE})
    found.append(exact)
    for label, options in cheaper.items():
      rule = rules.engine(lambda problem, factory=factory: factory(), **options)
      found.append(dataclasses.replace(exact, name=f'{name}, {label}', rule=rule,
                                       versus={'sum': BASELINE, 'exact': name}, claims={'exact': 'kept'}))
  return {arm.name: arm for arm in found}


if __name__ == '__main__':
  comparison.main('cheaper_statistics', CLAIM, __doc__, arms, list(beds.BEDS))
