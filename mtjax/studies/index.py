"""The page of all studies: which claims hold, which do not, and for which there is no evidence.

python -m mtjax.studies.index RESULTS [--readme=FILE]

Reads RESULTS/*/verdict.json and the table of papers, and writes RESULTS/index.html: one file that needs no network; and
the same as a table between the markers `<!-- studies -->` of a README.
What is beside a verdict (report.html, report.md, README.md, a figure) is linked or shown. A verdict that cannot be
read is listed as damaged.
"""
import argparse
import base64
import json
import os
import pathlib
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mtjax.papers import PAPERS
from mtjax.studies import forest, html

REPORTS = {'report.html': 'report', 'report.md': 'report in Markdown', 'README.md': 'tables'}
# What becomes of a claim: its sign, its words, its tone on the page; in the order of the page.
OUTCOMES = {True: ('✓', 'Holds', 'finished'), False: ('✗', 'Does not hold', 'failed'),
            None: ('—', 'No evidence', 'unknown')}
_FIELDS = {'study': str, 'title': str, 'paper': (str, type(None)), 'claim': str, 'holds': (bool, type(None)),
           'sentence': str, 'metric_text': str, 'higher_is_better': bool, 'arms': Mapping, 'comparisons': list,
           'command': str, 'seeds': list, 'smoke': bool, 'warnings': list}
_NUMBER = (int, float, type(None))
_PAIR = {'a': str, 'b': str, 'difference': _NUMBER, 'interval': (list, type(None)), 'p_holm': _NUMBER,
         'verdict': str, 'sentence': str, 'holds': (bool, type(None))}


MOST = 10  # rows of a picture; the table has all


class Entry(NamedTuple):
  """One study.

  Attributes:
    folder: of its verdict.
    verdict: what the file says; None where it is damaged.
    problem: why it cannot be read.
  """
  folder: pathlib.Path
  verdict: Mapping[str, Any] | None
  problem: str = ''

  @classmethod
  def read(cls, path: pathlib.Path) -> 'Entry':
    """The entry of a verdict.json."""
    try:
      verdict = json.loads(path.read_text(encoding='utf-8'))
      _check(verdict, _FIELDS, 'verdict')
      for arm, found in verdict['arms'].items():
        _check(found, {'n': (int, type(None))}, f'arms.{arm}')
      for i, pair in enumerate(verdict['comparisons']):
        _check(pair, _PAIR, f'comparisons[{i}]')
        if pair['interval'] is not None:
          _check(dict(enumerate(pair['interval'])), {0: _NUMBER, 1: _NUMBER}, f'comparisons[{i}].interval')
    except (OSError, ValueError) as error:  # of ValueError: what is no JSON and what is no text
      return cls(path.parent, None, f'{type(error).__name__}: {error}')
    return cls(path.parent, verdict)

  @property
  def title(self) -> str:
    """The paper's title, or else the study's, or else the folder's name."""
    if self.verdict is None:
      return self.folder.name
    paper = PAPERS.get(self.verdict['paper'])
    return paper.title if paper else self.verdict['title'] or self.folder.name


def write_index(results: str | os.PathLike) -> pathlib.Path:
  """Writes `results/index.html` and returns its path.

  Args:
    results: the folder of the studies' folders.

  Raises:
    ImportError: matplotlib is not installed, and a verdict has comparisons to draw.
    ValueError: there is no such folder.
  """
  results = pathlib.Path(results)
  if not results.is_dir():
    raise ValueError(f'There are no results to list: {str(results)!r} is not a folder.')
  path = results / 'index.html'
  temporary = path.with_suffix('.html.tmp')
  temporary.write_text(render([Entry.read(found) for found in results.glob('*/verdict.json')]), encoding='utf-8')
  os.replace(temporary, path)
  return path


def render(entries: Sequence[Entry]) -> str:
  """The page: what holds, what does not, what has no evidence, what is damaged; within each by the title of
  the paper, those without one last."""
  order = list(OUTCOMES)
  entries = sorted(entries, key=lambda entry: (
    len(order) if entry.verdict is None else order.index(entry.verdict['holds']),
    entry.verdict is None or entry.verdict['paper'] is None, entry.title.lower(), entry.folder.name))
  links = [html.tag('a', f'{_outcome(entry)[0]} {entry.folder.name}', href=f'#{_anchor(entry)}') for entry in entries]
  listed = [_card(entry) for entry in entries] or html.tag('p', 'No study has a verdict yet.', class_='muted')
  return html.page(
    'Studies · mtjax', html.tag('h1', 'Studies'),
    html.tag('p', 'Every claim is a program, and its verdict a test over seeds.', class_='subtitle'),
    html.tag('nav', [*links, html.tag('a', 'Planned', href='#planned')]),
    _counts(entries), html.section('studies', 'Claims', listed), _planned(entries))


