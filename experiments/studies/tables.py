"""Tables and pictures of the comparisons: quality with intervals, and what a step costs beside it.

python -m experiments.studies.tables [--study=NAME]

Reads experiments/results/NAME/BED.json of every study that has any; writes README.md (a summary over beds, then a table
a bed), cost_quality.svg and verdict.json (what becomes of the claim; see `verdicts`) beside them.
"""
import argparse
import io
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from experiments.studies import verdicts
from experiments.studies.cells import RESULTS
from mtjax.studies.plots import COLORS, import_matplotlib

STUDIES = ('gradient_methods', 'flatness', 'cheaper_statistics')
TITLES = {'gradient_methods': 'Every gradient method: quality and cost',
          'flatness': 'Flatness and conflict: SAM, the rule on its gradients, F-MTL',
          'cheaper_statistics': 'Cheaper statistics against the exact Gramian'}
HUES = {'losses': 'blue', 'gramian': 'vermilion', 'jacobian': 'purple', 'features': 'green', 'sharpness': 'orange'}
MARKERS = {'losses': 'o', 'gramian': 's', 'jacobian': 'D', 'features': '^', 'sharpness': 'v'}
FIGURE_TEXT = ('A panel a bed: what a step costs, as a ratio to the step on the sum of the losses, across; Δm, percent '
               'worse than single-task training, up, with 95 % intervals. Low and left is good.')
SIGNS = {'better': 'better', 'worse': 'worse', 'no evidence': '—'}


def load(study: str, results: pathlib.Path = RESULTS) -> dict[str, dict]:
  """{bed: result}, of those that are there."""
  return {path.stem: json.loads(path.read_text()) for path in sorted((results / study).glob('*.json'))
          if path.name != 'verdict.json'}


def finished(result: Mapping[str, Any]) -> dict[str, dict]:
  """{arm: entry}."""
  return {name: arm for name, arm in result['arms'].items() if arm['status'] == 'finished'}


def roles_of(arms: Mapping[str, dict]) -> list[str]:
  """What arms are compared with, in the order of the arm that has the most of it."""
  longest = max((arm['versus'] for arm in arms.values()), key=len)
  return list(dict.fromkeys((*longest, *(role for arm in arms.values() for role in arm['versus']))))


def with_interval(value: float, interval: Sequence[float] | None, digits: int = 2) -> str:
  """'+1.20 [+0.90, +1.50]'."""
  if interval is None:
    return f'{value:+.{digits}f}'
  return f'{value:+.{digits}f} [{interval[0]:+.{digits}f}, {interval[1]:+.{digits}f}]'


def row(cells: Sequence[Any]) -> str:
  """A line of a Markdown table."""
  return '| ' + ' | '.join(str(cell) for cell in cells) + ' |'


def bed_table(result: Mapping[str, Any]) -> list[str]:
  """All arms of a bed by delta_m; what is significantly better than a reference is bold."""
  arms = finished(result)
  roles = roles_of(arms)
  watched = list(dict.fromkeys(name for arm in arms.values() for name in arm['watched']))
  lines = [row(['method', 'Δm, % [95 %]', *(f'against {role}' for role in roles), 'time of a step', *watched,
                'learning rate']),
           row(['---', '---:', *['---'] * len(roles), '---:', *['---:'] * len(watched), '---:'])]
  for name, arm in sorted(arms.items(), key=lambda item: item[1]['delta_m']['mean']):
    text = with_interval(arm['delta_m']['mean'], arm['delta_m']['interval'])
    if any(pair['verdict'] == 'better' for pair in arm['versus'].values()):
      text = f'**{text}**'
    pairs = [pair_text(arm['versus'][role]) if role in arm['versus'] else '' for role in roles]
    edge = ' (edge)' if arm['at_edge'] else ''
    seen = [f'{arm["watched"][name]["mean"]:.2f}' if name in arm['watched'] else '' for name in watched]
    lines.append(row([f'`{name}`', text, *pairs, f'{arm["cost"]["time_ratio"]:.2f} ×', *seen,
                      f'{arm["learning_rate"]:g}{edge}']))
  failed = {name: arm['error'] for name, arm in result['arms'].items() if name not in arms}
  return lines + [f'\nFailed: `{name}`: {error}' for name, error in failed.items()]


