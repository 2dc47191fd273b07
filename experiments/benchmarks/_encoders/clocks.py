"""Clocks of programs that alternate, and of compiling.

Two clocks run at once: the wall's, and that of the processors (all threads of this process). On a machine that others
use too, the second hardly minds them; on an accelerator it says nothing of the device, and is left out.
"""
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax


def load() -> float | None:
  """How many processes want a processor, over the last minute; None where the system does not say."""
  return round(os.getloadavg()[0], 1) if hasattr(os, 'getloadavg') else None


def alternate(calls: Mapping[str, Callable[[], Any]], rounds: int,
              repeats: int = 3) -> dict[str, list[dict[str, float]]]:
  """Times each of `calls` in each round.

  Args:
    calls: functions that return once the work is done.
    rounds: over all of them.
    repeats: timed calls a round, behind one that finds memory and caches as the call before has left them.

  Returns:
    {name: [{'wall': s, 'cpu': s} a round]}, medians over the repeats.
  """
  times = {name: [] for name in calls}
  for _ in range(rounds):
    for name, call in calls.items():
      call()
      walls, cpus = [], []
      for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
      times[name].append({'wall': statistics.median(walls), 'cpu': statistics.median(cpus)})
  return times


def ratio(times: Mapping[str, list[dict[str, float]]], name: str, base: str) -> dict[str, Any]:
  """Of `name` to `base`: the median over rounds of the ratios, with their range; by the processors' clock too."""
  found = {'ms': 1e3 * statistics.median(t['wall'] for t in times[name]),
           'base_ms': 1e3 * statistics.median(t['wall'] for t in times[base])}
  for clock in clocks():
    ratios = [a[clock] / b[clock] for a, b in zip(times[name], times[base])]
    suffix = '' if clock == 'wall' else '_cpu_clock'
    found |= {f'ratio{suffix}': statistics.median(ratios), f'range{suffix}': [min(ratios), max(ratios)]}
  return found


def clocks() -> tuple[str, ...]:
  """The clocks that mean something on this device."""
  return ('wall', 'cpu') if jax.default_backend() == 'cpu' else ('wall',)


def compile_times(function: Callable[..., Any], *arguments: Any) -> dict[str, dict[str, float]]:
  """{clock: {'trace', 'lower', 'xla', 'total'}} in seconds, with nothing compiled or traced before."""
  jax.clear_caches()
  marks = [(time.perf_counter(), time.process_time())]
  traced = jax.jit(function).trace(*arguments)
  marks.append((time.perf_counter(), time.process_time()))
  lowered = traced.lower()
  marks.append((time.perf_counter(), time.process_time()))
  lowered.compile()
  marks.append((time.perf_counter(), time.process_time()))
  found = {}
  for i, clock in enumerate(('wall', 'cpu')):
    steps = [after[i] - before[i] for before, after in zip(marks, marks[1:])]
    found[clock] = dict(zip(('trace', 'lower', 'xla'), steps), total=sum(steps))
  return found
