"""Jitted calls of an aggregator, compiled once an object and without effort at fast code: compiling is what tests cost."""
import functools

import jax
import jax.numpy as jnp
import numpy as np

quick_jit = functools.partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})


@functools.cache
def compiled(tx):
  """A jitted (jac, state, extra arguments) -> (d, w, state)."""
  return quick_jit(lambda jac, state, extra: tx.aggregate(jac, state, **extra))


def aggregate(tx, jac, state=None, **extra):
  """(d, w, state) of stacked gradients, from a fresh state or the one given."""
  if state is None:
    leaves = jax.tree.leaves(jac)
    state = tx.init(jax.tree.map(lambda x: jnp.zeros(x.shape[1:], x.dtype), jac), len(leaves[0]))
  return compiled(tx)(jac, state, extra)


def update(tx, jac, state=None, **extra):
  """The same of one matrix J, with numpy arrays d and w."""
  extra = {name: value if name == 'key' else jnp.asarray(value) for name, value in extra.items()}
  d, w, state = aggregate(tx, {'w': jnp.asarray(jac)}, state, **extra)
  return np.asarray(d['w']), None if w is None else np.asarray(w), state