def main(argv: Sequence[str] | None = None) -> None:
  """The command line."""
  parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('results', type=pathlib.Path, help='the folder whose subfolders have a verdict.json')
  parser.add_argument('--readme', type=pathlib.Path, help='a file whose table of studies is made anew')
  options = parser.parse_args(argv)
  print(write_index(options.results))
  if options.readme is not None:
    text = options.readme.read_text(encoding='utf-8')
    options.readme.write_text(update(text, options.results), encoding='utf-8')
    print(options.readme)


def table(results: pathlib.Path, shown: str | None = None) -> str:
  """The studies as a Markdown table: name, claim, what became of it; `shown`: what links call the folder."""
  lines = ['| study | claim | verdict |', '|---|---|---|']
  for path in sorted(results.glob('*/verdict.json')):
    verdict = json.loads(path.read_text(encoding='utf-8'))
    pages = [name for name in ('report.md', 'README.md') if (path.parent / name).is_file()]
    name = path.parent.name
    link = f'[`{name}`]({shown or results.as_posix()}/{name}/{pages[0]})' if pages else f'`{name}`'
    sign, words, _ = OUTCOMES[verdict['holds']]
    lines.append(f'| {link} | {_cell(verdict["claim"])} | {sign} {words.lower()} |')
  return '\n'.join(lines)


def update(readme: str, results: pathlib.Path, shown: str | None = None) -> str:
  """The text of a README with the table between its markers."""
  start, stop = '<!-- studies -->\n', '<!-- /studies -->'
  if start not in readme or stop not in readme:
    raise ValueError(f'The README lacks the markers {start.strip()} and {stop}.')
  before, _, rest = readme.partition(start)
  return before + start + table(results, shown) + '\n' + stop + rest.partition(stop)[2]


def _cell(text: str) -> str:
  return text.replace('|', '\\|').replace('\n', ' ')


def _check(value: Any, fields: Mapping[Any, Any], where: str) -> None:
  """Raises ValueError where a field is missing or of another type."""
  if not isinstance(value, Mapping):
    raise ValueError(f'{where} is {value!r:.60}, not an object.')
  for field, kind in fields.items():
    if field not in value:
      raise ValueError(f'{where} has no {field!r}.')
    if not isinstance(value[field], kind):
      raise ValueError(f'{where}: {field!r} is {value[field]!r:.60}.')


def _outcome(entry: Entry) -> tuple[str, str, str]:
  return ('!', 'Damaged', 'stopped') if entry.verdict is None else OUTCOMES[entry.verdict['holds']]


def _anchor(entry: Entry) -> str:
  return f'study-{urllib.parse.quote(entry.folder.name)}'


def _counts(entries: Sequence[Entry]) -> html.Safe:
  outcomes = [_outcome(entry) for entry in entries]
  shown = [*OUTCOMES.values(), *([_outcome(entry) for entry in entries if entry.verdict is None][:1])]
  cards = []
  for outcome in shown:
    sign, words, tone = outcome
    value = html.tag('div', outcomes.count(outcome), class_='value', style='color: var(--tone)')
    cards.append(html.tag('div', value, html.tag('div', f'{sign} {words}'), class_=f'card score {tone}'))
  return html.tag('div', cards, class_='cards', style='--min: 150px')


def _card(entry: Entry) -> html.Safe:
  """One study."""
  sign, words, tone = _outcome(entry)
  verdict = entry.verdict
  text = f'verdict.json cannot be read. {entry.problem}' if verdict is None else verdict['sentence']
  status = html.tag('div', html.tag('b', f'{sign} {words}'), html.tag('div', text), class_=f'status {tone}',
                    style='flex-wrap: wrap')
  parts = [html.tag('h3', entry.title, style='font-size: 18px')]
  if verdict is None:
    parts.append(status)
  else:
    names = dict.fromkeys([verdict['title'], entry.folder.name])
    parts += [html.tag('p', ' · '.join(name for name in names if name not in ('', entry.title)), class_='muted'),
              html.tag('p', verdict['claim'], style='font-size: 16px'), status]
    if verdict['smoke']:
      parts.append(html.tag('p', html.tag('b', 'A smoke run of a few steps: the numbers mean nothing.')))
    if verdict['warnings']:
      parts.append(html.details(f'Warnings ({len(verdict["warnings"])})',
                                html.tag('ul', [html.tag('li', warning) for warning in verdict['warnings']])))
    facts = {'Compared': _size(verdict), 'Metric': _metric(verdict), 'Commit': verdict.get('commit') or '–'}
    facts = html.tag('div', html.facts(facts), html.tag('p'), _command(verdict))
    picture = _picture(entry)
    parts += [facts, picture] if picture else [
      html.tag('div', facts, _forest(entry), class_='panels', style='--min: 360px; gap: 14px 28px')]
    parts.append(_numbers(verdict))
  links = [html.tag('a', f'{words}: {name}', href=urllib.parse.quote(f'{entry.folder.name}/{name}'))
           for name, words in REPORTS.items() if (entry.folder / name).is_file()]
  parts.append(html.tag('nav', links, style='margin: 12px 0 0') if links else None)
  return html.tag('article', parts, class_='card', id=_anchor(entry), style='margin: 0 0 18px; padding: 20px 22px')


