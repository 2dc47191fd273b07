r"""What a conflict-aware step costs: every plan of the gradient engine as a ratio to the plain step in one process.

python -m experiments.benchmarks.gradients [--trunks=mlp,vit] [--tasks=4,16] [--rounds=9] [--output=FILE.json]
    [--with-torchjd]

Baseline: one `jax.jit` of value_and_grad of the sum of the losses (the same model, batch and heads, no optimizer in
either). Ours: the whole engine with UPGrad, losses to update, statistics and diagnostics included. Rounds alternate
over all of them, each called once untimed and then three times; time is the median over rounds of the ratio of medians,
memory the compiler's temporaries and outputs.
  mlp   784-1024-1024-1024, batch 128, 2.9 M shared parameters; every task a linear head of 10 classes on the same rows
  vit   width 192, depth 6, 64 tokens, batch 16, 2.7 M shared parameters; the same heads on the mean of the tokens
`disjoint` is measured on tasks that have rows of their own (128 or 16 each), against the plain step on those rows.
Targets: mlp, exact: <= 2.6 x time, 1.7 x memory at T = 4, <= 9 x and 5 x at T = 16; disjoint <= 1.1 x; features
<= 1.1 x (T = 4), 1.5 x (T = 16); a cheap statistic <= 1.3 x at T = 16; vit at T = 16: memory <= 6 x, and no more
products than the full Jacobian. With --with-torchjd, the same mlp and vit under TorchJD in a process of its own, as
ratios to PyTorch's plain step.
"""
import functools
import json
import pathlib
import statistics
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import mtjax.optim
from experiments.common import provenance
from mtjax import tree
from mtjax.autodiff.sinks import apply_with_sinks
from mtjax.encoders import ViT
from mtjax.objective import Losses
from mtjax.training.gradients import losses_and_grads

_TRUNKS = flags.DEFINE_list('trunks', ['mlp', 'vit'], 'Which of mlp, vit.')
_TASKS = flags.DEFINE_list('tasks', ['4', '16'], 'Numbers of tasks.')
_ROUNDS = flags.DEFINE_integer('rounds', 9, 'Rounds over all variants.')
_VARIANTS = flags.DEFINE_list('variants', [], 'Only these; all by default.')
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file for the result.')
_TORCHJD = flags.DEFINE_bool('with-torchjd', False, 'Measure TorchJD too (needs torch and torchjd).')

CALLS = 3  # timed calls a round
ROWS = {'mlp': 128, 'vit': 16}
EXACT = {'tape': dict(plan='tape'), 'probe': dict(plan='probe'), 'jacobian': dict(plan='jacobian')}
CHEAPER = {'features': dict(at='features'), 'every_k=8': dict(every_k=8), 'sub_batch=1/8': dict(sub_batch=0.125),
           'layers=last': dict(layers=None), 'every_k=8, layers=last': dict(every_k=8, layers=None),
           'every_k=8, sub_batch=1/8': dict(every_k=8, sub_batch=0.125)}
LAST = {'mlp': ('fc3',), 'vit': ('block_5/',)}


class Mlp(nn.Module):
  """784-1024-1024-1024."""

  @nn.compact
  def __call__(self, x):
    for i in range(3):
      x = nn.relu(nn.Dense(1024, name=f'fc{i + 1}')(x))
    return x


class Problem:
  """A trunk with T linear heads of ten classes: the objective, its parameters and a batch.

  Args:
    trunk: 'mlp' or 'vit'.
    num_tasks: T.
    disjoint: whether each task has rows of its own.
  """

  def __init__(self, trunk, num_tasks, disjoint=False):
    self.num_tasks, self.disjoint, rows = num_tasks, disjoint, ROWS[trunk]
    keys = jax.random.split(jax.random.key(0), 4)
    self.module = Mlp() if trunk == 'mlp' else ViT(patch=4, width=192, depth=6, heads=3, pool='mean')
    shape, width = ((784,), 1024) if trunk == 'mlp' else ((32, 32, 3), 192)
    x = jax.random.normal(keys[0], (num_tasks if disjoint else 1, rows, *shape))
    y = jax.random.randint(keys[1], (num_tasks, rows), 0, 10)
    if disjoint:
      self.batch = {f's{t:02}': {'x': x[t], 'y': y[t]} for t in range(num_tasks)}
    else:
      self.batch = {'all': {'x': x[0], 'y': y.T}}
    kernels = 0.03 * jax.random.normal(keys[2], (num_tasks, width, 10))
    self.params = {'encoder': self.module.init(keys[3], x[0])['params'],
                   'heads': {f't{t:02}': kernels[t] for t in range(num_tasks)}}

  def __call__(self, params, batch, rng, step):
    """The losses; the rows of all streams go through the trunk together."""
    del rng, step
    z = self.trunk(params['encoder'], jnp.concatenate([own['x'] for own in batch.values()]))
    sizes = [len(own['x']) for own in batch.values()]
    return self.losses(params, jnp.split(z, np.cumsum(sizes)[:-1].tolist()), batch)

  def apart(self, params, sinks, batch, rng, step):
    """The same, where the gradients of the streams' own rows stay apart, see `mtjax.autodiff.sinks`."""
    del rng, step
    trunk = jax.vmap(functools.partial(apply_with_sinks, self.trunk, params['encoder']))
    return self.losses(params, trunk(sinks['encoder'], jnp.stack([own['x'] for own in batch.values()])), batch)

  def trunk(self, params, x):
    """Rows -> shared features."""
    z = self.module.apply({'params': params}, x)
    return getattr(z, 'pooled', z)

  def losses(self, params, features, batch):
    """Features of each stream -> the losses."""
    sums = {}
    for z, (name, own) in zip(features, batch.items()):
      for t in [int(name[1:])] if self.disjoint else range(self.num_tasks):
        logits = jax.nn.log_softmax(z @ params['heads'][f't{t:02}'])
        labels = own['y'] if self.disjoint else own['y'][:, t]
        sums[t] = -jnp.take_along_axis(logits, labels[:, None], 1).sum(), jnp.array(float(len(z)))
    zero = jnp.zeros(()), jnp.zeros(())
    return Losses(*(jnp.stack(part) for part in zip(*(sums.get(t, zero) for t in range(self.num_tasks)))))


