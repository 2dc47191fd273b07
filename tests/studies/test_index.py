"""The page of all studies: what it counts, in which order, and what it survives."""
import json
import re
import subprocess
import sys

import pytest
from studies.test_run_report import Page

from mtjax import papers
from mtjax.studies import index

pytest.importorskip('matplotlib')


def comparison(a='new', b='old', difference=0.02, holds=True, **more):
  half = 0.5 * abs(difference) if holds is not None else 2 * abs(difference)
  words = {True: 'better', False: 'worse', None: 'no evidence'}[holds]
  return {'a': a, 'b': b, 'task': None, 'difference': difference, 'interval': [difference - half, difference + half],
          'p_holm': 0.0123, 'verdict': words, 'sentence': f'{a} {words} {b}', 'holds': holds, 'role': 'better', **more}


def write(results, folder, holds, paper=None, **more):
  verdict = {
    'study': folder, 'title': f'Title of {folder}', 'paper': paper, 'claim': f'Claim of {folder}.', 'holds': holds,
    'sentence': f'Sentence of {folder}.', 'metric_text': 'accuracy, mean over tasks', 'higher_is_better': True,
    'arms': {'new': {'n': 6, 'mean': 0.9, 'interval': None}, 'old': {'n': 6, 'mean': 0.88, 'interval': None}},
    'comparisons': [comparison(holds=holds)], 'command': f'python -m mtjax.study --study={folder}.py',
    'commit': 'abc1234', 'seeds': [0, 1, 2, 3, 4, 5], 'smoke': False, 'warnings': [], **more}
  (results / folder).mkdir(exist_ok=True)
  (results / folder / 'verdict.json').write_text(json.dumps(verdict))


def listed(results):
  path = index.write_index(results)
  assert path == results / 'index.html'
  return Page(path.read_text(encoding='utf-8'))


def test_claims_are_counted_and_come_in_their_order(tmp_path):
  write(tmp_path, 'a_none', None)
  write(tmp_path, 'b_fails', False, paper='ftl')
  write(tmp_path, 'c_holds', True)
  write(tmp_path, 'd_holds', True, paper='mhr')
  write(tmp_path, 'e_holds', True, paper='breadcrumbs')
  page = listed(tmp_path)
  page.assert_says('3 ✓ Holds 1 ✗ Does not hold 1 — No evidence', 'Claim of a_none.', 'Sentence of b_fails.',
                   '2 arms × 6 seeds', 'accuracy, mean over tasks ↑', 'python -m mtjax.study --study=c_holds.py')
  text = ' '.join(' '.join(page.text).split())
  assert 'Damaged' not in text
  heads = [papers.PAPERS[key].title for key in ('breadcrumbs', 'mhr')] + ['Title of c_holds', papers.PAPERS['ftl'].title,
                                                                          'Title of a_none']
  places = [text.index(f'{head} ') for head in heads]
  assert places == sorted(places)
  tones = [value for tag, key, value in page.attributes if key == 'class' and value.startswith('status ')]
  assert tones == ['status finished'] * 3 + ['status failed', 'status unknown']


def test_a_comparison_is_drawn_and_told_in_numbers(tmp_path):
  write(tmp_path, 'a', True, comparisons=[
    comparison(), comparison('$x_1$', 'old', 0.5, None, task='left'), comparison('broken', 'old', 0.25, False) | {
      'difference': None, 'interval': None, 'p_holm': None}])
  page = listed(tmp_path)
  page.assert_says('new − old', '✓ better 0.0200 0.0100 to 0.0300 0.01', '$x_1$ − old left — no evidence 0.5000',
                   'broken − old ✗ worse – – –', 'Comparisons (3)')
  assert page.attributes.count(('div', 'class', 'row')) == 1                                 # left alone: the score's are the main ones


def test_a_long_forest_is_cut_and_says_so(tmp_path):
  write(tmp_path, 'a', True, comparisons=[comparison(f'arm{i}') for i in range(30)])
  page = listed(tmp_path)
  page.assert_says('The first 10 of 30.', 'Comparisons (30)', 'arm29 − old')


def test_a_picture_of_the_study_stands_in_for_the_forest(tmp_path):
  write(tmp_path, 'a', True, figure='own.svg', figure_text='What it shows.')
  write(tmp_path, 'b', True, figure='../a/own.svg')                     # not its own: there is none of that name in b
  write(tmp_path, 'c', True, figure='missing.svg')
  (tmp_path / 'a' / 'own.svg').write_text('<svg xmlns="http://www.w3.org/2000/svg"/>')
  page = listed(tmp_path)
  assert [value[:26] for tag, key, value in page.attributes if (tag, key) == ('img', 'src')] == [
    'data:image/svg+xml;base64,']
  assert page.attributes.count(('div', 'class', 'row')) == 2
  page.assert_says('What it shows.')


