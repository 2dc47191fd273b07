"""The figures of a study's page, each with its numbers in a table beneath.

    differences    forest plots of the comparisons, one for each metric
    curves         validation over steps, for each task: mean over seeds, band from the least to the greatest
    trade_offs     task against task where there are two; score against seconds and against parameters
    changes        heatmap: percent by which each arm is better than its baseline, by task
    search         validation score over each searched field
    diagnostics    heatmaps of cosine and affinity between tasks

An arm has the same colour in all of them. Each function returns None where there is nothing to draw.
"""
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mtjax.studies import forest, heatmap, html, pareto, plots, scatter, study_tables
from mtjax.studies.figures import curve_table
from mtjax.studies.score_frame import ScoreFrame
from mtjax.studies.study_tables import BEST, MANY, Verdict, arrow, columns, number, primary, show

ROWS = 40           # of a forest plot
_SIZE = (400, 210)    # on a telephone nearly its own size, so that numbers stay readable
Place = tuple[float, float]


def table(content: study_tables.Table) -> html.Safe:
  """A table of a page: beneath a number its interval, the significantly best in bold."""
  def show_cell(cell, word):
    text = html.name(cell.text) if word else cell.text
    if word:                                               # as wide as its name, so that a short one does not break
      text = html.tag('span', text, class_='word', style=f'--min: {min(len(cell.text), 26)}ch')
    text = html.tag('b', text) if cell.best else text
    return html.join(text, html.tag('small', cell.beneath) if cell.beneath else None)
  header = [html.join(html.tag('span', html.name(cell.text), class_='head') if len(cell.text) > 22 else cell.text,
                      html.tag('small', cell.beneath) if cell.beneath else None) for cell in content.header]
  rows = [[show_cell(cell, i < content.words) for i, cell in enumerate(cells)] for cells in content.rows]
  return html.table(header, rows, text_columns=content.words)


def differences(verdict: Verdict) -> list[html.Safe] | None:
  """The comparisons as forest plots, one a metric, each with its table."""
  groups: dict[str, list[Mapping[str, Any]]] = {}
  for entry in verdict['comparisons']:
    groups.setdefault(entry['metric'], []).append(entry)
  higher = columns(verdict)
  figures = []
  for metric, entries in groups.items():
    first = entries[0]
    up = higher.get((first['task'], metric), verdict['higher_is_better'])
    better, worse = 'first is better', 'second is better'
    rows = []
    for entry in entries[:ROWS]:
      low, high = entry.get('interval') or (None, None)
      rows.append(forest.Row(f'{entry["a"]} − {entry["b"]}', entry['task'] or 'study’s score',
                             number(entry.get('difference')), number(low), number(high), entry.get('verdict') or ''))
    note = f'{metric} {arrow(up)}: differences with 95 % intervals. Filled: significant after Holm.'
    note += f' The first {ROWS} of {len(entries)}.' if len(entries) > ROWS else ''
    ends = (worse, better) if up else (better, worse)
    drawn = forest.forest(rows, alt=f'Differences in {metric}', left=ends[0], right=ends[1])
    numbers = study_tables.comparison_table({**verdict, 'comparisons': entries})
    figures.append(html.tag('figure', html.tag('p', note, class_='muted caption'), drawn,
                            html.details('Numbers', table(numbers), open_=len(entries) <= 12), class_='card'))
  return figures or None


