"""The report of a study says what the verdict holds: no more, no less, and nothing that a browser would run or fetch."""
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from studies.test_run_report import Page
from studies.verdicts import COMMAND, comparison, study, sweep

from mtjax.studies import study_figures, study_report, study_tables

pytest.importorskip('matplotlib')
HOSTILE = '<script>alert("x")</script>|a_*b*&$c$ `d`'


def page(verdict, frame):
  return Page(study_report.render(verdict, frame))


def section(text, anchor):
  """The page's part of one heading; '' where it is absent."""
  found = re.search(rf'<section id="{anchor}">.*?</section>', text, re.S)
  return found.group() if found else ''


def bold(text):
  """What stands bold in tables."""
  return [re.sub('<[^>]+>', '', cell) for cell in re.findall(r'<td[^>]*>(?:(?!</td>).)*?<b>(.*?)</b>', text)]


def test_writes_both_files(tmp_path):
  verdict, frame = study()
  markdown, html = study_report.write_study_report(tmp_path / 'study', verdict, frame)
  assert (markdown, html) == (tmp_path / 'study' / 'report.md', tmp_path / 'study' / 'report.html')
  assert markdown.read_text() == study_report.markdown(verdict, frame)
  assert html.read_text() == study_report.render(verdict, frame)          # and the same page every time
  assert sorted(path.name for path in html.parent.iterdir()) == ['report.html', 'report.md']


@pytest.mark.parametrize('holds, words', [(True, '✓ Holds'), (False, '✗ Does not hold'), (None, 'No evidence')])
def test_the_claim_and_whether_it_holds(holds, words):
  verdict, frame = study(holds=holds, claim='New beats old.', sentence='By 0.01, said once.')
  page(verdict, frame).assert_says(
    'New beats old.', words, 'By 0.01, said once.', COMMAND,
    'Improving Multi-task Learning via Seeking Task-based Flat Regions')
  text = study_report.markdown(verdict, frame)
  assert f'{words}.** By 0.01, said once.' in text and '> New beats old.' in text and f'```bash\n{COMMAND}\n```' in text
  tones = {True: 'verdict finished', False: 'verdict failed', None: 'verdict unknown'}
  assert f'class="{tones[holds]}"' in study_report.render(verdict, frame)


def test_smoke_and_warnings():
  loud, frame = study(smoke=True, warnings=['3 seeds, fewer than five.', 'Unequal steps: <4> & 5.'])
  page(loud, frame).assert_says('its numbers mean nothing', '3 seeds, fewer than five.', 'Unequal steps: <4> & 5.')
  text = study_report.markdown(loud, frame)
  assert '**This was a smoke run' in text and '\n- 3 seeds, fewer than five.\n- Unequal steps: &lt;4&gt; &amp; 5.' in text
  quiet, frame = study()
  for text in (study_report.markdown(quiet, frame), study_report.render(quiet, frame)):
    assert 'smoke' not in text and 'Warnings' not in text


def test_bold_is_only_what_the_verdict_calls_best():
  verdict, frame = study()
  assert bold(section(study_report.render(verdict, frame), 'scores')) == []
  tables = [line for line in study_report.markdown(verdict, frame).splitlines() if line.startswith('|')]
  assert not any('**' in line for line in tables)
  best = dict(score='new', tasks={'left': {'accuracy': 'old'}, 'right': {'accuracy': None}})
  verdict, frame = study(best=best)                                       # 'old' is not the greatest: the verdict says so
  values = [study_tables.show(verdict['arms']['new']['mean']),
            study_tables.show(verdict['arms']['old']['tasks']['left']['accuracy']['mean'])]
  assert bold(section(study_report.render(verdict, frame), 'scores')) == values
  assert re.findall(r'\*\*([0-9.]+)\*\*', study_report.markdown(verdict, frame)) == values


