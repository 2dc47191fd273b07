"""What compiling costs: layers as a loop or as a scan, and its floor, a model of one layer.

    forward:  tokens of the features;   step:  gradient of mean(tokens^2), then Adam

Arms: the loop; the scan on parameters that lie block by block; the scan on stacked parameters (`stack_blocks`), as the
optimizer's state is, too; one layer, which no scan can undercut. Nothing is run, so that sizes hardly matter.
"""
import statistics
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.benchmarks._encoders import clocks
from experiments.benchmarks._encoders.families import text
from mtjax import encoders
from mtjax.encoders.stacked import stack_blocks

SIZES = dict(vocab_size=512, width=128, heads=4)
MODELS: dict[str, tuple[Callable[..., nn.Module], Any]] = {
  'bert': (lambda **how: encoders.BERT(max_length=64, **SIZES, **how), text(2, 64, 512)),
  'vit': (lambda **how: encoders.ViT(patch=8, width=128, heads=4, **how), np.zeros((2, 64, 64, 3), np.float32)),
  'gpt2': (lambda **how: encoders.GPT2(max_length=64, **SIZES, **how), text(2, 64, 512)),
  'llama': (lambda **how: encoders.Llama(kv_heads=2, **SIZES, **how), text(2, 64, 512)),
  't5': (lambda **how: encoders.T5(**SIZES, **how), (text(2, 64, 512), text(2, 64, 512))),
}
ARMS = {'loop': dict(), 'scan': dict(scan=True), 'scan, stacked': dict(scan=True), 'one layer': dict(depth=1)}


def programs(name: str, arm: str, depth: int, **how: Any) -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
  """{'forward' | 'step': (function, abstract arguments)}."""
  make, inputs = MODELS[name]
  module = make(**{'depth': depth, **how, **ARMS[arm]})
  params = jax.eval_shape(module.init, jax.random.key(0), inputs)['params']
  params = jax.eval_shape(stack_blocks, params) if arm == 'scan, stacked' else params
  tx = optax.adam(1e-3)

  def forward(params, inputs):
    return module.apply({'params': params}, inputs).tokens

  def step(params, opt_state, inputs):
    gradient = jax.grad(lambda params: jnp.mean(jnp.square(forward(params, inputs))))(params)
    updates, opt_state = tx.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  inputs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), inputs)
  return {'forward': (forward, (params, inputs)), 'step': (step, (params, jax.eval_shape(tx.init, params), inputs))}


def measure(name: str, rounds: int, depth: int = 24, **how: Any) -> dict[str, Any]:
  """{program: {arm: seconds of tracing, lowering and XLA, and the ratio of their sums to the loop's}}."""
  seen: dict[tuple[str, str], list[dict[str, dict[str, float]]]] = {}
  for _ in range(rounds):
    for arm in ARMS:
      for program, (function, arguments) in programs(name, arm, depth, **how).items():
        seen.setdefault((program, arm), []).append(clocks.compile_times(function, *arguments))
  found: dict[str, Any] = {'depth': depth}
  for (program, arm), times in seen.items():
    row = found.setdefault(program, {})[arm] = {}
    for clock in clocks.clocks():
      suffix = '' if clock == 'wall' else '_cpu_clock'
      row[f'seconds{suffix}'] = {part: statistics.median(t[clock][part] for t in times) for part in times[0][clock]}
      ratios = [t[clock]['total'] / base[clock]['total'] for t, base in zip(times, seen[program, 'loop'])]
      row[f'ratio{suffix}'], row[f'range{suffix}'] = statistics.median(ratios), [min(ratios), max(ratios)]
  return found