def curves(verdict: Verdict, frame: ScoreFrame) -> list[html.Safe] | None:
  """Learning curves on validation, a figure a task; of many arms the best."""
  arms, known = list(verdict['arms']), study_tables.curves(frame, 'validation')
  drawn = arms if len(arms) <= MANY else study_tables.ranking(verdict, frame)[:BEST]
  # Few curves need few looks: those of a page with many arms are given out among the drawn ones.
  looks = dict(zip(drawn, plots.looks(len(drawn))))
  figures = []
  for task in dict.fromkeys(task for task, _ in columns(verdict)):
    metric = primary(verdict, task)
    lines = [_mean_line(arm, known[arm, task, metric], looks.get(arm)) for arm in arms if (arm, task, metric) in known]
    shown = [line for line in lines if line.label in looks]
    if not shown:
      continue
    end = max(step for line in lines for step in line.steps)
    up = columns(verdict)[task, metric]
    panel = plots.panel(shown, xlim=(0, max(end, 1)), size=(400, 190), key=False, scale='linear' if up else 'wide',
                        alt=f'{task}: validation {metric} over steps of {", ".join(line.label for line in shown)}')
    figures.append(html.tag('figure', html.tag('h3', html.name(task), html.tag('span', f'{metric} {arrow(up)}',
                                                                               class_='muted note')),
                            plots.legend(shown), panel, curve_table(lines), class_='card'))
  if not figures:
    return None
  note = 'Validation over steps: mean over seeds, with a band from the lowest to the highest seed.'
  absent = [arm for arm in arms if arm not in {name for name, _, _ in known}]
  note += f' Without validation scores: {", ".join(absent)}.' if absent else ''
  note += f' Drawn are the {BEST} best of {len(arms)} arms by validation; the tables have all.' * (len(arms) > MANY)
  return [html.tag('p', note, class_='muted caption'), _cards(figures)]


def trade_offs(verdict: Verdict, frame: ScoreFrame) -> list[html.Safe] | None:
  """Task against task where there are two, and the score against time and size."""
  figures = [figure for figure in (_two_tasks(verdict, frame), _cost(verdict, 'seconds', 'seconds a seed'),
                                   _cost(verdict, 'params', 'parameters')) if figure]
  note = 'Filled: on the Pareto front of the means, no other arm is at least as good in both and better in one.'
  return [html.tag('p', note, class_='muted caption'), _cards(figures)] if figures else None


def changes(verdict: Verdict) -> html.Safe | None:
  """The change against the baseline, arms by tasks, as a heatmap; None without a baseline."""
  content, pairs = study_tables.changes_table(verdict), list(columns(verdict))
  if content is None:
    return None
  values = np.array([[study_tables.change(arm, *pair) for pair in pairs] for arm in verdict['arms'].values()], float)
  if not np.isfinite(values).any():
    return None
  limit = round(100 * heatmap.nice_limit(values / 100), 6)
  arms, labels = list(verdict['arms']), study_tables.column_labels(pairs)
  alt = 'Percent by which each arm is better than its baseline, by task'
  many = len(arms) > len(pairs)                              # the longer side goes down the page
  picture = heatmap.matrix(values if many else values.T, arms if many else labels, labels if many else arms,
                           limit=limit, alt=alt)
  return html.tag('figure', heatmap.scale(limit, 'worse, %', '%, better'), picture,
                  html.details('Numbers', table(content)), class_='card')


def search(verdict: Verdict) -> list[html.Safe] | None:
  """A searched field across and the validation score up, a figure a field; None without a search."""
  if not verdict['search']:
    return None
  found = verdict['search']
  scores = {arm: number((found.get('validation') or {}).get(arm)) for arm in found['values']}
  figures = [_field(verdict, field, text, scores) for field, text in found['space'].items()]
  chosen = html.join('Chosen: ', html.tag('code', found['chosen']), '. ') if found['chosen'] else 'No arm was chosen. '
  note = html.tag('p', chosen, f'Method: {found["method"]}. Scores are of {found["split"]}, mean over seeds.')
  everything = html.details('All arms, best first', table(study_tables.search_table(verdict)), open_=len(scores) <= 12)
  return [note, _cards(figures), everything]


