"""The compiled step before its first call: how long the compiler took, what the step computes, what it keeps.

`jax.jit` keeps traces, lowered modules and executables by their arguments, so that a function which was compiled here
is not compiled again when it is called with the same ones.

Whose numbers these are, of a program for n devices: `cost_analysis()` and `memory_analysis()` of a compiled program are
of ONE device, since what is compiled is the partition that each of them runs (so on all backends; measured on CPU);
`lowered.cost_analysis()`, before that, is of the whole mesh. The FLOPs that we report are counted on the trace, of the
whole mesh (`mtjax.training.flops` says why); the compiler's own, times n, stand beside them.
"""
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from mtjax.training import flops


class Program(NamedTuple):
  """What is known of a compiled step before it runs.

  Attributes:
    compile_seconds: tracing, lowering and compiling, or reading from the compile cache.
    flops: of the matrix products and convolutions of a step, on the whole mesh.
    compiled_flops: the compiler's count, on the whole mesh; None where it has none.
    memory: bytes that a step needs of each device: arguments, results and scratch, what is donated once; None where the
      backend does not tell.
    devices: their number.
  """

  compile_seconds: float
  flops: flops.Flops
  compiled_flops: float | None
  memory: int | None
  devices: int

  def share(self, runs: int) -> 'Program':
    """Of one of several runs that the program makes steps of; memory and time to compile are those of all."""
    compiled = None if self.compiled_flops is None else self.compiled_flops / runs
    return self._replace(flops=flops.Flops(*(number // runs for number in self.flops)), compiled_flops=compiled)


def compile_ahead(function: Callable, *args: Any, devices: int = 1) -> Program:
  """Compiles a jitted function for these arguments, so that calling it with them begins at once.

  Args:
    function: from `jax.jit`.
    *args: arrays, or shapes that know where they lie.
    devices: of the mesh.

  Example:
    >>> program = compile_ahead(jax.jit(lambda x: x @ x), jax.numpy.ones((4, 4)))
    >>> program.flops.total
    128
  """
  start = time.perf_counter()
  traced = function.trace(*args)
  compiled = traced.lower().compile()
  seconds = time.perf_counter() - start
  cost = (compiled.cost_analysis() or {}).get('flops', math.nan)
  known = cost >= 0  # -1 where a backend cannot say
  return Program(seconds, flops.count(traced.jaxpr), cost * devices if known else None, held_bytes(compiled), devices)


def held_bytes(compiled: Any) -> int | None:
  """Bytes of one device that a compiled program needs while it runs; None where the backend does not tell."""
  found = compiled.memory_analysis()
  if found is None:
    return None
  held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
  return held + found.temp_size_in_bytes
