"""The report of a study: `report.html`, one page that says whether the claim holds and by what, and `report.md`.

It is made of the study's verdict (`study_tables.KEYS`) and of the scores of every evaluation, and of nothing else. From
top to bottom: the claim and whether it holds, what should be doubted, the scores, the comparisons, learning curves,
trade-offs, changes against the baselines, the search, and what was run.
"""
import os
import pathlib
from typing import Any

from mtjax.studies import html, plots, study_figures, study_tables
from mtjax.studies.score_frame import ScoreFrame
from mtjax.studies.study_markdown import markdown
from mtjax.studies.study_tables import Verdict

_SIGNS = {True: ('✓', 'finished'), False: ('✗', 'failed'), None: ('?', 'unknown')}


def write_study_report(folder: str | os.PathLike, verdict: Verdict,
                       frame: ScoreFrame) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes `folder/report.md`, then `folder/report.html`, each in one replacement, and returns their paths.

  Args:
    folder: of the study; made where it is missing.
    verdict: as in `verdict.json`.
    frame: the scores of every evaluation: validation at many steps, the judged split at one step a run.

  Raises:
    ImportError: matplotlib is not installed, which only the page needs.
    ValueError: the verdict lacks a key.
  """
  folder = pathlib.Path(folder)
  paths = folder / 'report.md', folder / 'report.html'
  for path, write in zip(paths, (markdown, render)):
    text = write(verdict, frame)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)
  return paths


def render(verdict: Verdict, frame: ScoreFrame) -> str:
  """The page."""
  study_tables.check(verdict)
  plots.import_matplotlib()
  sections = [
    ('warnings', 'Warnings', _warnings(verdict)),
    ('scores', 'Scores', _scores(verdict)),
    ('comparisons', 'Comparisons', _comparisons(verdict)),
    ('curves', 'Learning curves', study_figures.curves(verdict, frame)),
    ('pareto', 'Trade-offs', study_figures.trade_offs(verdict, frame)),
    ('changes', 'Change against the baseline', study_figures.changes(verdict)),
    ('search', 'Search', study_figures.search(verdict)),
    ('tasks', 'Between tasks', study_figures.diagnostics(verdict)),
    ('cells', 'Cells', _cells(verdict)),
    ('settings', 'Settings', _settings(verdict)),
  ]
  shown = [(anchor, title, body) for anchor, title, body in sections if body]
  title, paper = verdict['title'] or verdict['study'], study_tables.paper_title(verdict)
  return html.page(
    f'{title} · mtjax',
    html.tag('p', 'Study ', html.tag('code', verdict['study']), f' · {paper}' if paper else None, class_='subtitle'),
    html.tag('h1', title),
    html.tag('nav', [html.tag('a', heading, href=f'#{anchor}') for anchor, heading, _ in shown]),
    html.tag('p', study_tables.SMOKE, class_='alarm', role='alert') if verdict['smoke'] else None,
    _claim(verdict),
    html.tag('pre', html.tag('code', verdict['command']), class_='command', title='One click selects all'),
    [html.section(anchor, heading, body) for anchor, heading, body in shown],
  )


def _claim(verdict: Verdict) -> html.Safe:
  sign, tone = _SIGNS[verdict['holds']]
  return html.tag('div', html.tag('p', verdict['claim'], class_='claim'),
                  html.tag('p', html.tag('b', f'{sign} {study_tables.HOLDS[verdict["holds"]]}'), class_='holds'),
                  html.tag('p', verdict['sentence']), class_=f'verdict {tone}')


def _warnings(verdict: Verdict) -> Any:
  return html.tag('ul', [html.tag('li', warning) for warning in verdict['warnings']]) if verdict['warnings'] else None


def _scores(verdict: Verdict) -> list[html.Safe]:
  parts = [html.tag('p', study_tables.how_to_read(verdict), class_='muted'),
           study_figures.table(study_tables.arms_table(verdict))]
  for content in study_tables.task_tables(verdict):
    if len(verdict['arms']) > study_tables.MANY:
      parts.append(html.details(f'{content.title} of each arm and task', study_figures.table(content)))
    else:
      parts += [html.tag('h3', content.title, style='margin-top: 20px'), study_figures.table(content)]
  return parts


def _comparisons(verdict: Verdict) -> list[html.Safe] | None:
  items = []
  for entry in verdict['comparisons']:
    sign, tone = _SIGNS[study_tables.outcome(entry)]
    notes = [note for note in entry.get('warnings') or [] if note not in verdict['warnings']]
    word = study_tables.HOLDS[entry.get('holds')] if study_tables.is_claim(entry) else entry['verdict'].capitalize()
    role = html.tag('span', entry.get('role'), class_='muted note') if entry.get('role') else None
    head = html.tag('span', f'{sign} {word}', class_='tone')
    items.append(html.tag('li', head, role, html.tag('div', entry['sentence']),
                          [html.tag('div', note, class_='muted') for note in notes], class_=tone))
  if not items:
    return None
  sentences = html.tag('ul', items, class_='sentences')
  if len(items) > 12:
    sentences = html.details(f'{len(items)} comparisons in words', sentences)
  return [sentences, *study_figures.differences(verdict)]


def _cells(verdict: Verdict) -> html.Safe | None:
  if not verdict['cells']:
    return None
  failed = sum(cell['status'] != 'finished' for cell in verdict['cells'])
  summary = f'{len(verdict["cells"])} cells, {failed} of them not finished'
  return html.details(summary, study_figures.table(study_tables.cells_table(verdict)))


def _settings(verdict: Verdict) -> list[html.Safe]:
  overrides = study_tables.overrides_table(verdict)
  few = len(overrides.rows) <= study_tables.MANY
  return [html.facts(study_tables.settings(verdict)),
          html.details(overrides.title, study_figures.table(overrides), open_=few)]