def plain_step(problem):
  """(value_and_grad of the sum, its arguments)."""
  step = jax.value_and_grad(lambda params, batch: problem(params, batch, None, 0).values.sum())
  return step, (problem.params, problem.batch)


def engine_step(problem, **options):
  """(the engine's step, its arguments, the plan that runs)."""
  engine = losses_and_grads(problem, mtjax.optim.upgrad(), num_tasks=problem.num_tasks, **options)
  key = jax.random.key(0)
  step = lambda params, state, batch: engine(params, state, batch, key, 0)
  return step, (problem.params, engine.init(problem.params), problem.batch)


def variants(trunk, num_tasks):
  """{name: (step, arguments, name of its baseline)}."""
  problem, apart = Problem(trunk, num_tasks), Problem(trunk, num_tasks, disjoint=True)
  found = {'plain': (*plain_step(problem), 'plain'), 'plain, own rows': (*plain_step(apart), 'plain, own rows')}
  for name, options in {**EXACT, **CHEAPER}.items():
    options = {key: LAST[trunk] if key == 'layers' else value for key, value in options.items()}
    found[name] = (*engine_step(problem, **options), 'plain')
  found['disjoint'] = (*engine_step(apart, plan='disjoint'), 'plain, own rows')
  if _VARIANTS.value:
    wanted = {*_VARIANTS.value, *(found[name][2] for name in _VARIANTS.value)}
    found = {name: entry for name, entry in found.items() if name in wanted}
  return found


def every_k_time(times, k=8):
  """Mean over a period of k steps: one fresh step and k - 1 that use its weights again."""
  return (times['fresh'] + (k - 1) * times['again']) / k


def measure(trunk, num_tasks, rounds):
  """One table: {variant: {time and memory, and their ratios to the baseline}}."""
  compiled, memory, baseline = {}, {}, {}
  for name, (step, arguments, base) in variants(trunk, num_tasks).items():
    program = jax.jit(step).lower(*arguments).compile()
    found = program.memory_analysis()
    memory[name] = found.temp_size_in_bytes + found.output_size_in_bytes
    if name.startswith('every_k'):  # the second call has count = 1 and uses the weights again
      again = list(arguments)
      again[1] = arguments[1].replace(count=jnp.ones((), jnp.int32))
      compiled[name, 'fresh'], compiled[name, 'again'] = (program, arguments), (program, tuple(again))
    else:
      compiled[name, ''] = program, arguments
    baseline[name] = base
    jax.block_until_ready(program(*arguments))
  times = {key: [] for key in compiled}
  for _ in range(rounds):
    for key, (program, arguments) in compiled.items():
      calls = []
      for _ in range(1 + CALLS):  # the first finds memory and caches as the variant before has left them
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        calls.append(time.perf_counter() - start)
      times[key].append(statistics.median(calls[1:]))
  series = {}
  for name in baseline:
    if (name, '') in times:
      series[name] = times[name, '']
    else:
      series[name] = [every_k_time({'fresh': fresh, 'again': again})
                      for fresh, again in zip(times[name, 'fresh'], times[name, 'again'])]
  return {name: {
    'ms': 1e3 * statistics.median(series[name]),
    'time_ratio': statistics.median(a / b for a, b in zip(series[name], series[base])),
    'time_ratio_range': [min(a / b for a, b in zip(series[name], series[base])),
                         max(a / b for a, b in zip(series[name], series[base]))],
    'memory_mib': memory[name] / 2**20, 'memory_ratio': memory[name] / memory[base]} for name, base in baseline.items()}


def main(_):
  """Measures, prints tables."""
  result = {
    **provenance('experiments.benchmarks.gradients'), 'devices': jax.device_count(), 'rounds': _ROUNDS.value,
    'tables': {}}
  for trunk in _TRUNKS.value:
    for num_tasks in map(int, _TASKS.value):
      table = result['tables'][f'{trunk}, T={num_tasks}'] = measure(trunk, num_tasks, _ROUNDS.value)
      rows = [('variant', 'ms', 'x time', 'x memory')]
      rows += [(name, f'{row["ms"]:.1f}', f'{row["time_ratio"]:.2f}', f'{row["memory_ratio"]:.2f}')
               for name, row in table.items()]
      print(f'\n{trunk}, T = {num_tasks}\n{tree.align(rows)}', flush=True)
  if _TORCHJD.value:
    from experiments.benchmarks import _torchjd  # torch is no dependency of mtjax

    result['torchjd'] = _torchjd.measure(_TRUNKS.value, [int(n) for n in _TASKS.value], _ROUNDS.value)
  if _OUTPUT.value:
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
  app.run(main)
