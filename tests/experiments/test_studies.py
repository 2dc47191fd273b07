"""Every study of experiments/studies runs for a few steps, and what is committed of it is what a study writes."""
import html
import json
import pathlib

import pytest

from mtjax.data import fetch
from mtjax.papers import PAPERS
from mtjax.studies import index
from mtjax.studies.score_frame import ScoreFrame
from mtjax.study import Runner, load_study

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDER, RESULTS = ROOT / 'experiments' / 'studies', ROOT / 'experiments' / 'results'
STUDIES = {'sharing_multimnist': '', 'sharing_sentiment': '', 'sharing_census_income': 'sharing_census.py:income',
           'sharing_census_education': 'sharing_census.py:education', 'null': '', 'compositional_generalisation': '', 'tuning_sentiment': ''}
NEEDS = {'sharing_census_income': 'census_income', 'sharing_census_education': 'census_income'}


def load(name):
  return load_study(str(FOLDER / (STUDIES[name] or f'{name}.py')))


def test_all_study_files_are_here():
  files = {path.name for path in FOLDER.glob('*.py') if 'def get_study' in path.read_text()}
  assert files == {(STUDIES[name] or f'{name}.py').split(':')[0] for name in STUDIES}


def test_the_readme_shows_the_first_of_them():
  section = (ROOT / 'README.md').read_text().partition('## Studies')[2]
  names = {}
  exec(section.partition('```python\n')[2].partition('```')[0], names)
  shown, own = names['get_study'](), load('sharing_multimnist')
  assert (shown.claim, shown.arms, shown.seeds, shown.metric, shown.verdict) == (
    own.claim, own.arms, own.seeds, own.metric, own.verdict)


@pytest.mark.slow
@pytest.mark.parametrize('name', STUDIES)
def test_smoke(name, tmp_path):
  if name in NEEDS:
    try:
      fetch.require(NEEDS[name])
    except FileNotFoundError as error:
      pytest.skip(str(error))
  runner = Runner(load(name), tmp_path, name=name, smoke=True)
  verdict = runner.run()
  assert [cell['message'] for cell in verdict['cells'] if cell['status'] != 'finished'] == []
  assert verdict['smoke'] and all(arm['n'] == 2 for arm in verdict['arms'].values())
  assert load(name).claim in html.unescape((runner.folder / 'report.md').read_text()).replace('\\', '')
  assert 'numbers mean nothing' in (runner.folder / 'report.html').read_text()


@pytest.mark.parametrize('name', STUDIES)
def test_what_is_committed_belongs_to_the_study(name):
  study, verdict = load(name), json.loads((RESULTS / name / 'verdict.json').read_text())
  searched = list(verdict['search']['values']) if study.search else []
  assert verdict['claim'] == study.claim and list(verdict['arms']) == [*study.arms, *searched] and not verdict['smoke']
  assert verdict['seeds'] == study.seed_list() and all(cell['status'] == 'finished' for cell in verdict['cells'])
  assert verdict['commit'] and '--study=experiments/studies/' in verdict['command']
  frame = ScoreFrame.read(RESULTS / name / 'scores.jsonl')
  assert set(frame.unique('arm')) == set(verdict['arms'])
  if study.paper:
    assert PAPERS[study.paper].study
  assert (RESULTS / name / 'report.html').is_file() and (RESULTS / name / 'report.md').is_file()


def test_the_null_study_is_never_better_more_than_five_times_in_a_hundred():
  found = json.loads((RESULTS / 'null' / 'simulation.json').read_text())
  assert found['repetitions'] == 200 and {row['test'] for row in found['rates']} == {'auto', 'wilcoxon', 'sign_flip'}
  assert max(row['better'] for row in found['rates']) <= 0.05


def test_the_readme_has_their_table():
  readme = (ROOT / 'README.md').read_text(encoding='utf-8')
  assert index.update(readme, RESULTS, 'experiments/results') == readme, (
    'python -m mtjax.studies.index experiments/results --readme=README.md')


def test_the_index_shows_every_study():
  page = (RESULTS / 'index.html').read_text()
  for name in (*STUDIES, 'gradient_methods', 'flatness', 'cheaper_statistics'):
    assert f'{name}/' in page
