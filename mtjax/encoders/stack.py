"""Layers one after the other: as a loop, as a scan over stacked parameters, rematerialised or not.

The three are the same function of the same parameters, dropout included, and the parameters are called block_0,
block_1, … in all of them. The scan stacks them inside the call, so that a layer is compiled once however many there
are; it costs a copy of the parameters and, in the backward pass, of their gradients. Taking the gradients apart again
is compiled too, an operation for each leaf of each layer: on a CPU, where XLA compiles equal layers of a loop quickly,
it eats up what was saved, so that measuring comes before choosing. Rematerialisation (Chen et al.,
"Training Deep Nets with Sublinear Memory Cost", 2016, https://arxiv.org/abs/1604.06174) keeps a layer's input, and of
its inside what the policy names.

In a scan the layers are called apart from the module that owns them: what they sow is lost, and a method interceptor
sees paths without the layer's name, one layer for all. Adapters (`mtjax.adapters`) work all the same, for they are
found by what is in a layer's parameters, which a scan stacks; but all layers must then have the same ones.
"""
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mtjax.parallel import by_rows

# Which results of a layer are kept for the backward pass; the rest is computed again.
POLICIES = {
  'none': None,                                                         # keep all
  'full': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_saveable,                        # of every matrix product
  'dots_no_batch': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,   # of those with parameters
}


def check_remat(module: nn.Module) -> None:
  """Raises ValueError unless module.remat is a bool or the name of a policy."""
  if not isinstance(module.remat, bool) and module.remat not in POLICIES:
    names = ', '.join(map(repr, POLICIES))
    raise ValueError(f'{type(module).__name__} has remat={module.remat!r}; allowed are False, True (full), {names}.')


def layer_keys(module: nn.Module, depth: int, train: bool) -> list[jax.Array | None]:
  """A dropout key for each layer, the same in a loop as in a scan; None where nothing is dropped."""
  if not train or not module.dropout_rate:
    return [None] * depth
  key = module.make_rng('dropout')
  return [jax.random.fold_in(key, i) for i in range(depth)]


def run_blocks(module: nn.Module, blocks: Sequence[nn.Module], x: jax.Array, mask: jax.Array | None = None, *,
               train: bool = False, **facts: Any) -> jax.Array:
  """x through `blocks`, which are alike; to be called inside a compact method of `module`.

  Args:
    module: their owner, with the fields `dropout_rate`, `remat` and, for a scan, `scan`.
    blocks: called as block(x, mask, train=…, key=…, **facts), with the dtype of their output as that of x.
    facts: arrays, or trees of them, that all layers get alike (ctx, segments, positions).
  """
  keys = layer_keys(module, len(blocks), train)
  if not getattr(module, 'scan', False) or module.is_initializing() or len(blocks) < 2:
    for block, key in zip(blocks, keys):
      x = run_block(block, x, mask, remat=module.remat, train=train, key=key, **facts)
    return x
  params = module.variables['params']
  if len({jax.tree.structure(params[block.name]) for block in blocks}) > 1:
    raise ValueError(f'{type(module).__name__} has scan=True, but its layers do not have the same parameters (adapters '
                     f'in some of them alone?); use scan=False.')
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(params[block.name] for block in blocks))
  template = blocks[0].clone(parent=None, name=None)

  def layer(x, own):
    params, key = own
    return by_rows(template.apply({'params': params}, by_rows(x), mask, train=train, key=key, **facts)), None

  policy = _policy(module.remat)
  layer = layer if policy is None else jax.checkpoint(layer, policy=policy, prevent_cse=False)
  return jax.lax.scan(layer, x, (stacked, None if keys[0] is None else jnp.stack(keys)))[0]


def run_block(block: nn.Module, x: jax.Array, mask: jax.Array | None = None, *, train: bool = False,
              remat: bool | str = False, **facts: Any) -> jax.Array:
  """block(x, mask, train=…, **facts); with `remat`, its activations are computed again in the backward pass."""
  def call(block, x, mask, facts):
    return by_rows(block(by_rows(x), mask, train=train, **facts))

  policy = _policy(remat)
  return (call if policy is None else nn.remat(call, policy=policy))(block, x, mask, facts)


def _policy(remat: bool | str):
  return POLICIES[{True: 'full', False: 'none'}.get(remat, remat)]