def pair_text(pair: Mapping[str, Any]) -> str:
  """The verdict on a paired difference, and the difference."""
  p = '' if pair['p_holm'] is None else f', p {pair["p_holm"]:.2g}'
  kept = ', kept' if pair['holds'] and pair['verdict'] == 'no evidence' else ''
  return f'{SIGNS[pair["verdict"]]}{kept} ({pair["difference"]:+.2f}{p})'


def summary(results: Mapping[str, dict]) -> list[str]:
  """All arms over beds: mean rank of delta_m among the arms of all beds, counts of verdicts, costs."""
  arms = {bed: finished(result) for bed, result in results.items()}
  common = [name for name in next(iter(arms.values())) if all(name in found for found in arms.values())]
  ranks = np.array([rankdata([found[name]['delta_m']['mean'] for name in common]) for found in arms.values()]).mean(0)
  roles = roles_of(next(iter(arms.values())))
  beds = list(results)
  lines = [row(['method', 'mean rank', *(f'against {role}: better / — / worse' for role in roles),
                *(f'Δm {bed}' for bed in beds), 'time of a step']),
           row(['---', '---:', *[':---:'] * len(roles), *['---:'] * len(beds), '---:'])]
  order = sorted(dict.fromkeys(name for found in arms.values() for name in found),
                 key=lambda name: ranks[common.index(name)] if name in common else np.inf)
  for name in order:
    entries = {bed: found[name] for bed, found in arms.items() if name in found}
    counts = []
    for role in roles:
      verdicts = [entry['versus'][role]['verdict'] for entry in entries.values() if role in entry['versus']]
      counts.append(' / '.join(str(verdicts.count(kind)) for kind in ('better', 'no evidence', 'worse'))
                    if verdicts else '')
    costs = [entry['cost']['time_ratio'] for entry in entries.values()]
    span = f'{min(costs):.2f} to {max(costs):.2f} ×' if len(costs) > 1 else f'{costs[0]:.2f} ×'
    lines.append(row([f'`{name}`', f'{ranks[common.index(name)]:.1f}' if name in common else '', *counts,
                      *(f'{entries[bed]["delta_m"]["mean"]:+.2f}' if bed in entries else '' for bed in beds), span]))
  return lines


def page(study: str, results: Mapping[str, dict]) -> str:
  """The whole README."""
  first = next(iter(results.values()))
  lines = [
    f'# {TITLES[study]}', '',
    f'Claim: {first["claim"]}', '',
    'Δm: percent worse than single-task training of the same encoder, mean over tasks: lower is better, below 0 '
    'sharing helps. Every arm has the same budget, the same data order and start per seed, and its own learning rate, '
    'chosen on validation. Verdicts: paired t-test over seeds, Holm over the arms of the bed at 5 %; — is no '
    'evidence. Time: against a step on the sum, measured beside it on one CPU core. `(edge)`: the best learning rate '
    'was the first or last of the grid.', '',
    '![Quality against cost](cost_quality.svg)', '']
  if len(results) > 1:
    lines += ['## All beds', '', 'Mean rank among the methods that ran on every bed.', '', *summary(results), '']
  for bed, result in results.items():
    tasks = ', '.join(f'{task} ({entry["metric"]})' for task, entry in result['tasks'].items())
    settings = result['settings']
    single = ', '.join(f'{task} {entry["mean"]:.4f}' for task, entry in result['single_task']['test'].items())
    rates = ', '.join(f'{x:g}' for x in settings['learning_rates'])
    lines += [f'## {bed}', '', f'{tasks}. {len(settings["seeds"])} seeds, {settings["steps"]} steps of '
              f'{settings["batch_size"]}, learning rates {rates}, tuned on {len(settings["tune_seeds"])} seed(s). '
              f'Single-task: {single}. {settings["note"]}'.rstrip(), '',
              *(f'Warning: {text}\n' for text in result['warnings']), *bed_table(result), '']
  lines += [f'`{first["command"]}` and likewise for the other beds, then `python -m experiments.studies.tables`; '
            'commits and seeds are in the JSON files.']
  return '\n'.join(lines) + '\n'


