"""Compiled programs are kept in the user's cache folder by default."""
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
# A chain long enough that compiling it takes more than the fifth of a second from which programs are kept.
PROGRAM = '''
import jax, jax.numpy as jnp
from mtjax import cli

def main(argv):
  def chain(x):
    for n in range(5, 150):  # shapes of their own: equal kernels are compiled once
      x = jnp.sin(x) @ jnp.full((x.shape[1], n), 0.1)
    return x
  jax.jit(chain)(jnp.ones((4, 4)))
  print(jax.config.jax_compilation_cache_dir)

cli.run(main)
'''


@pytest.mark.parametrize('variable', [None, 'XDG_CACHE_HOME', 'JAX_COMPILATION_CACHE_DIR'])
def test_programs_are_kept_where_users_keep_such_things(variable, tmp_path):
  environment = {k: v for k, v in os.environ.items()
                 if k not in ('JAX_COMPILATION_CACHE_DIR', 'XDG_CACHE_HOME', 'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS')}
  environment |= {'HOME': str(tmp_path / 'home')} | ({variable: str(tmp_path / 'own')} if variable else {})
  folder = {None: tmp_path / 'home' / '.cache' / 'mtjax' / 'compiled', 'XDG_CACHE_HOME': tmp_path / 'own' / 'mtjax' / 'compiled',
            'JAX_COMPILATION_CACHE_DIR': tmp_path / 'own'}[variable]
  result = subprocess.run([sys.executable, '-c', PROGRAM], capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
  assert result.stdout.strip() == str(folder)
  if variable != 'JAX_COMPILATION_CACHE_DIR':  # there JAX's own threshold of a second holds
    assert any('chain' in file.name for file in folder.iterdir())
