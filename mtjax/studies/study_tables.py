"""What a study found, as tables and lines of text: what its page and its Markdown both say.

A study compares arms over seeds on tasks. Its `verdict` is a dict, as in `verdict.json` (KEYS names what is in it); the
scores of every evaluation are in a ScoreFrame. Here the two become `Table`s of `Cell`s, and `study_report` and
`study_markdown` say how a cell looks.

A number that is null or NaN is '–'. Nothing is dropped: an arm or a cell that failed has its row, and says so. The
best is only what `verdict['best']` lists, which is what is significantly best.
"""
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mtjax.config import did_you_mean
from mtjax.papers import PAPERS
from mtjax.studies import html
from mtjax.studies.score_frame import ScoreFrame

KEYS = ('study', 'title', 'paper', 'claim', 'holds', 'sentence', 'metric', 'metric_text', 'higher_is_better', 'split',
        'selection', 'baseline', 'arms', 'best', 'comparisons', 'search', 'cells', 'warnings', 'command', 'commit',
        'versions', 'device', 'seeds', 'smoke')
HOLDS = {True: 'Holds', False: 'Does not hold', None: 'No evidence'}
SMOKE = 'This was a smoke run of a few steps: its numbers mean nothing.'
MANY = 24           # arms beyond which curves are shown of the BEST only, by validation
BEST = 8
WIDE = 8            # arms beyond which a table of tasks and arms has the arms as its rows
Verdict = Mapping[str, Any]
Curve = dict[int, dict[int, float]]


class Cell(NamedTuple):
  """A number or word, what stands small beneath it, and whether it is significantly the best."""
  text: str
  beneath: str = ''
  best: bool = False


class Table(NamedTuple):
  """Rows of cells; the first `words` columns are words, the others are numbers."""
  title: str
  header: Sequence[Cell]
  rows: Sequence[Sequence[Cell]]
  words: int = 1


def check(verdict: Verdict) -> None:
  """Raises ValueError naming a key of the verdict that is missing, and a `holds` that is none."""
  for key in KEYS:
    if key not in verdict:
      near = [name for name in verdict if name not in KEYS and name != 'diagnostics']
      hint = f' {did_you_mean(key, near)}' if near else ''
      raise ValueError(f"The verdict has no '{key}'.{hint}")
  if verdict['holds'] not in (True, False, None):
    raise ValueError(f"The verdict's 'holds' must be True, False or None, got {verdict['holds']!r}.")
  if not verdict['arms']:
    raise ValueError("The verdict's 'arms' are empty: there is nothing to report.")


def number(value: Any) -> float:
  """What JSON had in a number's place, as a number: NaN for null, and for the words that stand for NaN."""
  try:
    return math.nan if isinstance(value, bool) else float(value)
  except (TypeError, ValueError):
    return math.nan


def show(value: Any, sign: bool = False, digits: int = 4) -> str:
  """A number for reading, with its sign where that matters."""
  whole = isinstance(value, int) and not isinstance(value, bool)
  text = html.number(value if whole else number(value), digits)
  return f'+{text}' if sign and number(value) > 0 else text


def span(interval: Any, sign: bool = False, digits: int = 4) -> str:
  """[0.91, 0.93]; nothing where there is no interval."""
  if not interval or not all(math.isfinite(number(edge)) for edge in interval):
    return ''
  low, high = (show(edge, sign, digits) for edge in interval)
  return f'[{low}, {high}]'


def arrow(higher_is_better: bool) -> str:
  """Which way is better."""
  return '↑' if higher_is_better else '↓'


def how_to_read(verdict: Verdict) -> str:
  """What stands in the tables of scores."""
  return (f'On {verdict["split"]}: mean over n seeds, beneath it the 95 % interval. Bold: significantly the best, '
          'after Holm. ↑\u00a0more is better, ↓\u00a0less is better.')


