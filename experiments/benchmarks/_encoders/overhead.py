"""Forward and training step of a family, as ratios to its plain counterpart.

    step:  params <- params - lr * gradient of mean(out^2) with respect to all of them
"""
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks._encoders import clocks
from experiments.benchmarks._encoders.families import Family
from experiments.benchmarks._encoders.plain_transformers import How

RATE = 1e-6  # so small that the numbers stay what they are


def programs(family: Family, how: How) -> dict[str, tuple[Any, Any]]:
  """{name: (function of (params, inputs), params)}: 'forward' and 'step' of ours, and of the plain one."""
  params = family.params()
  runs = {'': (lambda p, x: family.read(family.module.apply({'params': p}, x)), params),
          'plain ': (lambda p, x: family.plain(p, x, how), family.kernels(params))}
  found = {}
  for prefix, (run, own) in runs.items():
    def step(p, x, run=run):
      gradient = jax.grad(lambda p: jnp.mean(jnp.square(run(p, x).astype(jnp.float32))))(p)
      return jax.tree.map(lambda a, g: a - RATE * g, p, gradient)

    found |= {f'{prefix}forward': (run, own), f'{prefix}step': (step, own)}
  return found


def measure(family: Family, how: How, rounds: int, repeats: int) -> dict[str, Any]:
  """{'forward': ratio and times, 'step': …}."""
  inputs, calls = jax.device_put(family.inputs), {}
  for name, (function, params) in programs(family, how).items():
    program = jax.jit(function).lower(params, inputs).compile()
    calls[name] = lambda program=program, params=params: jax.block_until_ready(program(params, inputs))
  times = clocks.alternate(calls, rounds, repeats)
  return {name: clocks.ratio(times, name, f'plain {name}') for name in ('forward', 'step')}
