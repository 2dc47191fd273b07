"""The verdict on a comparison's claim over its beds: `verdict.json`, which `mtjax.studies.index` reads.

A claim is tested by the arms and roles that `PARTS` names: each pair of arms on each bed says yes, no, or no evidence
(`stats.holds`; Holm within a bed). On a bed, a claim about every method holds where all pairs say yes, one about some
method where any does; neither holds where one says no and none yes; else there is no evidence. Over the parts of a
claim, and then over beds, all have to hold. The sentence counts the pairs.
"""
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Part(NamedTuple):
  """A part of a claim, and what tests it.

  Attributes:
    role: of the reference arm, a key of `Arm.versus`.
    form: 'better', or 'not worse' for what is to be kept; see `stats.holds`.
    yes: what a pair shows for which the claim holds, in words.
    no: what one shows for which it does not.
  some: whether the claim is about some method of a bed, not about every one. Holm's correction is over all of them.
  without: arms of which the claim does not speak.
  """

  role: str
  form: str
  yes: str
  no: str
  some: bool = False
  without: tuple[str, ...] = ()


# The sum of the losses is the reference; with its weights searched or at a perturbed point it resolves no conflict.
SUMS = ('linear_scalarisation, weights searched', 'linear_scalarisation, weights searched 5x', 'sam', 'asam', 'gsam',
        'fsam', 'looksam')
PARTS = {
  'gradient_methods': (Part('sum', 'better', 'better than the sum of the losses', 'worse', True, SUMS),),
  'flatness': (Part('without sam', 'better', "better with SAM's gradients than without", 'worse'),
               Part('direct', 'better', "better with loss and flatness apart than by the rule on SAM's gradients",
                    'worse')),
  'cheaper_statistics': (
    Part('exact', 'not worse', 'less than 1 point behind the exact Gramian (whole 95 % interval)', 'worse'),),
}
PAPERS = {'flatness': 'ftl'}
METRIC = 'Δm, percent worse than single-task training'


def combine(found: Sequence[bool | None], some: bool = False) -> bool | None:
  """True where all are (`some`: where any is), False where one is False and none True, else None (of nothing, too)."""
  if True in found and (some or all(found)):
    return True
  return False if False in found and True not in found else None


def pairs(study: str, results: Mapping[str, dict]) -> Iterator[tuple[Part, str, str, dict]]:
  """(part, bed, arm, its comparison) of all that test the claim."""
  for part in PARTS[study]:
    for bed, result in results.items():
      for name, arm in result['arms'].items():
        if arm['status'] == 'finished' and part.role in arm['versus'] and name not in part.without:
          yield part, bed, name, arm['versus'][part.role]


def by_bed(study: str, results: Mapping[str, dict]) -> dict[str, bool | None]:
  """{bed: whether the claim holds there}."""
  found: dict[tuple, list] = {(part, bed): [] for part in PARTS[study] for bed in results}
  for part, bed, _, pair in pairs(study, results):
    found[part, bed].append(pair['holds'])
  return {bed: combine([combine(found[part, bed], part.some) for part in PARTS[study]]) for bed in results}


def sentence(study: str, results: Mapping[str, dict]) -> str:
  """The counts of what the pairs say."""
  parts = []
  for part in PARTS[study]:
    found = [pair['holds'] for own, _, _, pair in pairs(study, results) if own is part]
    parts.append(f'{part.yes} in {found.count(True)} of {len(found)} comparisons, {part.no} in {found.count(False)}, '
                 f'no evidence in {found.count(None)}')
    if part.some and len(results) > 1:
      parts[-1] += f'; some method is on {list(by_bed(study, results).values()).count(True)} of the beds'
  where = f'{len(results)} beds' if len(results) > 1 else f'one bed, {next(iter(results))}'
  text = '; '.join(parts)
  return f'{text[0].upper()}{text[1:]} ({where}; p after Holm within a bed).'