def paper_title(verdict: Verdict) -> str | None:
  """The title of the study's paper; its key where the table of papers does not know it."""
  key = verdict['paper']
  return PAPERS[key].title if key in PAPERS else key


def columns(verdict: Verdict) -> dict[tuple[str, str], bool]:
  """{(task, metric): higher_is_better} over all arms, in the order of their first mention."""
  found: dict[tuple[str, str], bool] = {}
  for arm in verdict['arms'].values():
    for task, metrics in (arm.get('tasks') or {}).items():
      for metric in metrics or {}:
        if entry := score(arm, task, metric):
          found.setdefault((task, metric), entry['higher_is_better'])
  return found


def score(arm: Mapping[str, Any], task: str, metric: str) -> Mapping[str, Any]:
  """What the verdict has of one metric of one task of an arm; nothing where it was not measured."""
  return ((arm.get('tasks') or {}).get(task) or {}).get(metric) or {}


def primary(verdict: Verdict, task: str) -> str | None:
  """The metric a task is judged by: the study's, where the task has it, or else its first."""
  own = [metric for name, metric in columns(verdict) if name == task]
  return verdict['metric'] if verdict['metric'] in own else next(iter(own), None)


def arms_table(verdict: Verdict) -> Table:
  """Arms × what each of them scored and cost."""
  arms, best = verdict['arms'], (verdict['best'] or {}).get('score')
  ranked = any(arm.get('mean_rank') for arm in arms.values())
  changed = any(arm.get('delta_m') for arm in arms.values())
  metric = verdict['metric_text'] or verdict['metric']
  header = ['arm', 'status', 'n', Cell(f'score {arrow(verdict["higher_is_better"])}', metric), 'IQM']
  header += ['Δm, % ↑'] * changed + ['mean rank ↓'] * ranked + ['parameters', 'steps', 'seconds']
  rows = []
  for name, arm in arms.items():
    status = arm['status'] if arm['status'] == 'finished' else f'✗ {arm["status"]}'
    row = [Cell(name), Cell(status), Cell(show(arm.get('n'))),
           Cell(show(arm.get('mean')), span(arm.get('interval')), name == best),
           Cell(show(arm.get('iqm')), span(arm.get('iqm_interval')))]
    for key, shown in (('delta_m', changed), ('mean_rank', ranked)):
      entry = arm.get(key) or {}
      style = dict(sign=key == 'delta_m', digits=3)
      row += [Cell(show(entry.get('mean'), **style), span(entry.get('interval'), **style))] * shown
    seconds = number(arm.get('seconds'))
    rows.append(row + [Cell(show(arm.get('params'))), Cell(show(arm.get('steps'))), Cell(html.number(seconds, 3))])
  return Table('Arms', [head if isinstance(head, Cell) else Cell(head) for head in header], rows, words=2)


def task_tables(verdict: Verdict) -> list[Table]:
  """Tasks × arms, a table for each metric; arms × tasks where there are many arms."""
  arms, best = verdict['arms'], (verdict['best'] or {}).get('tasks') or {}
  groups: dict[tuple[str, bool], list[str]] = {}
  for (task, metric), higher in columns(verdict).items():
    groups.setdefault((metric, higher), []).append(task)

  def cell(name, task, metric):
    arm = arms[name]
    entry = score(arm, task, metric)
    if not entry:
      return Cell('failed' if arm['status'] == 'failed' else '–')
    beneath = span(entry.get('interval'))
    if entry.get('n') != arm.get('n'):
      beneath = f'{beneath} n = {show(entry.get("n"))}'.strip()
    return Cell(show(entry.get('mean')), beneath, (best.get(task) or {}).get(metric) == name)

  tables = []
  for (metric, higher), tasks in groups.items():
    heads = {name: Cell(name, f'n = {show(arm.get("n"))}') for name, arm in arms.items()}
    cells = {(name, task): cell(name, task, metric) for name in arms for task in tasks}
    title = f'{metric} {arrow(higher)}'
    if len(arms) > WIDE:
      rows = [[heads[name], *(cells[name, task] for task in tasks)] for name in arms]
      tables.append(Table(title, [Cell('arm'), *map(Cell, tasks)], rows))
    else:
      rows = [[Cell(task), *(cells[name, task] for name in arms)] for task in tasks]
      tables.append(Table(title, [Cell('task'), *heads.values()], rows))
  return tables