def test_an_arm_that_failed_is_shown_as_failed():
  verdict, frame = study(('new', 'old', 'broken'), failed=('broken',), baseline='old')
  found = page(verdict, frame)
  found.assert_says('broken ✗ failed 0 – – – – – – –',                   # n, score, IQM, change, rank, parameters, steps, seconds
                    'Without validation scores: broken', 'loss of left is nan at step 7', '15 cells, 5 of them not finished')
  text = study_report.render(verdict, frame)
  assert section(text, 'scores').count('>failed<') == 2                   # its two tasks
  assert section(text, 'pareto').count('>failed<') == section(text, 'pareto').count('<figure') == 3
  assert section(text, 'changes').count('>failed<') == 2
  text = study_report.markdown(verdict, frame)
  assert '| broken | ✗ failed | 0 | – |' in text and '| – | failed |' not in text
  assert re.search(r'\| left \| [^|]+ \| [^|]+ \| failed \|', text)
  assert text.count('loss of left is nan at step 7') == 5
  assert text.count('| broken | failed | failed | failed | failed |') == 2      # validation over four steps


def test_all_arms_failed():
  verdict, frame = study(failed=('new', 'old'), holds=None, comparisons=[])
  page(verdict, frame).assert_says('No evidence', 'new ✗ failed', 'old ✗ failed')
  assert '| new | ✗ failed |' in study_report.markdown(verdict, frame)


def test_missing_numbers_are_dashes():
  verdict, frame = study()
  arm, entry = verdict['arms']['new'], verdict['comparisons'][0]
  arm |= dict(iqm=math.nan, iqm_interval=None, params=None, interval=[math.nan, None], mean_rank=None, seconds='NaN')
  arm['tasks']['left']['accuracy'] |= dict(mean=None, interval=None, n=3)
  entry |= dict(difference=None, interval=None, p=None, p_holm=math.nan, effect_size=None,
                minimal_detectable_effect=None, holds=None)
  for text in (' '.join(page(verdict, frame).text), study_report.markdown(verdict, frame)):
    assert not re.search(r'\b(nan|none|null)\b', text, re.I)
  page(verdict, frame).assert_says('– n = 3')                             # one of fewer seeds than its arm has
  row = next(line for line in study_report.markdown(verdict, frame).splitlines() if line.startswith('| new | finished'))
  assert row.count(' – ') == 4                                            # IQM, rank, parameters, seconds


def test_every_figure_has_a_table_beneath():
  verdict, frame = study(('new', 'old', 'other'), baseline='old', diagnostics={
    'new': {'cosine': [[1, -0.2], [-0.2, 1]], 'affinity': [[None, 0.02], [-0.01, None]], 'tasks': ['left', 'right']},
    'old': {'cosine': None, 'affinity': None, 'tasks': ['left', 'right']}})
  for text in (study_report.render(verdict, frame), study_report.render(*sweep())):
    figures = re.findall(r'<figure.*?</figure>', text, re.S)
    assert figures and all('<svg' in figure and '<table>' in figure for figure in figures)
  text = study_report.render(verdict, frame)
  counts = dict(comparisons=1, curves=2, pareto=3, changes=1, tasks=2)
  assert {anchor: section(text, anchor).count('<figure') for anchor in counts} == counts


def test_names_are_escaped_in_the_page():
  verdict, frame = study((HOSTILE, 'old'), (HOSTILE, 'right'), baseline='old', warnings=[HOSTILE], title=HOSTILE,
                         command=HOSTILE, device=HOSTILE,
                         diagnostics={HOSTILE: {'cosine': [[1, 0], [0, 1]], 'affinity': None, 'tasks': [HOSTILE, 'right']}})
  found, text = page(verdict, frame), study_report.render(verdict, frame)
  assert not {'script', 'link', 'iframe', 'i'} & set(found.tags) and 'http' not in text
  assert all(value.startswith('#') for _, key, value in found.attributes if key in ('src', 'href'))
  ids = [value for _, key, value in found.attributes if key == 'id']
  assert len(ids) == len(set(ids))
  found.assert_says(HOSTILE)