def pair_sentence(bed: str, name: str, pair: Mapping[str, Any]) -> str:
  """One comparison in words."""
  head = {'better': f"'{name}' is better than '{pair['with']}'", 'worse': f"'{name}' is worse than '{pair['with']}'",
          'no evidence': f"There is no evidence that '{name}' differs from '{pair['with']}'"}[pair['verdict']]
  size = f'{pair["difference"]:+.4g} points of Δm'
  if pair['interval'] is not None:
    size += f' (95 % interval {pair["interval"][0]:+.4g} to {pair["interval"][1]:+.4g})'
  p = 'no p-value' if pair['p_holm'] is None else f'p = {pair["p_holm"]:.2g} after Holm'
  return f'{head} on {bed}: {size}, {pair["n"]} seeds, {p}.'


def command(study: str, results: Mapping[str, dict]) -> str:
  """What makes the results again: a loop over beds where they differ in nothing else."""
  commands = [result['command'].replace(f'--bed={bed}', '--bed=$bed') for bed, result in results.items()]
  if len(results) > 1 and len(set(commands)) == 1:
    runs = f'for bed in {" ".join(results)}; do {commands[0]}; done'
  else:
    runs = '; '.join(result['command'] for result in results.values())
  return f'{runs}; python -m experiments.studies.tables --study={study}'


def verdict(study: str, title: str, results: Mapping[str, dict], figure: str, figure_text: str) -> dict[str, Any]:
  """The content of verdict.json.

  Args:
    study: a key of PARTS.
    title: of the study.
    results: {bed: result}, at least one.
    figure: a file beside it that shows the results.
    figure_text: what it shows.
  """
  found = list(pairs(study, results))
  beds = by_bed(study, results)
  names = dict.fromkeys(name for result in results.values() for name in result['arms'])
  first = next(iter(results.values()))
  seeds = sorted({seed for result in results.values() for seed in result['settings']['seeds']})
  return {
    'study': study, 'title': title, 'paper': PAPERS.get(study), 'claim': first['claim'],
    'holds': combine(list(beds.values())), 'sentence': sentence(study, results), 'beds': beds,
    'metric_text': METRIC, 'higher_is_better': False, 'arms': {name: _arm(name, results) for name in names},
    'comparisons': [
      {'a': name, 'b': pair['with'], 'task': None, 'bed': bed, 'n': pair['n'], 'difference': pair['difference'],
       'interval': pair['interval'], 'p': pair['p'], 'p_holm': pair['p_holm'], 'effect_size': pair['d_z'],
       'verdict': pair['verdict'], 'sentence': pair_sentence(bed, name, pair), 'holds': pair['holds'],
       'role': part.form}
      for part, bed, name, pair in found],
    'command': command(study, results), 'commit': ', '.join(sorted({r['commit'] for r in results.values()})),
    'seeds': seeds, 'smoke': any('--smoke' in result['command'].split() for result in results.values()),
    'warnings': [f'{bed}: {text}' for bed, result in results.items() for text in _warnings(result)],
    'figure': figure, 'figure_text': figure_text}


def _warnings(result: Mapping[str, Any]) -> list[str]:
  failed = {name: arm['error'] for name, arm in result['arms'].items() if arm['status'] != 'finished'}
  return [*result['warnings'], *(f"'{name}' failed and is compared with nothing: {failed[name]}" for name in failed)]


def _arm(name: str, results: Mapping[str, dict]) -> dict[str, Any]:
  """An arm's delta_m by bed; a mean only of a single bed, since beds differ in size by orders of magnitude."""
  cells = {bed: result['arms'][name] for bed, result in results.items() if name in result['arms']}
  beds = {bed: {'n': len(arm['delta_m']['values']), 'mean': arm['delta_m']['mean'],
                'interval': arm['delta_m']['interval']}
          for bed, arm in cells.items() if arm['status'] == 'finished'}
  only = next(iter(beds.values())) if len(beds) == len(results) == 1 else {'mean': None, 'interval': None}
  status = 'finished' if len(beds) == len(cells) else 'partial' if beds else 'failed'
  return {'status': status, 'n': min((bed['n'] for bed in beds.values()), default=0), 'mean': only['mean'],
          'interval': only['interval'], 'beds': beds}