def _size(verdict: Mapping[str, Any]) -> str:
  """'3 arms × 5 seeds'; from the fewest to the most, where arms differ."""
  counts = [arm['n'] or 0 for arm in verdict['arms'].values()]
  low, high = min(counts, default=0), max([*counts, len(verdict['seeds'])])
  seeds = f'{low} to {high}' if 0 < len(counts) and low < high else str(high)
  return f'{len(counts)} arm{"s" * (len(counts) != 1)} × {seeds} seed{"s" * (seeds != "1")}'


def _metric(verdict: Mapping[str, Any]) -> str:
  return f'{verdict["metric_text"]} {"↑" if verdict["higher_is_better"] else "↓"}'


def _command(verdict: Mapping[str, Any]) -> html.Safe | None:
  return html.tag('pre', html.tag('code', verdict['command']), class_='command', title='One click selects all'
                  ) if verdict['command'] else None


def _picture(entry: Entry) -> html.Safe | None:
  """The study's own picture, with what it shows in words; None where it has none."""
  name = entry.verdict.get('figure')
  path = entry.folder / pathlib.PurePath(str(name)).name
  if not name or path.suffix != '.svg' or not path.is_file():
    return None
  words = str(entry.verdict.get('figure_text') or name)
  source = f'data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}'
  picture = html.tag('img', src=source, alt=words, style='display: block; max-width: max(100%, 680px)')
  return html.tag('figure', html.tag('div', picture, class_='scroll', tabindex=0),
                  html.tag('figcaption', words, class_='muted caption'), style='margin-top: 16px')


def _forest(entry: Entry) -> html.Safe | None:
  """The comparisons on the study's score, or else all, as a forest plot."""
  verdict = entry.verdict
  pairs = [pair for pair in verdict['comparisons'] if not pair.get('task')] or verdict['comparisons']
  rows = [forest.Row(f'{pair["a"]} − {pair["b"]}', where(pair), pair['difference'], *(pair['interval'] or ()),
                     verdict=pair['verdict']) for pair in pairs if isinstance(pair['difference'], (int, float))]
  if not rows:
    return None
  words = f'Differences a − b with intervals, {_metric(verdict)}; filled where there is evidence.'
  if len(rows) > MOST:
    words += f' The first {MOST} of {len(rows)}.'
  shown = forest.forest(rows[:MOST], alt=f'{entry.title}: differences with intervals')
  return html.tag('figure', shown, html.tag('figcaption', words, class_='muted caption'))


def _numbers(verdict: Mapping[str, Any]) -> html.Safe | None:
  """The comparisons as a table."""
  rows = []
  for pair in verdict['comparisons']:
    sign = OUTCOMES[pair['holds']][0]
    ends = ' to '.join(map(html.number, pair['interval'])) if pair['interval'] else '–'
    rows.append([f'{pair["a"]} − {pair["b"]}', where(pair), f'{sign} {pair["verdict"]}',
                 html.number(pair['difference']), ends, html.number(pair['p_holm'], 2)])
  head = ['comparison', 'on', 'verdict', 'difference', 'interval', 'p (Holm)']
  return html.details(f'Comparisons ({len(rows)})', html.table(head, rows, text_columns=3)) if rows else None


def where(pair: Mapping[str, Any]) -> str:
  """The task or bed of a comparison; '' for the study's score."""
  return str(pair.get('task') or pair.get('bed') or '')


def _planned(entries: Sequence[Entry]) -> html.Safe:
  """The papers that no study has tested yet."""
  tested = {entry.verdict['paper'] for entry in entries if entry.verdict is not None}
  papers = [paper for key, paper in PAPERS.items() if key not in tested and paper.study is None]
  made = [paper for paper in papers if paper.module is not None]
  rows = [[paper.title, paper.brief, 'implemented' if paper in made else 'planned'] for paper in papers]
  return html.section(
    'planned', 'Planned',
    html.tag('p', f'{len(papers)} of {len(PAPERS)} papers have no study yet; the methods of {len(made)} of them are '
             'implemented.'),
    html.details('The papers', html.table(['paper', 'what it adds', 'method'], rows, text_columns=3)))


if __name__ == '__main__':
  main()