def picture(results: Mapping[str, dict]) -> str:
  """A panel a bed: cost across, delta_m up with intervals; the arms that nothing beats in both are named."""
  import_matplotlib()
  import matplotlib
  from matplotlib.figure import Figure

  columns = min(2, len(results))
  rows = -(-len(results) // columns)
  figure = Figure(figsize=(6 * columns, 4 * rows), layout='constrained')
  axes = figure.subplots(rows, columns, squeeze=False).ravel()
  for ax, (bed, result) in zip(axes, results.items()):
    arms = finished(result)
    points = {name: (arm['cost']['time_ratio'], arm['delta_m']['mean']) for name, arm in arms.items()}
    for name, arm in arms.items():
      x, y = points[name]
      low, high = arm['delta_m']['interval'] or (y, y)
      ax.errorbar(x, y, [[y - low], [high - y]], fmt=MARKERS[arm['kind']], color=COLORS[HUES[arm['kind']]], ms=4,
                  lw=0.8)
    levels = np.array([y for _, y in points.values()])
    half = np.median(levels) - levels.min()  # what is far off would make the rest a line
    ax.set_ylim(levels.min() - 0.3 * half - 0.2, min(levels.max() + 0.1 * half, levels.min() + 4 * half + 1))
    front = [name for name, (x, y) in points.items()
             if not any(a <= x and b <= y and (a, b) != (x, y) for a, b in points.values())]
    for i, name in enumerate(sorted(front, key=points.get)):
      ax.annotate(name, points[name], xytext=(1.03, 0.97 - 0.08 * i), textcoords='axes fraction', fontsize=7, va='top',
                  arrowprops={'arrowstyle': '-', 'lw': 0.4, 'color': COLORS['muted'], 'relpos': (0, 0.5)})
    ax.axhline(0, color=COLORS['line'], lw=0.8, zorder=0)
    ax.set(title=bed, xlabel='time of a step / time on the sum', ylabel='Δm, % (lower is better)', xscale='log')
    ticks = [x for x in (1, 1.5, 2, 3, 5, 10, 20, 50) if x < 1.1 * max(x for x, _ in points.values())]
    ax.set_xticks(ticks, [f'{x:g}' for x in ticks])
    ax.minorticks_off()
  for ax in axes[len(results):]:
    ax.set_axis_off()
  kinds = [kind for kind in HUES if any(arm['kind'] == kind for r in results.values() for arm in finished(r).values())]
  handles = [axes[0].plot([], [], MARKERS[kind], color=COLORS[HUES[kind]], label=kind)[0] for kind in kinds]
  figure.legend(handles=handles, loc='outside lower center', ncols=len(kinds), frameon=False)
  out = io.StringIO()
  with matplotlib.rc_context({'svg.hashsalt': 'cost_quality'}):  # the same file each time
    figure.savefig(out, format='svg', metadata={'Date': None})
  return re.sub(r'[ \t]+$', '', out.getvalue(), flags=re.M)


def main(argv: Sequence[str] | None = None) -> None:
  """Writes the files of one study, or of all."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--study', choices=STUDIES, help='only this one')
  parser.add_argument('--results', default=RESULTS, type=pathlib.Path, help='the folder of results')
  options = parser.parse_args(argv)
  for study in [options.study] if options.study else STUDIES:
    results = load(study, options.results)
    if not results:
      print(f'{study}: no results yet.')
      continue
    (options.results / study / 'README.md').write_text(page(study, results), encoding='utf-8')
    (options.results / study / 'cost_quality.svg').write_text(picture(results), encoding='utf-8')
    found = verdicts.verdict(study, TITLES[study], results, 'cost_quality.svg', FIGURE_TEXT)
    (options.results / study / 'verdict.json').write_text(json.dumps(found, indent=1) + '\n', encoding='utf-8')
    print(options.results / study / 'README.md')


if __name__ == '__main__':
  main()
