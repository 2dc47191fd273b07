"""The section 'Conflict between tasks' of a run's report: what metrics.jsonl says under 'gradients/…', in pictures.

`mtjax.training.engine.diagnostics` says what each number is. A line of the log holds means over the steps since the
line before; the last quarter is that of the lines.
"""
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtjax.studies import heatmap, html, plots
from mtjax.studies.figures import curve_table
from mtjax.studies.run_record import Record

Series = Mapping[int, float]

_KNOWN = ('conflicts', 'norm_spread', 'weight_entropy', 'worst_progress', 'stationarity')
_NEEDS = {'losses': 'the losses', 'gramian': 'the Gramian', 'jacobian': 'all gradients'}
_OF_TASKS = ('norm/', 'weight/', 'cosine/', 'masked/', 'affinity/')


def section(record: Record) -> tuple[str, str, Any]:
  """(anchor, title, body); no body where no line has anything of gradients."""
  body = None
  if record.gradients():
    cosines = Cosines(record)
    body = [_facts(record), html.tag('p', ' '.join(sentences(record, cosines)), style='margin-top: 14px'),
            _heatmaps(cosines), _affinity(record), _curves(record), _descriptions(record)]
  return 'conflict', 'Conflict between tasks', body


class Cosines:
  """The cosines between the tasks' gradients.

  Attributes:
    names: [T].
    steps: [N], of the lines that have any.
    values: [N, T, T]; NaN where two tasks were not compared, and on the diagonal.
  """

  def __init__(self, record: Record):
    self.names = list(record.tasks)
    pairs = {(i, j): record.series('train', f'gradients/cosine/{a}/{b}')
             for i, a in enumerate(self.names) for j, b in enumerate(self.names) if i < j}
    self.steps = sorted({step for series in pairs.values() for step in series})
    self.values = np.full((len(self.steps), len(self.names), len(self.names)), np.nan)
    place = {step: n for n, step in enumerate(self.steps)}
    for (i, j), series in pairs.items():
      for step, value in series.items():
        self.values[place[step], [i, j], [j, i]] = value

  def mean(self, lines: slice = slice(None)) -> np.ndarray:
    """[T, T], over lines."""
    finite = np.isfinite(self.values[lines])
    sums = np.where(finite, self.values[lines], 0.0).sum(0)
    return np.divide(sums, finite.sum(0), out=np.full(sums.shape, np.nan), where=finite.any(0))

  @property
  def last_quarter(self) -> slice | None:
    """Of the lines; None where there are too few."""
    return slice(len(self.steps) - len(self.steps) // 4, None) if len(self.steps) >= 4 else None

  def pairs(self) -> list[tuple[int, int]]:
    """Those that were compared, the most opposed first."""
    mean = self.mean()
    found = [(i, j) for i, j in zip(*np.triu_indices(len(self.names), 1)) if np.isfinite(mean[i, j])]
    return sorted(found, key=lambda pair: mean[pair])

  def below_zero(self, i: int, j: int) -> tuple[int, int]:
    """(lines whose cosine of a pair is below 0, lines that have it)."""
    values = self.values[:, i, j]
    return int((values < 0).sum()), int(np.isfinite(values).sum())


def mean_matrices(folders: Sequence[pathlib.Path]) -> dict[str, Any] | None:
  """Of runs of one config: {'tasks': [T], 'cosine': [T, T], 'affinity': [T, T] or None}, means over steps and runs.

  None where no run wrote cosines.
  """
  found: dict[str, list[np.ndarray]] = {'cosine': [], 'affinity': []}
  records = [Record.read(folder) for folder in folders]
  tasks = records[0].tasks
  for record in records:
    names = set(record.gradients())
    for kind, matrices in found.items():
      series = [[_finite(record.series('train', f'gradients/{kind}/{a}/{b}')) for b in tasks] for a in tasks]
      if any(name.startswith(f'{kind}/') for name in names):
        matrices.append(np.array([[np.mean(values) if values else np.nan for values in row] for row in series]))
  if not found['cosine'] or len(tasks) < 2:
    return None
  cosine = _mean_known(found['cosine'])
  cosine = np.where(np.isnan(cosine), cosine.T, cosine)  # written once a pair
  np.fill_diagonal(cosine, 1.0)
  affinity = _mean_known(found['affinity']).tolist() if found['affinity'] else None
  return {'tasks': tasks, 'cosine': cosine.tolist(), 'affinity': affinity}


def _mean_known(matrices: Sequence[np.ndarray]) -> np.ndarray:
  """The mean over matrices of what is not NaN; NaN where all are."""
  values = np.stack(matrices)
  known = np.isfinite(values)
  sums = np.where(known, values, 0.0).sum(0)
  return np.divide(sums, known.sum(0), out=np.full(sums.shape, np.nan), where=known.any(0))


def sentences(record: Record, cosines: Cosines) -> list[str]:
  """What is seen."""
  names, pairs = cosines.names, cosines.pairs()
  found = []
  conflicts = _finite(record.series('train', 'gradients/conflicts'))
  if not pairs or not conflicts:
    found.append('This method compares no gradients, so only its weights are known here.')
  else:
    a, b = (names[i] for i in pairs[0])
    share, mean = _percent(_mean(conflicts)), cosines.mean()[pairs[0]]
    late = f', {_percent(_mean(conflicts[-(len(conflicts) // 4):]))} in the last quarter' if len(conflicts) >= 4 else ''
    if len(names) == 2:
      found.append(f'The gradients of {a} and {b} conflict (their cosine is below 0) at {share} of the steps{late}; '
                   f'their mean cosine is {html.number(float(mean), 3)}.')
    else:
      below, lines = cosines.below_zero(*pairs[0])
      found.append(f'{share} of the pairs of gradients conflict (their cosine is below 0){late}. Most at odds are {a} '
                   f'and {b}: mean cosine {html.number(float(mean), 3)}, below 0 in {below} of {lines} log lines.')
  progress = {step: value for step, value in record.series('train', 'gradients/worst_progress').items()
              if math.isfinite(value)}
  if progress:
    worst = min(progress, key=progress.get)
    harmful = sum(value < 0 for value in progress.values())
    said = (f'The worst-off task is set back in {harmful} of {len(progress)} log lines, its progress falling to'
            if harmful else 'Even the worst-off task gains in every log line: its least progress is')
    found.append(f'{said} {html.number(progress[worst], 3)} at step {worst:,} (1 = a step along its own gradient).')
  norms = {name: _mean(values) for name in names
           if (values := _finite(record.series('train', f'gradients/norm/{name}')))}
  if len(norms) > 1 and min(norms.values()) > 0:
    longest, shortest = max(norms, key=norms.get), min(norms, key=norms.get)
    ratio = html.number(norms[longest] / norms[shortest], 2)
    found.append(f'The gradient of {longest} is the longest, on average {ratio} times that of {shortest}.')
  for name in names:
    if masked := sum(record.series('train', f'gradients/masked/{name}').values()):
      found.append(f'The gradient of {name} was not finite, and was left out, at {int(masked):,} steps.')
  return found


def _facts(record: Record) -> html.Safe:
  """Method, plan and options, of each stage that has a method."""
  stages = _stages(record)
  blocks = []
  for name, method, options, known in stages:
    items = {'Stage': name} if len(stages) > 1 else {}
    items['Method'] = html.tag('code', _call(method))
    items |= {'Computed from': _NEEDS.get(known['needs'], known['needs'])} if known.get('needs') else {}
    features = known.get('plan') == 'features' or options.get('at') == 'features'
    items['Gradients of'] = 'the shared representation' if features else 'the shared parameters'
    asked = options.get('plan', 'auto')
    items['Plan'] = f'{known["plan"]} (cheapest)' if asked == 'auto' and known.get('plan') else known.get('plan', asked)
    rest = [f'{key}={_show(value)}' for key, value in options.items() if key != 'plan']
    items |= {'Options': html.tag('code', ', '.join(rest))} if rest else {}
    blocks.append(html.facts(items))
  return html.join(blocks)


def _stages(record: Record) -> list[tuple[str, Mapping, Mapping, Mapping]]:
  """(stage, aggregator, options, what run.json has of its engine) of each stage whose method is known."""
  config, start, found = record.config, 0, []
  for spec in config.get('stages') or [{'name': 'train'}]:
    name = str(spec.get('name', f'from {start}'))
    start += spec.get('steps', 0)
    known = record.run.get('gradients', {}).get(name, {})
    method = spec.get('aggregator', config.get('aggregator')) or {'name': known.get('method')}
    if method['name']:
      found.append((name, method, spec.get('gradients', config.get('gradients')) or {}, known))
  return found


def _call(method: Mapping[str, Any]) -> str:
  """{'name': 'cagrad', 'c': 0.4} -> cagrad(c=0.4)."""
  arguments = ', '.join(f'{key}={_show(value)}' for key, value in method.items() if key != 'name')
  return f'{method["name"]}({arguments})' if arguments else str(method['name'])


def _show(value: Any) -> str:
  return _call(value) if isinstance(value, Mapping) and 'name' in value else json.dumps(value, ensure_ascii=False)


def _descriptions(record: Record) -> list[html.Safe]:
  return [html.details('What each plan costs here' + (f', stage {name}' if len(_stages(record)) > 1 else ''),
                       html.tag('pre', known['description']))
          for name, _, _, known in _stages(record) if known.get('description')]


def _heatmaps(cosines: Cosines) -> html.Safe | None:
  pairs = cosines.pairs()
  if not pairs:
    return None
  whole, quarter = cosines.mean(), cosines.last_quarter
  late = cosines.mean(quarter) if quarter else None
  limit = heatmap.nice_limit(whole if late is None else np.stack([whole, late]))
  pictures = [_heatmap('Mean over the run', whole, cosines.names, limit)]
  if late is not None:
    pictures.append(_heatmap(f'Last quarter, from step {cosines.steps[quarter][0]:,}', late, cosines.names, limit))
  header = ['task', 'task', 'cosine', *(['last quarter'] if late is not None else []), 'lines below 0']
  rows = []
  for i, j in pairs:
    means = [html.number(float(mean[i, j]), 3) for mean in (whole, late) if mean is not None]
    below, lines = cosines.below_zero(i, j)
    rows.append([cosines.names[i], cosines.names[j], *means, f'{below} of {lines}'])
  return html.tag(
    'figure', html.tag('h3', 'Cosine between the gradients of two tasks'),
    heatmap.scale(limit, 'conflict', 'agreement'),
    html.tag('div', pictures, class_='panels', style='--min: 440px'),
    html.details('Numbers', html.table(header, rows, text_columns=2)), class_='card', style='margin-bottom: 12px')


def _affinity(record: Record) -> html.Safe | None:
  """What a step for one task does to another's loss, mean over the lines that measured it."""
  names = list(record.tasks)
  series = lambda a, b: _finite(record.series('train', f'gradients/affinity/{a}/{b}'))
  values = np.array([[_mean(found) if (found := series(a, b)) else np.nan for b in names] for a in names])
  if not np.isfinite(values).any():
    return None
  # The diagonal, a task's own gain, is much larger than what others do to it: it is told in the table.
  apart = np.where(np.eye(len(names), dtype=bool), np.nan, values)
  limit = heatmap.nice_limit(apart)
  rows = [[name, *(html.number(float(x), 3) for x in row)] for name, row in zip(names, values)]
  return html.tag(
    'figure', html.tag('h3', 'Affinity: what a step for the row’s task does to the column’s loss'),
    heatmap.scale(limit, 'raises it', 'lowers it'),
    heatmap.matrix(apart, names, columns=names, limit=limit, alt='affinity from task (row) to task (column)'),
    html.details('Numbers', html.table(['step for', *names], rows)), class_='card', style='margin-bottom: 12px')


def _heatmap(title: str, values: np.ndarray, names: Sequence[str], limit: float) -> html.Safe:
  alt = f'{title}: cosine between the gradients of each two of {", ".join(names)}'
  return html.tag('div', html.tag('p', title, class_='muted caption'),
                  heatmap.matrix(values, names, limit=limit, alt=alt))


def _curves(record: Record) -> list[html.Safe]:
  share = dict(scale='linear', ylim=(0, 1))
  small = [
    _figure(record, 'Conflicting pairs', 'Share of the pairs whose cosine is below 0.',
            _Panel({'conflicting pairs': 'conflicts'}, **share)),
    _figure(record, 'Progress of the worst-off task',
            'The least d·g / ‖g‖² over tasks; below 0 the update d sets it back.',
            _Panel({'worst progress': 'worst_progress'}, ylim=(0, None))),
    _figure(record, 'Stationarity gap', '‖shortest mixture of the gradients‖ / ‖their mean‖; 0 = Pareto stationary.',
            _Panel({'stationarity gap': 'stationarity'}, **share)),
    *(_figure(record, name.replace('_', ' '), '', _Panel({name: name})) for name in _others(record)),
  ]
  by_task = lambda what: {task: f'{what}/{task}' for task in record.tasks}
  large = [
    _figure(record, 'Norm of the gradients', 'Beneath, the longest over the shortest.',
            _Panel(by_task('norm'), (440, 170), 'log'),
            _Panel({'longest / shortest': 'norm_spread'}, (440, 80), 'log')),
    _figure(record, 'Weights', 'The update is the sum of the gradients with these; beneath, their entropy (1 = equal).',
            _Panel(by_task('weight'), (440, 170), _weight_scale(record)),
            _Panel({'entropy': 'weight_entropy'}, (440, 80), **share)),
  ]
  return [html.tag('div', figures, class_='cards', style=f'--min: {width}px; margin-bottom: 12px')
          for figures, width in (([f for f in small if f], 310), ([f for f in large if f], 440)) if figures]


class _Panel(NamedTuple):
  """Curves {label: name under 'gradients/'}, and how `plots.panel` draws them."""
  names: Mapping[str, str]
  size: tuple[int, int] = (340, 150)
  scale: str = 'linear'
  ylim: tuple[float | None, float | None] = (None, None)


def _figure(record: Record, title: str, note: str, *panels: _Panel) -> html.Safe | None:
  """Panels under one title, with one table of their numbers."""
  parts, shown = [], []
  for panel in panels:
    lines = [plots.Line.of(label, record.series('train', f'gradients/{name}'), *look)
             for (label, name), look in zip(panel.names.items(), plots.looks(len(panel.names)))]
    lines = [line for line in lines if line.steps]
    if lines:
      parts += [plots.legend(lines)] if len(panel.names) > 1 else []
      parts.append(plots.panel(lines, xlim=(0, max(record.last_step, 1)), size=panel.size, scale=panel.scale, key=False,
                               ylim=panel.ylim, alt=f'{title}: {", ".join(line.label for line in lines)} over steps'))
      shown += lines
  if not shown:
    return None
  note = html.tag('p', note, class_='muted caption') if note else None
  return html.tag('figure', html.tag('h3', title), note, parts, curve_table(shown), class_='card')


def _others(record: Record) -> list[str]:
  """Names that no figure here knows: of newer methods, or of a user's own."""
  return [name for name in record.gradients() if name not in _KNOWN and not name.startswith(_OF_TASKS)]


def _weight_scale(record: Record) -> str:
  """'log' where all weights are positive and far apart."""
  values = [v for task in record.tasks for v in _finite(record.series('train', f'gradients/weight/{task}'))]
  return 'log' if values and min(values) > 0 and max(values) > 50 * min(values) else 'linear'


def _finite(series: Series) -> list[float]:
  return [value for value in series.values() if math.isfinite(value)]


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)


def _percent(share: float) -> str:
  return 'less than 1 %' if 0 < share < 0.005 else f'{100 * share:.0f} %'