def changes_table(verdict: Verdict) -> Table | None:
  """Arms × (task, metric): percent by which each is better than its baseline; None where no arm has a baseline."""
  pairs = list(columns(verdict))
  if not any(arm.get('delta_m') for arm in verdict['arms'].values()):
    return None
  say = lambda arm, pair: 'failed' if arm['status'] == 'failed' else show(change(arm, *pair), sign=True, digits=3)
  rows = [[Cell(name), *(Cell(say(arm, pair)) for pair in pairs)] for name, arm in verdict['arms'].items()]
  heads = map(Cell, ('arm', *column_labels(pairs)))
  return Table('Change against the baseline, %', list(heads), rows)


def change(arm: Mapping[str, Any], task: str, metric: str) -> float:
  """Percent by which an arm is better than its baseline, below 0 where worse; NaN where unknown."""
  return number(score(arm, task, metric).get('change'))


def column_labels(pairs: Sequence[tuple[str, str]]) -> list[str]:
  """The task's name where it has one metric, else metric and task: what a picture cuts is the end."""
  tasks = [task for task, _ in pairs]
  return [task if tasks.count(task) == 1 else f'{metric}: {task}' for task, metric in pairs]


def comparison_name(entry: Mapping[str, Any]) -> str:
  """a − b, and on what."""
  return f'{entry["a"]} − {entry["b"]}, {entry["task"] or "study’s score"}'


def is_claim(entry: Mapping[str, Any]) -> bool:
  """Whether the study's claim rests on a comparison; others are told for the record."""
  return entry.get('role') != 'per task'


def outcome(entry: Mapping[str, Any]) -> bool | None:
  """Of a claim whether it holds; of another comparison whether a is better (True) or worse (False)."""
  return entry.get('holds') if is_claim(entry) else {'better': True, 'worse': False}.get(entry['verdict'])


def comparison_table(verdict: Verdict) -> Table:
  """Every comparison with its numbers."""
  header = ['a', 'b', 'on', 'metric', 'role', 'verdict', 'holds', 'a − b', '95 % interval', 'p (Holm)', 'd_z',
            'detectable', 'n']
  rows = [[entry['a'], entry['b'], entry['task'] or 'study’s score', entry['metric'], entry.get('role') or '–',
           entry.get('verdict') or '–', {True: 'yes', False: 'no'}.get(entry.get('holds'), '–'),
           show(entry.get('difference'), sign=True), span(entry.get('interval'), sign=True) or '–',
           html.number(number(entry.get('p_holm')), 3), html.number(number(entry.get('effect_size')), 3),
           html.number(number(entry.get('minimal_detectable_effect')), 3), show(entry.get('n'))]
          for entry in verdict['comparisons']]
  return Table('Comparisons', list(map(Cell, header)), [list(map(Cell, row)) for row in rows], words=7)


def cells_table(verdict: Verdict) -> Table:
  """Every run with its status; what failed says why."""
  rows = [[Cell(str(cell['arm'])), Cell(str(cell['part'] if cell['part'] not in (None, '') else '–')),
           Cell(cell['status'] if cell['status'] == 'finished' else f'✗ {cell["status"]}'),
           Cell(str(cell.get('message') or '')), Cell(show(cell['seed'])),
           Cell(html.number(number(cell.get('seconds')), 3))] for cell in verdict['cells']]
  return Table('Cells', list(map(Cell, ('arm', 'part', 'status', 'message', 'seed', 'seconds'))), rows, words=4)


