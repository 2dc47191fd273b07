r"""What it costs to train adapters of many tasks in one batch, and to compile them.

python -m experiments.benchmarks.adapters [--rounds=7] [--output=FILE.json]

An encoder of MiniLM's shape (6 layers of width 384) with fresh weights, LoRA of rank 8 on queries and values, 32 rows
of 64 tokens; a step is loss, gradient and Adam's update of what is trained. Arms: the frozen encoder with linear heads;
one task; 16 and 256 tasks, rows mixed; 16 tasks whose LoRAs a HyperFormer++ generates. Rounds alternate. Times are
those of the processor (all threads), which other programs on the machine disturb less than the clock's; numbers are
medians.
Targets: 16 tasks mixed <= 1.15 x one task; no gradient or optimizer state for the base (what a step returns and keeps
is counted from the compiled program); compiling an adapted encoder of 24 layers <= 1.3 x the plain one.
"""
import json
import pathlib
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from experiments.common import provenance
from mtjax import adapters, tree
from mtjax.context import Ctx
from mtjax.encoders import BERT
from mtjax.hypernets import HyperFormerPlus

_ROUNDS = flags.DEFINE_integer('rounds', 7, 'Rounds, alternating.')
_OUTPUT = flags.DEFINE_string('output', None, 'JSON file for the result.')
ROWS, LENGTH, CLASSES = 32, 64, 3


def make_encoder(depth=6):
  """The encoder and its fresh parameters, by numpy: what is in them does not matter here."""
  encoder = BERT(vocab_size=1000, width=384, depth=depth, heads=12, hidden=1536, max_length=LENGTH, pool='mean',
                 pad_id=None)
  shapes = jax.eval_shape(encoder.init, jax.random.key(0), jnp.ones((1, LENGTH), jnp.int32))['params']
  rng = np.random.default_rng(0)
  return encoder, jax.tree.map(lambda x: jnp.asarray(0.05 * rng.standard_normal(x.shape), x.dtype), shapes)


def make_spec(tasks, generated=False):
  """LoRA with a set of parameters a task."""
  bank = adapters.Bank(tasks=tasks, generated_by=HyperFormerPlus() if generated else None)
  return adapters.Spec([adapters.Rule(adapters.output(r'attn/(query|value)$'), adapters.LoRA(rank=8), bank)])


def make_step(encoder, base, spec, tasks):
  """(jitted step, trained parameters, optimizer state)."""
  x = jnp.ones((1, LENGTH), jnp.int32)
  state = adapters.init_adapters(jax.random.key(0), encoder, base, spec, x) if spec else {}
  heads = jnp.zeros((tasks, 384, CLASSES))
  forward, tx = adapters.bind(encoder, spec or adapters.Spec([])), optax.adam(1e-3)
  params = {'heads': heads, **{part: state[part] for part in ('adapters', 'shared') if state}}

  def loss(params, base, tokens, ids, labels):
    own = {part: params[part] for part in ('adapters', 'shared') if part in params}
    pooled = forward(base, own, tokens, ctx=Ctx(task_id=ids))[0].pooled
    logits = jnp.einsum('bd,bdc->bc', pooled, params['heads'][ids])
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  @jax.jit
  def step(params, opt_state, base, tokens, ids, labels):
    updates, opt_state = tx.update(jax.grad(loss)(params, base, tokens, ids, labels), opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  return step, params, tx.init(params)


def measure_steps(rounds):
  """{arm: facts}."""
  encoder, base = make_encoder()
  arms = {'heads alone': (None, 1), 'one task': (make_spec(1), 1), '16 tasks': (make_spec(16), 16),
          '256 tasks': (make_spec(256), 256), '16 tasks, generated': (make_spec(16, generated=True), 16)}
  rng, found, calls = np.random.default_rng(0), {}, {}
  tokens, labels = rng.integers(1, 1000, (ROWS, LENGTH)), rng.integers(0, CLASSES, ROWS)
  for name, (spec, tasks) in arms.items():
    step, params, opt_state = make_step(encoder, base, spec, tasks)
    args = (params, opt_state, base, jnp.asarray(tokens), jnp.asarray(rng.integers(0, tasks, ROWS), jnp.int32), labels)
    compiled = step.lower(*args).compile()
    memory = compiled.memory_analysis()
    kept = sum(x.nbytes for x in jax.tree.leaves((params, opt_state)))
    # What a step returns is what it keeps: parameters that are trained, and their moments.
    assert memory.output_size_in_bytes <= kept + 4096, (name, memory.output_size_in_bytes, kept)
    found[name] = {'trained': tree.count(params), 'kept_mib': kept / 2**20,
                   'scratch_mib': memory.temp_size_in_bytes / 2**20, 'seconds': []}
    calls[name] = (compiled, args)
  for turn in range(rounds + 1):
    for name, (compiled, args) in calls.items():
      start = time.process_time()
      jax.block_until_ready(compiled(*args))
      if turn:
        found[name]['seconds'].append(time.process_time() - start)
  for facts in found.values():
    facts['seconds'] = statistics.median(facts['seconds'])
  return found


def measure_compiling(depth=24, tries=3):
  """{plain, adapted: seconds of the processor} to trace and compile a forward pass."""
  encoder, base = make_encoder(depth)
  spec, tokens = make_spec(16), jnp.ones((4, LENGTH), jnp.int32)
  state = adapters.init_adapters(jax.random.key(0), encoder, base, spec, tokens)
  ids, forward, plain = jnp.zeros(4, jnp.int32), adapters.bind(encoder, spec), adapters.bind(encoder, adapters.Spec([]))
  found = {'plain': [], 'adapted': []}
  for _ in range(tries):
    for name, fn, own in (('plain', plain, {}), ('adapted', forward, state)):
      start = time.process_time()
      jax.jit(lambda base, own, fn=fn: fn(base, own, tokens, ctx=Ctx(task_id=ids))[0].pooled).lower(base, own).compile()
      found[name].append(time.process_time() - start)
      jax.clear_caches()
  return {name: statistics.median(seconds) for name, seconds in found.items()}


def main(argv):
  """Measures, prints, writes."""
  del argv
  steps, compiling = measure_steps(_ROUNDS.value), measure_compiling()
  result = {**provenance('experiments.benchmarks.adapters'), 'steps': steps, 'compile_24_layers': compiling,
            'mixed_over_single': steps['16 tasks']['seconds'] / steps['one task']['seconds'],
            'adapted_over_plain_compiling': compiling['adapted'] / compiling['plain']}
  print(json.dumps(result, indent=2))
  if _OUTPUT.value:
    pathlib.Path(_OUTPUT.value).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  app.run(main)
