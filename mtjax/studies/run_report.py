"""The report of one run: `DIR/report.html`, one file that says what was run, how it went, and what came out.

It reads the run's folder (`run_record` says which files) and nothing else, at any moment of the run; what is not there
yet is left out.
"""
import dataclasses
import datetime
import math
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mtjax.studies import conflict, html, plots, speed
from mtjax.studies import samples as samples_page
from mtjax.studies.figures import curve_table
from mtjax.studies.run_record import Record, Score

encode_image = html.encode_image

_STATUS = {
  'finished': ('✓', 'Finished'),
  'stopped': ('❙❙', 'Stopped'),
  'running': ('…', 'Running'),
  'failed': ('✗', 'Failed'),
}


def write_run_report(workdir: str | os.PathLike, *, samples: Mapping[str, Any] | None = None) -> pathlib.Path:
  """Writes `workdir/report.html` and returns its path.

  Args:
    workdir: the folder of a run that is finished, stopped, failed or still going on.
    samples: sample predictions by task, as in `samples.json`; None reads that file, if there is one.

  Raises:
    ImportError: matplotlib is not installed.
    ValueError: there is no such folder.
  """
  workdir = pathlib.Path(workdir)
  if not workdir.is_dir():
    raise ValueError(f'There is no run to report on: {str(workdir)!r} is not a folder. Give the --workdir of a run.')
  plots.import_matplotlib()
  record = Record.read(workdir)
  if samples is not None:
    record = dataclasses.replace(record, samples=samples)
  path = workdir / 'report.html'
  temporary = path.with_suffix('.html.tmp')
  temporary.write_text(render(record), encoding='utf-8')
  os.replace(temporary, path)
  return path


def render(record: Record) -> str:
  """The page."""
  sections = [_results(record), _curves(record), conflict.section(record), _samples(record), _training(record),
              speed.section(record), _data(record), _config(record), _environment(record)]
  shown = [(anchor, title, body) for anchor, title, body in sections if body]
  name = _name(record)
  return html.page(
    f'{name} · mtjax',
    html.tag('h1', name),
    html.tag('p', f'mtjax run in {record.workdir}', class_='subtitle'),
    html.tag('nav', [html.tag('a', title, href=f'#{anchor}') for anchor, title, _ in shown]),
    _status(record),
    html.tag('pre', html.tag('code', record.run['command']), class_='command', title='One click selects all')
    if record.run.get('command') else None,
    _facts(record),
    [html.section(anchor, title, body) for anchor, title, body in shown],
  )


def _name(record: Record) -> str:
  config = re.search(r'--config[= ]\s*[\'"]?([^\s\'"]+)', str(record.run.get('command', '')))
  if not config:
    return record.workdir.name
  path, _, argument = config.group(1).partition(':')
  path = pathlib.PurePath(path)
  return '/'.join(part for part in (path.parent.name, path.stem) if part) + (f':{argument}' if argument else '')


def _status(record: Record) -> html.Safe:
  status = str(record.run.get('status', '')) or 'unknown'
  sign, word = _STATUS.get(status, ('?', 'Status not recorded' if status == 'unknown' else status))
  texts = {
    'finished': f'at step {record.last_step:,}',
    'stopped': f'at step {record.last_step:,}. The same command continues it.',
    'running': f'when this page was written, at step {record.last_step:,}.',
    'failed': f'after step {record.last_step:,}.',
  }
  message = record.run.get('message')
  text = ' '.join(filter(None, [texts.get(status), str(message) if message else None]))
  return html.tag('div', html.tag('b', f'{sign} {word}'), html.tag('div', text),
                  class_=f'status {status if status in _STATUS else "unknown"}')


def _facts(record: Record) -> html.Safe:
  run = record.run
  items = {'Tasks': html.number(len(record.tasks)), 'Steps': html.number(record.last_step)}
  if isinstance(run.get('seconds'), (int, float)):
    items['Time'] = _duration(run['seconds'])
  if isinstance(run.get('parameters'), int):
    trainable = run.get('trainable', run['parameters'])
    note = '' if trainable == run['parameters'] else f', {html.number(trainable)} trained'
    items['Parameters'] = html.number(run['parameters']) + note
  items |= {'Device': run['device']} if run.get('device') else {}
  items |= {'Started': _moment(run['started'])} if run.get('started') else {}
  return html.facts(items)