def diagnostics(verdict: Verdict) -> html.Safe | None:
  """Cosines and affinities between tasks as heatmaps, of the arms that measured them."""
  figures = []
  for arm, found in (verdict.get('diagnostics') or {}).items():
    for key, title, ends in (('cosine', 'cosine between the gradients of two tasks', ('conflict', 'agreement')),
                             ('affinity', 'affinity: what a step for the row’s task does to the column’s',
                              ('harms', 'helps'))):
      if found.get(key) is None:
        continue
      values = np.array([[number(value) for value in row] for row in found[key]], float)
      names = list(found['tasks'])
      if key == 'cosine':
        np.fill_diagonal(values, math.nan)                 # 1 by definition, and stronger than all the others
      limit = heatmap.nice_limit(values)
      content = html.table(['task', *names], [[name, *(html.number(float(value), 3) for value in row)]
                                              for name, row in zip(names, values)])
      figures.append(html.tag(
        'figure', html.tag('h3', html.name(arm)), html.tag('p', title, class_='muted caption'),
        heatmap.scale(limit, *ends),
        heatmap.matrix(values, names, None if key == 'cosine' else names, limit=limit, alt=f'{arm}: {title}'),
        html.details('Numbers', content), class_='card'))
  return _cards(figures) if figures else None


def _cards(figures: Sequence[html.Safe]) -> html.Safe:
  return html.tag('div', figures, class_='cards', style='--min: 410px')


def _mean_line(arm: str, points: study_tables.Curve, look: tuple[str, str] | None) -> plots.Line:
  values = [list(seeds.values()) for seeds in points.values()]
  band = (list(map(min, values)), list(map(max, values))) if any(len(own) > 1 for own in values) else None
  color, dash = look or ('muted', '-')
  return plots.Line(arm, list(points), list(map(study_tables.mean, values)), color, dash, band=band)


def _two_tasks(verdict: Verdict, frame: ScoreFrame) -> html.Safe | None:
  tasks = list(dict.fromkeys(task for task, _ in columns(verdict)))
  if len(tasks) != 2:
    return None
  pairs = [(task, primary(verdict, task)) for task in tasks]
  by_seed: dict[str, dict[int, dict[str, float]]] = {}
  for row in frame.where(split=verdict['split'], task=tasks):
    if (row.task, row.metric) in pairs:
      by_seed.setdefault(row.arm, {}).setdefault(row.seed, {})[row.task] = float(row.value)
  places, small = {}, {}
  for name, arm in verdict['arms'].items():
    places[name] = tuple(number(study_tables.score(arm, *pair).get('mean')) for pair in pairs)
    seeds = [tuple(own.get(task, math.nan) for task in tasks) for own in by_seed.get(name, {}).values()]
    small[name] = [place for place in seeds if all(map(math.isfinite, place))]
  labels = [f'{task} {metric}' for task, metric in pairs]
  higher = [columns(verdict)[pair] for pair in pairs]
  return _plane('Task against task', verdict, places, labels, higher, small)


def _cost(verdict: Verdict, key: str, label: str) -> html.Safe | None:
  scored = {name: arm for name, arm in verdict['arms'].items() if math.isfinite(number(arm.get('mean')))}
  costs = [number(arm.get(key)) for arm in scored.values()]
  if not scored or not any(map(math.isfinite, costs)) or key == 'seconds' and not all(map(math.isfinite, costs)):
    return None
  places = {name: (number(arm.get(key)), number(arm.get('mean'))) for name, arm in verdict['arms'].items()}
  return _plane(f'Score against {"time" if key == "seconds" else "size"}', verdict, places,
                [label, verdict['metric_text'] or verdict['metric']], [False, verdict['higher_is_better']])


