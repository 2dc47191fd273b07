"""Imports go downwards, as the design draws them; `import mtjax` stays light."""
import ast
import pathlib
import subprocess
import sys

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parents[1] / 'mtjax'
# From top to bottom; what shares a line may import each other only within itself.
LAYERS = [
  {'train', 'evaluate', 'predict', 'merge', 'study'},
  {'cli'},
  {'experiment'},
  {'registries'},
  {'together'},
  {'run', 'prediction_io'},
  {'prediction'},
  {'studies'},
  {'training'},
  {'objective'},
  {'tasks'},
  {'models'},
  {'interop'},  # gives out encoders with their parameters
  {'adapters', 'hypernets', 'moe', 'heads', 'encoders'},
  {'metrics'},
  {'losses'},
  {'optim'},
  {'merging', 'masks', 'decoding'},
  {'data'},
  {'parallel'},
  {'autodiff'},
  {'config', 'context', 'tree', 'papers'},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob('*.py') if path != PACKAGE / '__init__.py')


def imported(path):
  """The parts of mtjax that a file imports, anywhere in it."""
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      names = [f'{node.module}.{alias.name}' for alias in node.names] if node.module == 'mtjax' else [node.module]
    else:
      continue
    yield from (name.split('.')[1] for name in names if name.startswith('mtjax.'))


@pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_downwards(path):
  own = path.relative_to(PACKAGE).parts[0].removesuffix('.py')
  assert own in LEVEL, f'{own} has no place in the layers'
  for other in imported(path):
    if other != own:
      assert LEVEL[other] > LEVEL[own] or (LEVEL[other] == LEVEL[own] and own in LAYERS[-1]), f'{own} imports {other}'


def test_import_mtjax_is_light():
  heavy = ('tensorflow_datasets', 'grain', 'matplotlib', 'tensorboardX', 'PIL', 'sklearn', 'tensorflow', 'torch')
  code = f'import sys, mtjax; print([name for name in {heavy} if name in sys.modules])'
  assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.strip() == '[]'