def overrides_table(verdict: Verdict) -> Table:
  """What sets each arm apart in the config."""
  written = lambda arm: ', '.join(f'{field}={value}' for field, value in (arm.get('overrides') or {}).items())
  rows = [[Cell(name), Cell(written(arm) or '–'), Cell(str((verdict['baseline'] or {}).get(name, '–')))]
          for name, arm in verdict['arms'].items()]
  return Table('What each arm changes', list(map(Cell, ('arm', 'config', 'baseline'))), rows, words=3)


def settings(verdict: Verdict) -> dict[str, str]:
  """Seeds, score, split, selection, commit, device, versions."""
  items = {'Seeds': ', '.join(map(str, verdict['seeds'])) or '–', 'Score': verdict['metric_text'] or verdict['metric'],
           'Split': verdict['split'], 'Step chosen by': verdict['selection'], 'Commit': verdict['commit'] or '–',
           'Device': verdict['device'] or '–'}
  return items | {name: str(version) for name, version in (verdict['versions'] or {}).items()}


def search_table(verdict: Verdict) -> Table:
  """The arms of a search with what was searched and what they scored on validation, best first."""
  search = verdict['search']
  scores = {arm: number((search.get('validation') or {}).get(arm)) for arm in search['values']}
  header = ['arm', *search['space'], f'{search["split"]} {arrow(verdict["higher_is_better"])}', '']
  rows = []
  for arm in best_first(scores, verdict['higher_is_better']):
    values = search['values'][arm]
    rows.append([Cell(arm), *(Cell(setting(values.get(field))) for field in search['space']), Cell(show(scores[arm])),
                 Cell('chosen' if arm == search['chosen'] else '')])
  return Table('Search', list(map(Cell, header)), rows)


def setting(value: Any) -> str:
  """A value of a searched field, as a config writes it."""
  if isinstance(value, float) and math.isfinite(value):
    return f'{value:.6g}'
  return '–' if value is None else str(value)


def best_first(scores: Mapping[str, float], higher_is_better: bool) -> list[str]:
  """Names by their score; those without one are last."""
  sign = -1 if higher_is_better else 1
  return sorted(scores, key=lambda name: (math.isnan(scores[name]), sign * scores[name]
                                          if not math.isnan(scores[name]) else 0.0))


def curves(frame: ScoreFrame, split: str) -> dict[tuple[str, str, str], Curve]:
  """{(arm, task, metric): {step: {seed: value}}} of a split, steps in order."""
  found: dict[tuple[str, str, str], Curve] = {}
  for row in sorted(frame.where(split=split), key=lambda row: row.step):
    found.setdefault((row.arm, row.task, row.metric), {}).setdefault(row.step, {})[row.seed] = float(row.value)
  return found


def ranking(verdict: Verdict, frame: ScoreFrame) -> list[str]:
  """Arms by their validation score: that of the search, or else the mean of their ranks at their last step."""
  search = verdict['search'] or {}
  if search.get('validation'):
    scores = {arm: number(search['validation'].get(arm)) for arm in verdict['arms']}
    return best_first(scores, verdict['higher_is_better'])
  known, ranks = curves(frame, 'validation'), {arm: [] for arm in verdict['arms']}
  for (task, metric), higher in columns(verdict).items():
    if metric == primary(verdict, task):
      own = {arm: known.get((arm, task, metric)) for arm in verdict['arms']}
      last = {arm: mean(steps[max(steps)].values()) if steps else math.nan for arm, steps in own.items()}
      for rank, arm in enumerate(best_first(last, higher)):
        ranks[arm].append(rank)
  return best_first({arm: mean(own) for arm, own in ranks.items()}, higher_is_better=False)


def mean(values: Iterable[float]) -> float:
  """The mean; NaN of nothing."""
  values = list(values)
  return sum(values) / len(values) if values else math.nan