def _results(record: Record) -> tuple[str, str, Any]:
  tasks = [task for task in record.tasks if record.names(task)]
  if not tasks:
    note = 'Nothing has been evaluated yet.' if record.metrics else 'Nothing has been measured yet.'
    return 'results', 'Results', html.tag('p', note, class_='muted')
  groups: dict[tuple, list[str]] = {}
  for task in tasks:
    columns = tuple((name, record.higher_is_better(task, name)) for name in record.names(task))
    groups.setdefault(columns, []).append(task)
  cards = [_headline(record, task, small=len(tasks) > 6) for task in tasks]
  cards = html.tag('div', cards, class_='cards', style=f'--min: {165 if len(tasks) > 6 else 220}px')
  tested = any(line.get('split') == 'test' for line in record.metrics)
  tables = [_score_table(record, [name for name, _ in group], members, tested) for group, members in groups.items()]
  legend = ('Bold: test. Beneath: validation at the same step, or else its last. ' if tested else
            'The last validation; there is no test yet. ')
  legend += 'Best step: by validation, first metric. ↑\u00a0more is better, ↓\u00a0less is better.'
  return 'results', 'Results', [cards, html.tag('p', legend, class_='muted', style='margin-top: 18px'), tables]


def _headline(record: Record, task: str, small: bool) -> html.Safe:
  metric = record.names(task)[0]
  score = Score.of(record, task, metric)
  split, value = ('validation', score.validation) if score.test is None else ('test', score.test)
  notes = [] if score.test is None or score.validation is None else [f'validation {html.number(score.validation, 3)}']
  count = _count(record, task, split)
  notes += [] if count == '–' else [f'n = {count}']
  return html.tag(
    'div', html.tag('h3', html.name(task)), html.tag('div', html.number(value, 3), class_='value'),
    html.tag('div', f'{split} {metric}'), html.tag('div', [html.tag('span', note) for note in notes], class_='muted'),
    class_='card score small' if small else 'card score')


def _score_table(record: Record, names: Sequence[str], tasks: Sequence[str], tested: bool) -> html.Safe:
  def cell(test, validation):
    return html.join(html.tag('b', test), html.tag('small', validation)) if tested else html.tag('b', validation)
  rows = []
  for task in tasks:
    scores = [Score.of(record, task, name) for name in names]
    values = [cell(html.number(score.test), html.number(score.validation)) for score in scores]
    n = cell(_count(record, task, 'test'), _count(record, task, 'validation'))
    best = html.join(html.number(scores[0].best_step), html.tag('small', html.number(scores[0].best)))
    rows.append([html.name(task), *values, n, best])
  heads = [f'{name} {"↑" if record.higher_is_better(tasks[0], name) else "↓"}' for name in names]
  return html.table(['task', *heads, 'n', 'best step'], rows)


def _count(record: Record, task: str, split: str) -> str:
  """How many rows the last evaluation of a task on a split held."""
  counts = record.series(split, f'eval/{task}/n')
  count = counts[max(counts)] if counts else math.nan
  return html.number(int(count) if math.isfinite(count) else count)


def _curves(record: Record) -> tuple[str, str, Any]:
  tasks = [task for task in record.tasks
           if record.series('train', f'train/{task}/loss') or record.names(task)]
  width, height = {1: (520, 230), 2: (520, 200), 3: (340, 165), 4: (520, 180)}.get(
    len(tasks), (340, 160) if len(tasks) <= 6 else (256, 136))
  figures = [_task_figure(record, task, (width, height)) for task in tasks]
  grid = {'class_': 'cards', 'style': f'--min: {width - 30}px'} if len(tasks) > 1 else {}
  return 'curves', 'Learning curves', html.tag('div', figures, **grid) if tasks else None


