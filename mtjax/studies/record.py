"""The record of a study, `verdict.json`: what was claimed, what was found, and all that a reader needs to judge it."""
import dataclasses
import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mtjax.studies import provenance, record_arms, significance
from mtjax.studies.compare import FEWEST_SEEDS, Comparison, budget_warnings
from mtjax.studies.conflict import mean_matrices
from mtjax.studies.score_frame import ScoreFrame, by_seed, directions
from mtjax.studies.verdict import CHOSEN, DELTA_M, Claim, all_of, claims_of, columns_of, measured, per_task

_WORDS = {True: 'The claim holds', False: 'The claim does not hold',
          None: 'There is no evidence for or against the claim'}


def make(runner: Any, frame: ScoreFrame) -> dict[str, Any]:
  """The verdict of what a `Runner` has run so far.

  Args:
    runner: the study in its folder.
    frame: its scores, one step a run.
  """
  study, split = runner.study, runner.study.split
  chosen = runner.chosen() if study.search is not None else None
  baselines = {arm: base for arm, base in study.baselines().items() if arm in runner.arms}
  if study.search is not None and isinstance(study.baseline, str):
    baselines |= {arm: study.baseline for arm in runner.arms if arm != study.baseline}
  scored = set(frame.where(split=split).unique('arm'))
  warnings: list[str] = []
  arms = {arm: record_arms.entry(runner, frame, arm, baselines, warnings) for arm in runner.arms}
  record_arms.add_ranks(frame, arms, study.metric, split)
  claims = [_resolved(claim, chosen) for claim in claims_of(study.verdict, list(study.arms) or list(runner.arms))]
  found, missing = _claims(frame, claims, scored, study, baselines)
  holds = all_of([entry['holds'] for entry in found] + [None] * len(missing)) if claims else None
  if callable(study.verdict) and not isinstance(study.verdict, (str, Claim)):
    holds = study.verdict(frame)
    if holds not in (True, False, None):
      raise ValueError(f"'verdict' must give True, False or None, got {holds!r}.")
  extra = _per_task(frame, claims, scored, study)
  pairs = {(claim.a, claim.b) for claim in claims if {claim.a, claim.b} <= scored}
  for a, b in sorted(pairs):
    warnings += budget_warnings(frame, a, b, split)
  warnings += [text for entry in found for text in entry['warnings']]
  warnings += [f'No score of {name}: its claims are left open.' for name in missing]
  cells = [_cell(runner, cell) for arm in runner.arms for cell in runner.cells(arm)]
  broken = [cell for cell in cells if cell['status'] != 'finished']
  if broken:
    failed = sum(cell['status'] == 'failed' for cell in broken)
    warnings.insert(0, f'{len(broken)} of {len(cells)} runs are not finished, {failed} of them failed.')
  if 0 < len(runner.seeds) < FEWEST_SEEDS:
    warnings.insert(0, f'{len(runner.seeds)} seed(s), fewer than five: intervals and tests say little.')
  if runner.smoke:
    warnings.insert(0, 'A smoke run of a few steps: its numbers mean nothing.')
  metric_text, higher = _metric_text(frame, study, scored)
  return {
    'study': runner.name, 'title': study.title or runner.name.replace('_', ' ').capitalize(), 'paper': study.paper,
    'claim': study.claim, 'holds': holds, 'sentence': _sentence(holds, found, missing),
    'metric': study.metric or 'first', 'metric_text': metric_text, 'higher_is_better': higher, 'split': split,
    'selection': next(iter(frame.where(split=split).unique('selection')), study.selection), 'baseline': baselines,
    'arms': arms, 'best': record_arms.best(frame, study, baselines), 'comparisons': found + extra,
    'search': _search(runner, chosen) if study.search is not None else None, 'cells': cells,
    'warnings': list(dict.fromkeys(warnings)), **provenance.joined(provenance.read(runner.folder)),
    'seeds': runner.seeds, 'smoke': runner.smoke,
    'made': datetime.datetime.now().isoformat(timespec='seconds'), 'diagnostics': _diagnostics(runner),
  }