def test_comparisons_are_said_and_drawn():
  entries = [comparison('new', 'old', None, 'accuracy'),
             comparison('new', 'old', 'left', 'accuracy', verdict='no evidence', holds=None, role='not worse',
                        warnings=['3 seeds, fewer than five.', 'Known.']),
             comparison('new', 'old', 'right', 'accuracy', verdict='worse', holds=False, difference=-0.02,
                        interval=[-0.03, -0.01])]
  verdict, frame = study(comparisons=entries, warnings=['Known.'])
  found = page(verdict, frame)
  found.assert_says('3 seeds, fewer than five.', 'No evidence not worse', 'new − old left', '−0.0200',
                    '← second is better first is better →')
  part = section(study_report.render(verdict, frame), 'comparisons')
  assert 'Known.' not in part                                             # it stands among the warnings already
  dots = re.findall(r'<circle cx="([0-9.]+)%"[^>]*stroke="var\(--(\w+)[^"]*"[^>]*fill="var\(--(\w+)', part)
  assert [dot[1:] for dot in dots] == [('blue', 'blue'), ('muted', 'card'), ('vermilion', 'vermilion')]
  # From -0.03 to 0.016 with 8 % of room on either side: 0 is at (0.03 + 0.00368) / (0.046 + 0.00736) = 63.1 %.
  assert part.count('<line x1="63.12%" x2="63.12%"') == 3
  assert [float(dot[0]) < 63.12 for dot in dots] == [False, False, True]
  text = study_report.markdown(verdict, frame)
  assert "- ? (not worse) 'new' is better than 'old' on left: +0.01, 5 seeds. 3 seeds, fewer than five.\n" in text


def test_sides_of_a_forest_follow_the_direction():
  verdict, frame = study(metrics=('loss',))
  page(verdict, frame).assert_says('← first is better second is better →')


def test_metrics_have_forests_and_tables_of_their_own():
  verdict, frame = study(metrics=('accuracy', 'loss'))
  verdict['comparisons'].append(comparison('new', 'old', 'left', 'loss', difference=-3.0, interval=[-4.0, -2.0]))
  text = study_report.render(verdict, frame)
  assert section(text, 'comparisons').count('<figure') == 2               # one axis holds one unit
  page(verdict, frame).assert_says('accuracy ↑ task new n = 5 old n = 5', 'loss ↓ task new n = 5 old n = 5')


def test_curves_are_means_with_a_band():
  verdict, frame = study(seeds=(0, 1), steps=(10, 20), tasks=('left',))
  line = study_figures._mean_line('new', {10: {0: 1.0, 1: 3.0}, 20: {0: 2.0, 1: math.nan}}, ('blue', '-'))
  assert line.values[0] == 2.0 and line.band[0][0] == 1.0 and line.band[1][0] == 3.0
  assert math.isnan(line.values[1])                                       # a seed that diverged is not averaged away
  part = section(study_report.render(verdict, frame), 'curves')
  assert part.count('PolyCollection') == 2                                # a band for each arm
  assert 'from the lowest to the highest seed' in part
  values = [row.value for row in frame.where(arm='new', split='validation', step=20)]
  assert study_tables.show(float(np.mean(values))) in part


def test_a_single_seed_has_no_band():
  line = study_figures._mean_line('new', {10: {0: 1.0}, 20: {0: 2.0}}, ('blue', '-'))
  assert line.band is None


def test_the_pareto_front_is_marked():
  verdict, frame = study(('new', 'old', 'other'))                         # each better than the next in both tasks
  part = section(study_report.render(verdict, frame), 'pareto')
  tasks, seconds, params = re.findall(r'<figure.*?</figure>', part, re.S)
  front = lambda figure: re.findall(r'<td>(?:<wbr>|[\w ])+</td><td>(✓?)</td>', figure)
  assert front(tasks) == ['✓', '', ''] and front(params) == ['✓', '', '']
  assert front(seconds) == ['✓', '✓', '✓']                                # the worse ones are faster
  assert 'Small: seeds' in tasks and 'Small: seeds' not in seconds


def test_costs_that_are_equal_or_unknown():
  verdict, frame = study(tasks=('left', 'middle', 'right'))
  for arm in verdict['arms'].values():
    arm['params'] = 5000
  verdict['arms']['old']['seconds'] = None
  part = section(study_report.render(verdict, frame), 'pareto')
  assert part.count('<figure') == 1 and 'All have the same: 5,000 parameters.' in part and 'against time' not in part