def _plane(title: str, verdict: Verdict, places: Mapping[str, Place], labels: Sequence[str],
           higher: Sequence[bool], small: Mapping[str, Sequence[Place]] | None = None) -> html.Safe | None:
  """Arms in a plane, those on the front filled; every arm is in the table, also one that has no place."""
  drawn = [name for name, place in places.items() if all(map(math.isfinite, place))]
  if not drawn:
    return None
  front = pareto.non_dominated(np.array([places[name] for name in drawn], float), higher)
  on_front = {name for name, best in zip(drawn, front) if best}
  numbers = {name: str(i) for i, name in enumerate(places, 1)}
  many = len(places) > MANY
  points = []
  for name in drawn:
    color, marker = ('blue' if name in on_front else 'muted', 'o') if many else scatter.look(int(numbers[name]) - 1)
    points.append(scatter.Point(*places[name], numbers[name], color, marker, name in on_front,
                                () if small is None else small[name]))
  rows = []
  for name, place in places.items():
    status = verdict['arms'][name]['status']
    state = '✓' if name in on_front else '' if name in drawn or status == 'finished' else status
    rows.append([numbers[name], html.name(name), state, *map(_whole, place)])
  heads = [f'{label} {arrow(up)}' for label, up in zip(labels, higher)]
  content = html.table(['', 'arm', 'front', *heads], rows, text_columns=3)
  if len(drawn) > 1 and len({places[name][0] for name in drawn}) == 1:
    note, picture = f'All have the same: {_whole(points[0].x)} {labels[0]}.', None
  else:
    note = f'Up: {heads[1]}. Across: {heads[0]}.' + (' Small: seeds; large: their mean.' if small else '')
    note += ' The numbers of the arms are in the table.' if many else ''
    path = sorted(places[name] for name in on_front)
    picture = [None if many else scatter.legend(points, drawn),
               scatter.scatter(points, size=_SIZE, alt=f'{title}: {labels[1]} over {labels[0]}', path=path)]
  return html.tag('figure', html.tag('h3', title), html.tag('p', note, class_='muted caption'), picture,
                  html.details('Numbers', content), class_='card')


def _field(verdict: Verdict, field: str, text: str, scores: Mapping[str, float]) -> html.Safe:
  """Validation score over one searched field, the chosen arm marked."""
  found, drawn = verdict['search'], [arm for arm, score in scores.items() if math.isfinite(score)]
  values = {arm: found['values'][arm].get(field) for arm in scores}
  numeric = all(isinstance(values[arm], (int, float)) and not isinstance(values[arm], bool) for arm in drawn)
  names = [] if numeric else list(dict.fromkeys(study_tables.setting(values[arm]) for arm in drawn))
  across: Callable[[str], float] = (lambda arm: float(values[arm])) if numeric else (
    lambda arm: names.index(study_tables.setting(values[arm])))
  points = []
  for arm in sorted(drawn, key=lambda arm: arm == found['chosen']):      # the chosen one on top
    own = arm == found['chosen']
    points.append(scatter.Point(across(arm), scores[arm], 'chosen' if own else '', 'vermilion' if own else 'blue',
                                'D' if own else 'o', own))
  up = verdict['higher_is_better']
  log = ' (logarithmic)' if numeric and points and scatter.is_wide([point.x for point in points]) else ''
  note = f'{text}. Up: {found["split"]} score {arrow(up)}. Across: {field}{log}.'
  picture = scatter.scatter(points, size=(400, 190), alt=f'{found["split"]} score over {field}',
                            categories=None if numeric else names) if points else html.tag(
    'p', 'No arm has a score.', class_='muted')
  order = sorted(scores, key=lambda arm: (float(values[arm]) if numeric and arm in drawn else math.inf,
                                          study_tables.setting(values[arm])))
  rows = [[study_tables.setting(values[arm]), html.name(arm), 'chosen' if arm == found['chosen'] else '',
           show(scores[arm])] for arm in order]
  content = html.table([field, 'arm', '', f'{found["split"]} {arrow(up)}'], rows, text_columns=3)
  return html.tag('figure', html.tag('h3', html.name(field)), html.tag('p', note, class_='muted caption'), picture,
                  html.details('Numbers', content), class_='card')


def _whole(value: float) -> str:
  """A number for reading; one that counts, such as parameters, without places."""
  return show(int(value) if math.isfinite(value) and value == int(value) and abs(value) >= 1000 else value)
