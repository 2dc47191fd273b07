r"""What the small solvers and the weights of every aggregator cost, jitted, for T tasks.

python -m experiments.benchmarks.solvers [--tasks=4,16,64] [--repeats=7] [--only=REGEX] [--output=FILE.json]

A Gramian of T random gradients of 2 T entries each, normal with row lengths from 1 to 10, in float32; the median over
repeats of the time per call, each repeat long enough (0.05 s) for the clock. Besides it the time to compile, which must
not grow with T. Rules that need all of J are given [T, 1000]. Reference levels, one core: UPGrad 0.85 ms at T = 16 and
25 ms at T = 64, PCGrad 0.2 and 0.8, Nash-MTL 0.6 and 4.1, MGDA 0.3 (exact, T = 16).
"""
import functools
import json
import pathlib
import re
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from experiments.common import provenance
from mtjax import optim
from mtjax.optim import solvers

_TASKS = flags.DEFINE_list('tasks', ['4', '16', '64'], 'Numbers of tasks.')
_REPEATS = flags.DEFINE_integer('repeats', 7, 'Repeats, of which the median counts.')
_ONLY = flags.DEFINE_string('only', '', 'Regular expression: of the names to measure.')
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file for the result.')

SOLVERS = {
  'solvers/lcp': lambda gram: solvers.solve_lcp(solvers.regularised(gram, 1e-4), gram.mean(1)),
  'solvers/dual_cone': lambda gram: solvers.project_weights(gram, jnp.full(len(gram), 1 / len(gram)), 1e-7),
  'solvers/min_norm': solvers.min_norm,
  'solvers/frank_wolfe': solvers.frank_wolfe,
  'solvers/fair_weights': solvers.fair_weights,
  'solvers/simplex': lambda gram: solvers.project_simplex(gram.mean(1)),
  'solvers/pinv': lambda gram: solvers.pinv_apply(gram, jnp.ones(len(gram))),
}
AGGREGATORS = {
  'mgda': optim.mgda,
  'mgda fw': functools.partial(optim.mgda, solver='fw'),
  'upgrad': optim.upgrad,
  'dualproj': optim.dualproj,
  'pcd': optim.pcd,
  'cagrad': optim.cagrad,
  'nash_mtl': optim.nash_mtl,
  'fairgrad': functools.partial(optim.fairgrad, alpha=2.0),
  'imtl_g': optim.imtl_g,
  'config': optim.config,
  'aligned_mtl': optim.aligned_mtl,
  'pcgrad': optim.pcgrad,
  'gradvac': optim.gradvac,
  'krum': optim.krum,
  'cr_mogm(mgda)': lambda: optim.cr_mogm(optim.mgda()),
  'm_config (J)': optim.m_config,
  'trimmed_mean (J)': optim.trimmed_mean,
}


def gradients(num_tasks, num_columns):
  """[T, num_columns], rows of length 1 to 10."""
  rng = np.random.default_rng(0)
  jac = rng.normal(size=(num_tasks, num_columns)) / num_columns**0.5
  return jnp.asarray(jac * 10 ** rng.uniform(size=(num_tasks, 1)), jnp.float32)


def call_of(name, num_tasks):
  """(function, arguments) to be jitted."""
  jac = gradients(num_tasks, 2 * num_tasks)
  if name in SOLVERS:
    return SOLVERS[name], (jac @ jac.T,)
  tx = AGGREGATORS[name]()
  if tx.needs == 'jacobian':
    jac = {'w': gradients(num_tasks, 1000)}
    return tx.update, (jac, tx.init({'w': jnp.zeros(1000)}, num_tasks))
  weights = lambda state, gram: tx.weights(state, optim.Info(gramian=gram))
  return weights, (tx.init({}, num_tasks), jac @ jac.T)


def seconds_per_call(function, arguments, repeats, least=0.05):
  """(median time of a call, time to trace and compile)."""
  start = time.perf_counter()
  compiled = jax.jit(function).lower(*arguments).compile()
  compile_seconds = time.perf_counter() - start
  jax.block_until_ready(compiled(*arguments))

  def time_of(calls):
    start = time.perf_counter()
    for _ in range(calls):
      result = compiled(*arguments)
    jax.block_until_ready(result)
    return (time.perf_counter() - start) / calls

  calls = max(1, int(least / max(time_of(3), 1e-7)))
  return statistics.median(time_of(calls) for _ in range(repeats)), compile_seconds


def main(_):
  """Measures, prints a table."""
  tasks = [int(t) for t in _TASKS.value]
  names = [name for name in [*SOLVERS, *AGGREGATORS] if re.search(_ONLY.value, name)]
  rows = {}
  print(f'{"milliseconds a call":24}' + ''.join(f'{f"T = {t}":>10}' for t in tasks) + '    seconds to compile')
  for name in names:
    measured = [seconds_per_call(*call_of(name, t), _REPEATS.value) for t in tasks]
    rows[name] = {'milliseconds': {t: 1e3 * s for t, (s, _) in zip(tasks, measured)},
                  'compile_seconds': {t: c for t, (_, c) in zip(tasks, measured)}}
    print(f'{name:24}' + ''.join(f'{1e3 * s:10.3f}' for s, _ in measured)
          + '    ' + ' '.join(f'{c:.2f}' for _, c in measured), flush=True)
  result = {
    **provenance('experiments.benchmarks.solvers'), 'dtype': 'float32', 'repeats': _REPEATS.value, 'methods': rows}
  print(json.dumps(result, indent=2))
  if _OUTPUT.value:
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  app.run(main)