def test_links_are_relative_and_only_to_what_is_there(tmp_path):
  write(tmp_path, 'a b', True)
  write(tmp_path, 'c', True)
  (tmp_path / 'a b' / 'report.html').touch()
  (tmp_path / 'a b' / 'README.md').touch()
  page = listed(tmp_path)
  links = [value for tag, key, value in page.attributes if (tag, key) == ('a', 'href') and not value.startswith('#')]
  assert links == ['a%20b/report.html', 'a%20b/README.md']


@pytest.mark.parametrize('text, problem', [
  ('{"study": ', 'JSONDecodeError'), ('[]', 'verdict is [], not an object'), ('{}', "verdict has no 'study'"),
  (None, 'UnicodeDecodeError'), ({'smoke': 'yes'}, "verdict: 'smoke' is 'yes'"),
  ({'arms': {'new': 3}}, 'arms.new is 3'),
  ({'comparisons': [comparison() | {'interval': [0.0]}]}, 'comparisons[0].interval has no 1'),
  ({'comparisons': [comparison() | {'difference': 'x'}]}, "comparisons[0]: 'difference' is 'x'"),
])
def test_a_damaged_verdict_is_listed_and_not_fatal(tmp_path, text, problem):
  write(tmp_path, 'good', None)
  write(tmp_path, 'bad', True, **(text if isinstance(text, dict) else {}))
  if not isinstance(text, dict):
    (tmp_path / 'bad' / 'verdict.json').write_bytes(b'\xff\xfe{' if text is None else text.encode())
  page = listed(tmp_path)
  page.assert_says('0 ✓ Holds 0 ✗ Does not hold 1 — No evidence 1 ! Damaged', 'Claim of good.', problem)


def test_the_file_stands_alone_and_escapes(tmp_path):
  hostile = '<script>alert("x")</script>'
  write(tmp_path, 'a', True, paper='no_such_paper', title=hostile, claim=hostile, sentence=hostile, command=hostile,
        metric_text=hostile, warnings=[hostile], comparisons=[comparison(hostile, '<b>&|$', verdict=hostile)])
  write(tmp_path, 'c', None, paper='mhr', smoke=True, arms={}, seeds=[], comparisons=[], command='', commit=None)
  (tmp_path / 'd').mkdir()
  (tmp_path / 'd' / 'verdict.json').write_text(f'{{"study": 1, "title": "{hostile}"}}'.replace('"x"', 'x'))
  page = listed(tmp_path)
  assert not {'script', 'link', 'iframe', 'object', 'b>'} & set(page.tags)
  assert ' '.join(page.text).count(hostile) >= 7
  page.assert_says('A smoke run of a few steps', '0 arms × 0 seeds', 'Warnings (1)', 'Commit –')
  text = (tmp_path / 'index.html').read_text(encoding='utf-8')
  assert 'http' not in text
  ids = re.findall(r' id="([^"]*)"', text)
  assert len(ids) == len(set(ids))
  targets = {value[1:] for _, key, value in page.attributes if key == 'href' and value.startswith('#')}
  assert targets <= set(ids)


def test_papers_without_a_study_are_planned(tmp_path):
  missing = [paper for paper in papers.PAPERS.values() if paper.study is None]
  listed(tmp_path).assert_says('No study has a verdict yet.', f'{len(missing)} of {len(papers.PAPERS)} papers have no study')
  write(tmp_path, 'a', True, paper=missing[0].key)
  page = listed(tmp_path)
  page.assert_says(f'{len(missing) - 1} of {len(papers.PAPERS)} papers have no study', missing[1].title)
  assert ' '.join(page.text).count(missing[0].title) == 1               # its card only


def test_arms_of_unequal_seeds(tmp_path):
  write(tmp_path, 'a', True, arms={'x': {'n': 5}, 'y': {'n': 10}, 'z': {'n': 7}}, seeds=list(range(10)))
  write(tmp_path, 'b', True, arms={'x': {'n': None}}, seeds=[0])
  listed(tmp_path).assert_says('3 arms × 5 to 10 seeds', '1 arm × 0 to 1 seeds')


def test_a_folder_that_is_not_there(tmp_path):
  with pytest.raises(ValueError, match='There are no results to list'):
    index.write_index(tmp_path / 'nowhere')


def test_the_command_writes_the_page(tmp_path):
  write(tmp_path, 'a', True)
  done = subprocess.run([sys.executable, '-m', 'mtjax.studies.index', str(tmp_path)], capture_output=True, text=True)
  assert done.stdout.strip() == str(tmp_path / 'index.html') and done.returncode == 0, done.stderr
  assert 'Claim of a.' in (tmp_path / 'index.html').read_text(encoding='utf-8')
