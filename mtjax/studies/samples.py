"""Sample predictions on a page: pictures in a grid, texts, vectors and maps in a table, right and wrong told apart in
three ways (a sign, an edge, a colour).

A sample is {"input", "label", "prediction", "detail", "correct": true | false | null}; `run_record` says what an input
is, and a label or prediction that is a map is such an image too.
"""
from collections.abc import Mapping, Sequence
from typing import Any

from mtjax.studies import html

MAX_SHOWN = 48     # of each task
MAX_TEXT = 500     # characters of each


def render(samples: Mapping[str, Any]) -> list[html.Safe]:
  """{task: {"rows": [sample, …]}} -> a heading and a grid or table a task; tasks without rows are left out."""
  parts = []
  for task, entry in samples.items():
    rows = entry.get('rows', []) if isinstance(entry, Mapping) else []
    if not rows:
      continue
    shown = rows[:MAX_SHOWN]
    pictures = all(_input(row).get('type') == 'image' and not isinstance(row.get('label'), Mapping) for row in shown)
    parts += [html.tag('h3', html.name(task), ' ', html.tag('span', _note(rows, shown), class_='muted note')),
              _picture_grid(shown) if pictures else _table(shown)]
  return parts


def _note(rows: Sequence[Mapping[str, Any]], shown: Sequence[Mapping[str, Any]]) -> str:
  judged = [row['correct'] for row in rows if row.get('correct') is not None]
  notes = [f'{sum(map(bool, judged))} of these {len(judged)} right'] if judged else []
  notes += [] if len(shown) == len(rows) else [f'the first {len(shown)} of {len(rows)} are shown']
  return '; '.join(notes)


def _picture_grid(rows: Sequence[Mapping[str, Any]]) -> html.Safe:
  cells = []
  for row in rows:
    kind, mark = _mark(row)
    prediction, label = _show(row.get('prediction')), _show(row.get('label'))
    cells.append(html.tag(
      'div', html.image(str(_input(row).get('png', '')), f'label {label}, prediction {prediction}'),
      html.tag('div', mark, ' ', html.tag('b', prediction)),
      html.tag('div', f'label {label}', class_='muted'),
      html.tag('div', row['detail'], class_='muted') if row.get('detail') else None, class_=f'sample {kind}'))
  return html.tag('div', cells, class_='samples')


def _table(rows: Sequence[Mapping[str, Any]]) -> html.Safe:
  cells = []
  for row in rows:
    shown = _input(row)
    if shown.get('type') == 'image':
      what = html.image(str(shown.get('png', '')), 'input')
    elif shown.get('type') == 'vector':
      values = list(shown.get('values', []))
      text = ', '.join(html.number(value, 3) for value in values[:16])
      text += f', … ({len(values)})' if len(values) > 16 else ''
      what = html.tag('div', html.tag('code', text), class_='wrap')
    else:
      text = str(shown.get('text', ''))
      what = html.tag('div', text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + ' …', class_='wrap')
    cells.append([_mark(row)[1], what, _show(row.get('prediction')), _show(row.get('label')), row.get('detail') or ''])
  return html.table(['', 'input', 'prediction', 'label', ''], cells, text_columns=5)


def _mark(row: Mapping[str, Any]) -> tuple[str, html.Safe | None]:
  if row.get('correct') is None:
    return '', None
  kind, sign, word = ('correct', '✓', 'right') if row['correct'] else ('wrong', '✗', 'wrong')
  return kind, html.tag('span', sign, class_=f'mark {kind}', title=word, aria_label=word)


def _input(row: Mapping[str, Any]) -> Mapping[str, Any]:
  return row['input'] if isinstance(row.get('input'), Mapping) else {}


def _show(value: Any) -> str | html.Safe:
  if isinstance(value, Mapping):
    return html.image(str(value.get('png', '')), 'map')
  if isinstance(value, (list, tuple)):
    return ', '.join(map(_show, value)) or '(none)'
  return html.number(value, 3) if value is None or isinstance(value, float) else str(value)