def _task_figure(record: Record, task: str, size: tuple[int, int]) -> html.Safe:
  def series(split, metric):
    return record.series(split, f'{"train" if split == "train" else "eval"}/{task}/{metric}')
  losses = [
    plots.Line.of('train loss', series('train', 'loss'), 'blue'),
    plots.Line.of('validation loss', series('validation', 'loss'), 'vermilion', '--', 'o'),
  ]
  names = [name for name in record.names(task) if name != 'loss'][:1 if size[0] < 400 else 3]
  looks = [('vermilion', '-', 'o'), ('green', '--', '^'), ('purple', ':', 's')]
  scores = [plots.Line.of(name, series('validation', name), *look) for name, look in zip(names, looks)
            if record.higher_is_better(task, name) == record.higher_is_better(task, names[0])]
  scores += [plots.Line.of('test', series('test', name), 'ink', '', 'D') for name in names[:1]]
  panels = [[line for line in lines if len(line.steps)] for lines in (losses, scores)]
  columns = [line._replace(label=f'test {names[0]}' if line.label == 'test' else line.label)
             for lines in panels for line in lines]
  rising = bool(names) and record.higher_is_better(task, names[0])
  svgs = [plots.panel(lines, xlim=(0, max(record.last_step, 1)), size=size, scale='linear' if scored else 'wide',
                      alt=f'{task}: {", ".join(line.label for line in lines)} over steps')
          for lines, scored in zip(panels, (False, rising)) if lines]
  # Where two panels fit at three quarters of their size, they stand side by side.
  svgs = html.tag('div', svgs, class_='panels', style=f'--min: {size[0] * 3 // 4}px')
  return html.tag('figure', html.tag('h3', html.name(task)), svgs, curve_table(columns), class_='card')


def _training(record: Record) -> tuple[str, str, Any]:
  names = [name for name in record.run_wide() if name not in speed.IN_TABLE]
  labels = [re.sub('^(train|time)/', '', name).replace('_', ' ') for name in names]
  lines = [plots.Line.of(label, record.series('train', name), 'blue') for label, name in zip(labels, names)]
  lines = [line for line in lines if line.steps]
  figures = [
    html.tag('figure', plots.panel([line], xlim=(0, max(record.last_step, 1)), size=(340, 150),
                                   alt=f'{line.label} over steps'), curve_table([line]), class_='card')
    for line in lines]
  speeds = {}
  for line in lines:
    if 'per second' in line.label:
      late = sorted(v for v in list(line.values)[1:] or line.values if math.isfinite(v))  # the first holds compilation
      speeds[line.label.capitalize()] = html.number(late[len(late) // 2], 3) if late else '–'
  note = html.join(html.facts({f'{label}, median': value for label, value in speeds.items()}),
                   html.tag('p')) if speeds else None
  body = [note, html.tag('div', figures, class_='cards', style='--min: 310px')]
  return 'training', 'Training', body if lines else None


def _samples(record: Record) -> tuple[str, str, Any]:
  return 'samples', 'Sample predictions', samples_page.render(record.samples)


def _data(record: Record) -> tuple[str, str, Any]:
  rows = []
  for stream, entry in record.data.items():
    source = ' '.join(str(entry[key]) for key in ('source', 'version') if entry.get(key))
    for split, facts in entry.get('splits', {}).items():
      fingerprint = html.tag('code', facts.get('fingerprint', ''))
      rows.append([stream, source, split, fingerprint, html.number(facts.get('rows'))])
  table = html.table(['stream', 'source', 'split', 'fingerprint', 'rows'], rows, text_columns=4)
  return 'data', 'Data', table if rows else None


def _config(record: Record) -> tuple[str, str, Any]:
  return 'config', 'Config', html.tree(record.config) if record.config else None


def _environment(record: Record) -> tuple[str, str, Any]:
  versions = record.run.get('versions') or {}
  facts = ({'device': record.run['device']} if record.run.get('device') else {}) | dict(versions)
  return 'environment', 'Versions and device', html.facts(facts) if facts else None


def _duration(seconds: float) -> str:
  if seconds < 60:
    return f'{seconds:.1f} s'
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours} h {minutes} min' if hours else f'{minutes} min {seconds} s'


def _moment(iso: Any) -> str:
  try:
    return datetime.datetime.fromisoformat(iso).strftime('%Y-%m-%d %H:%M %Z').strip()
  except (TypeError, ValueError):
    return str(iso)