def test_changes_are_of_the_arms_with_a_baseline():
  verdict, frame = study(baseline='old')
  part = section(study_report.render(verdict, frame), 'changes')
  assert part.count('>1.1</text>') == 2 and '+1.12' in part               # 100 · 0.01 / 0.89
  assert section(study_report.render(*study()), 'changes') == ''
  long = 'a_task_whose_name_does_not_end'
  part = section(study_report.render(*study(tasks=(long, 'right'), metrics=('accuracy', 'loss'), baseline='old')), 'changes')
  assert f'accuracy: {long[:5]}' in part and f'loss: {long[:5]}' in part  # apart where the picture cuts them


def test_a_sweep_of_many_arms():
  verdict, frame = sweep()
  text = study_report.render(verdict, frame)
  curves = section(text, 'curves')
  legend = re.search(r'<div class="legend">.*?</div>', curves, re.S).group()
  # |i - 7| <= 3 are seven; of lr_3 and lr_11, both 4 away, the first.
  assert [int(n) for n in re.findall(r'lr_<wbr>(\d+)', legend)] == [3, 4, 5, 6, 7, 8, 9, 10]
  assert 'the 8 best of 30 arms' in curves and all(f'>lr_{i}<' in curves for i in range(30))   # the table has all
  search = section(text, 'search')
  assert search.count('<figure') == 2 and 'optimizer.lr (logarithmic)' in search and '>mgda</text>' in search
  assert search.count('>chosen</text>') == 2 and 'Chosen: <code>lr_7</code>' in search
  rows = re.findall(r'<tr><td><span[^>]*>lr_<wbr>(\d+)</span>', search)
  assert rows[0] == '7' and rows[-1] == '29' and len(rows) == 30          # best first; the one without a score last
  text = study_report.markdown(verdict, frame)
  assert 'Chosen on validation: lr_7.' in text and text.count('| lr_29 |') == 6      # scores, search, three cells, overrides
  assert 'The 8 best of 30 arms' in text
  assert re.search(r'\| lr_29 \| 1 \| equal \| – \|', text)


def test_a_search_that_chose_nothing():
  verdict, frame = sweep(3)
  verdict['search'] |= dict(chosen=None, validation={arm: None for arm in verdict['arms']})
  page(verdict, frame).assert_says('No arm was chosen.', 'No arm has a score.')
  assert 'No arm was chosen.' in study_report.markdown(verdict, frame)


def test_ranking_without_a_search_is_by_rank_over_tasks():
  verdict, frame = study([f'm{i}' for i in range(5)], metrics=('loss',))
  assert study_tables.ranking(verdict, frame) == [f'm{i}' for i in range(5)]
  verdict, frame = study(('new', 'old', 'broken'), failed=('broken',))
  assert study_tables.ranking(verdict, frame) == ['new', 'old', 'broken']


def test_many_arms_are_rows():
  verdict, frame = study([f'm{i}' for i in range(9)])
  assert [cell.text for cell in study_tables.task_tables(verdict)[0].header] == ['arm', 'left', 'right']
  assert [cell.text for cell in study_tables.task_tables(study()[0])[0].header] == ['task', 'new', 'old']


def test_verdicts_that_are_none():
  verdict, frame = study()
  with pytest.raises(ValueError, match="no 'claim'"):
    study_report.render({key: value for key, value in verdict.items() if key != 'claim'}, frame)
  with pytest.raises(ValueError, match="'holds' must be True, False or None, got 'yes'"):
    study_report.markdown(verdict | dict(holds='yes'), frame)
  with pytest.raises(ValueError, match='nothing to report'):
    study_report.markdown(verdict | dict(arms={}), frame)


def test_importing_brings_no_plotting_library():
  code = 'import sys, mtjax.studies.study_report; sys.exit("matplotlib" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_without_a_plotting_library_there_is_the_markdown(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'matplotlib', None)
  with pytest.raises(ImportError, match=r"pip install 'mtjax\[report\]'"):
    study_report.write_study_report(tmp_path, *study())
  assert [path.name for path in tmp_path.iterdir()] == ['report.md']
