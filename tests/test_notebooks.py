"""Every notebook is a jupytext pair in step, and runs."""
import pathlib

import pytest

jupytext = pytest.importorskip('jupytext')
FOLDER = pathlib.Path(__file__).resolve().parents[1] / 'notebooks'
SCRIPTS = sorted(FOLDER.glob('*.py'))


def cells(notebook):
  return [(cell.cell_type, cell.source.strip()) for cell in notebook.cells]


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_pair_is_in_step(script):
  assert cells(jupytext.read(script)) == cells(jupytext.read(script.with_suffix('.ipynb')))


@pytest.mark.slow
@pytest.mark.parametrize('script', SCRIPTS, ids=lambda path: path.stem)
def test_it_runs(script):
  nbclient = pytest.importorskip('nbclient')
  notebook = jupytext.read(script)
  nbclient.NotebookClient(notebook, timeout=600, resources={'metadata': {'path': str(FOLDER)}}).execute()
  assert all(output.output_type != 'error' for cell in notebook.cells for output in cell.get('outputs', ()))
  assert any('image/png' in output.get('data', {}) for cell in notebook.cells for output in cell.get('outputs', ()))
