r"""A study's verdict as Markdown for a repository's web view: the page of `study_report` without its figures.

The text is a function of verdict and scores alone, so that a repository can keep it and see what changed. Names and
messages are escaped: they make no table cell, emphasis, element or formula of their own.

    # title, the claim, whether it holds, the command, warnings
    tables: arms; tasks × arms, mean with 95 % interval; change against the baseline; search
    comparisons as sentences and as a table; validation scores over steps; cells; settings
"""
import math
import re
from collections.abc import Sequence

from mtjax.studies import html, study_tables
from mtjax.studies.score_frame import ScoreFrame
from mtjax.studies.study_tables import Cell, Table, Verdict

STEPS = 6           # rows of a table over steps
_MARKS = {True: '✓', False: '✗', None: '?'}
_FOLDED = 12        # rows beyond which a table of cells is folded


def escape(text: str) -> str:
  r"""Text that Markdown shows as it is, on one line.

  Example:
    >>> print(escape('a|b <i> $x$ task_1 *x*'))
    a\|b &lt;i&gt; \$x\$ task_1 \*x\*
  """
  text = ' '.join(str(text).split())
  text = text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
  text = re.sub(r'([\\`*|$~]|\](?=[(\[:]))', r'\\\1', text)           # an interval in brackets is no link
  return re.sub(r'(?<![^\W_])_|_(?![^\W_])', r'\\_', text)  # within a word an underscore is itself


def table(content: Table) -> str:
  """A table; what stands beneath a cell is on a line of its own, and the best is bold."""
  def row(cells):
    return f'| {" | ".join(cells)} |'
  header = [_cell(cell) for cell in content.header]
  rule = ['---' if i < content.words else '---:' for i in range(len(header))]
  return '\n'.join(map(row, [header, rule, *[list(map(_cell, cells)) for cells in content.rows]]))


def markdown(verdict: Verdict, frame: ScoreFrame) -> str:
  """The report as Markdown.

  Args:
    verdict: of the study, as in `verdict.json`.
    frame: the scores of every evaluation.

  Raises:
    ValueError: the verdict lacks a key.
  """
  study_tables.check(verdict)
  paper = study_tables.paper_title(verdict)
  parts = [f'# {escape(verdict["title"] or verdict["study"])}']
  parts += [f'**{study_tables.SMOKE}**'] if verdict['smoke'] else []
  parts.append('Study ' + _code(verdict['study']) + (f' of “{escape(paper)}”' if paper else '') + '.')
  parts.append(f'> {escape(verdict["claim"])}')
  parts.append(f'**{_MARKS[verdict["holds"]]} {study_tables.HOLDS[verdict["holds"]]}.** {escape(verdict["sentence"])}')
  parts.append(_block(verdict['command']))
  if verdict['warnings']:
    parts += ['## Warnings', _bullets(verdict['warnings'])]
  parts += ['## Scores', study_tables.how_to_read(verdict)]
  parts.append(table(study_tables.arms_table(verdict)))
  for content in study_tables.task_tables(verdict):
    parts += [f'### {escape(content.title)}', table(content)]
  if content := study_tables.changes_table(verdict):
    parts += [f'### {content.title}', 'Above 0: better than the baseline.', table(content)]
  parts += _comparisons(verdict) + _search(verdict) + _validation(verdict, frame)
  parts += ['## Cells', _folded(study_tables.cells_table(verdict))] if verdict['cells'] else []
  parts += ['## Settings', _bullets(f'{name}: {value}' for name, value in study_tables.settings(verdict).items()),
            table(study_tables.overrides_table(verdict))]
  return '\n\n'.join(parts) + '\n'


def _cell(cell: Cell) -> str:
  text = escape(cell.text)
  text = f'**{text}**' if cell.best else text
  return f'{text}<br>{escape(cell.beneath)}' if cell.beneath else text


def _code(text: str) -> str:
  fence = '`' * (1 + max(map(len, re.findall('`+', text)), default=0))
  return f'{fence}{text}{fence}' if fence == '`' else f'{fence} {text} {fence}'


def _block(text: str) -> str:
  fence = '`' * max(3, 1 + max(map(len, re.findall('`+', text)), default=0))
  return f'{fence}bash\n{text}\n{fence}'


def _bullets(lines) -> str:
  return '\n'.join(f'- {escape(line)}' for line in lines)


def _folded(content: Table) -> str:
  failed = sum(row[2].text != 'finished' for row in content.rows)
  summary = f'{len(content.rows)} cells, {failed} of them not finished'
  if len(content.rows) <= _FOLDED:
    return f'{summary}.\n\n{table(content)}'
  return f'<details><summary>{summary}</summary>\n\n{table(content)}\n\n</details>'


def _comparisons(verdict: Verdict) -> list[str]:
  if not verdict['comparisons']:
    return []
  lines = []
  for entry in verdict['comparisons']:
    notes = [note for note in entry.get('warnings') or [] if note not in verdict['warnings']]
    role = f' ({entry["role"]})' if entry.get('role') else ''
    lines.append(' '.join([f'{_MARKS[study_tables.outcome(entry)]}{role} {entry["sentence"]}', *notes]))
  return ['## Comparisons', _bullets(lines), table(study_tables.comparison_table(verdict))]


def _search(verdict: Verdict) -> list[str]:
  search = verdict['search']
  if not search:
    return []
  space = [f'{field}: {text}' for field, text in search['space'].items()]
  chosen = f'Chosen on {search["split"]}: {search["chosen"]}.' if search['chosen'] else 'No arm was chosen.'
  return ['## Search', f'Method: {escape(search["method"])}. {escape(chosen)}', _bullets(space),
          table(study_tables.search_table(verdict))]


def _validation(verdict: Verdict, frame: ScoreFrame) -> list[str]:
  """Means over seeds at a few steps, the first and the last among them."""
  known, parts, arms = study_tables.curves(frame, 'validation'), [], list(verdict['arms'])
  note = 'Mean over seeds.'
  if len(arms) > study_tables.MANY:
    note += f' The {study_tables.BEST} best of {len(arms)} arms by validation.'
    arms = study_tables.ranking(verdict, frame)[:study_tables.BEST]
  for task in dict.fromkeys(task for task, _ in study_tables.columns(verdict)):
    metric = study_tables.primary(verdict, task)
    own = {arm: known.get((arm, task, metric), {}) for arm in arms}
    steps = sorted({step for points in own.values() for step in points})
    if not steps:
      continue
    def say(arm, step, own=own):
      failed = not own[arm] and verdict['arms'][arm]['status'] == 'failed'
      return 'failed' if failed else study_tables.show(study_tables.mean(own[arm].get(step, {}).values()))
    rows = [[Cell(arm), *(Cell(say(arm, step)) for step in _spread(steps))] for arm in arms]
    header = [Cell('arm'), *(Cell(f'step {html.number(step)}') for step in _spread(steps))]
    parts += [f'### {escape(task)}: {escape(metric)}', table(Table(task, header, rows))]
  return ['## Validation over steps', note, *parts] if parts else []


def _spread(steps: Sequence[int]) -> list[int]:
  """At most STEPS of them, evenly spread, with the first and the last."""
  if len(steps) <= STEPS:
    return list(steps)
  return [steps[math.floor(i * (len(steps) - 1) / (STEPS - 1))] for i in range(STEPS)]