def plain(value: Any) -> Any:
  """As strict JSON: numbers of numpy as Python's, what is not finite as null."""
  if isinstance(value, Mapping):
    return {str(key): plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [plain(item) for item in value]
  if isinstance(value, np.ndarray):
    return plain(value.tolist())
  if isinstance(value, (bool, np.bool_)):
    return bool(value)
  if isinstance(value, (float, np.floating)):
    return float(value) if math.isfinite(value) else None
  return int(value) if isinstance(value, np.integer) else value


def _resolved(claim: Claim, chosen: str | None) -> Claim:
  names = {side: chosen for side in ('a', 'b') if getattr(claim, side) == CHOSEN and chosen}
  return dataclasses.replace(claim, **names) if names else claim


def _claims(frame, claims: Sequence[Claim], scored: set[str], study, baselines):
  """([comparison of each claim that can be tested], arms that have no score)."""
  tested = [claim for claim in claims if {claim.a, claim.b} <= scored]
  missing = list(dict.fromkeys(arm for claim in claims for arm in claim.arms if arm not in scored))
  results = [measured(frame, claim.a, claim.b, claim.metric or study.metric, baselines, study.split, claim.level,
                      claim.unit)
             for claim in tested]
  adjusted = significance.holm({i: result.p for i, result in enumerate(results)})
  found = []
  for i, (claim, result) in enumerate(zip(tested, results)):
    result = _with_holm(result, adjusted[i])
    found.append({**_comparison(result), 'task': None, 'holds': claim.holds(result), 'role': claim.role})
  return found, missing


def _with_holm(result: Comparison, p: float | None) -> Comparison:
  verdict = result.verdict if p is not None and p < 1 - result.level else 'no evidence'
  return dataclasses.replace(result, p_holm=p, verdict=verdict)


def _per_task(frame, claims, scored, study) -> list[dict[str, Any]]:
  found = []
  for claim in dict.fromkeys((claim.a, claim.b, claim.metric or study.metric) for claim in claims
                             if {claim.a, claim.b} <= scored):
    a, b, metric = claim
    try:
      results = per_task(frame, a, b, metric, study.split)
    except ValueError:  # arms with different tasks: only their means compare
      continue
    if len(results) > 1:
      found += [{**_comparison(result), 'holds': None, 'role': 'per task'} for result in results]
  return found


def _comparison(result: Comparison) -> dict[str, Any]:
  names = ('a', 'b', 'task', 'metric', 'unit', 'n', 'difference', 'interval', 'p', 'p_holm', 'effect_size',
           'minimal_detectable_effect', 'higher_is_better', 'test', 'verdict', 'sentence', 'warnings')
  return {name: getattr(result, name) for name in names}


def _metric_text(frame, study, scored) -> tuple[str, bool]:
  if study.metric in DELTA_M:
    which = 'first metrics' if study.metric == 'delta_m' else 'all metrics'
    return f'Δm, % better than the baseline ({which})', True
  if not scored:
    return study.metric or 'first metric of each task', True
  arm = next(iter(frame.where(split=study.split).unique('arm')))
  columns = columns_of(by_seed(frame, arm, study.split), study.metric, arm)
  higher = directions(frame.where(split=study.split))[columns[0]]
  names = list(dict.fromkeys(metric for _, metric in columns))
  text = ', '.join(names) + (', mean over tasks' if len(columns) > 1 else f' of {columns[0][0]}')
  return text, higher


def _sentence(holds: bool | None, found: Sequence[Mapping[str, Any]], missing: Sequence[str]) -> str:
  head = f'{_WORDS[holds]}.'
  if missing:
    head += f' Not yet run: {", ".join(missing)}.'
  return ' '.join([head, *(entry['sentence'] for entry in found)])


def _search(runner, chosen: str | None) -> dict[str, Any]:
  search = runner.study.search
  scores = runner.searched()
  return {'method': search.method, 'space': {field: str(values) for field, values in search.space.items()},
          'chosen': chosen, 'split': 'validation', 'values': {arm: dict(runner.arms[arm]) for arm in scores},
          'validation': scores}


def _cell(runner, cell) -> dict[str, Any]:
  found = runner.status(cell)
  return {'arm': cell.arm, 'part': cell.part, 'seed': cell.seed, 'status': found['status'], 'message': found['message'],
          'seconds': found['seconds']}


def _diagnostics(runner) -> dict[str, dict[str, Any]]:
  """{arm: mean cosines and affinities between tasks, over steps and seeds}, of the arms that measured them."""
  found = {}
  for arm in runner.arms:
    folders = [runner.folder_of(cell) for cell in runner.cells(arm) if runner.status(cell)['status'] == 'finished']
    if folders and (matrices := mean_matrices(folders)) is not None:
      found[arm] = matrices
  return found
