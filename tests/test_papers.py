"""The table of papers: complete, true, and in step with the README."""
import pathlib
import subprocess
import sys

import pytest

from mtjax import papers

ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_all_81_are_there_and_what_they_name_exists():
  assert len(papers.PAPERS) == 81
  assert len({paper.title for paper in papers.PAPERS.values()}) == 81
  for key, paper in papers.PAPERS.items():
    assert key == paper.key and key.isidentifier() and paper.card and paper.brief
    for place in (paper.module, paper.study):
      assert place is None or (ROOT / place).exists(), f'{key} names {place}'


def test_the_readme_is_in_step():
  readme = (ROOT / 'README.md').read_text(encoding='utf-8')
  assert papers.update(readme) == readme, 'run python -m mtjax.papers'


def test_a_status_must_be_backed():
  with pytest.raises(ValueError, match="'x' is implemented, but its module is None"):
    papers.Paper('x', 'X', 'card', 'brief', status='implemented')
  with pytest.raises(ValueError, match='names no study'):
    papers.Paper('x', 'X', 'card', 'brief', module='mtjax/x.py', status='reproduced')
  with pytest.raises(ValueError, match="status must be one of .*, got 'done'"):
    papers.Paper('x', 'X', 'card', 'brief', status='done')


def test_reading_the_table_needs_no_jax():
  code = f'import sys, runpy; runpy.run_path({str(ROOT / "mtjax" / "papers.py")!r}); print("jax" in sys.modules)'
  assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.strip() == 'False'
